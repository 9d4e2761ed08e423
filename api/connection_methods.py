"""What the server API does to connections: subscribe, unsubscribe, refresh, disconnect.

Called through the table of ``methods.py``; the rules of that module hold here too. Nobody needs to
be connected for a call to succeed.
"""

from typing import Final

import msgspec

from api.auth import Caller
from api.payloads import payload
from api.schemas import (
    DisconnectReason,
    DisconnectRequest,
    RefreshRequest,
    SincePosition,
    SubscribeRequest,
    UnsubscribeRequest,
)
from realtime import services
from realtime.protocol.disconnects import FORCE_DISCONNECT, Disconnect
from realtime.protocol.errors import BadRequest
from realtime.protocol.messages import Empty, StreamPosition, is_absent
from realtime.protocol.websocket import REASON_MAX_BYTES
from realtime.tokens import Override

# What a WebSocket close frame may carry for an application, RFC 6455 section 7.4.2.
CLOSE_CODES: Final = range(3000, 5000)


async def subscribe(request: SubscribeRequest, caller: Caller) -> Empty:
    """Subscribe a user's connections to a channel, on all instances, by the server's own will."""
    channel = request.channel or ""
    caller.require("subscribe", channel)
    info = payload(request.info, request.b64info, "b64info")
    data = payload(request.data, request.b64data, "b64data")
    await services.asubscribe(
        request.user or "",
        channel,
        client=request.client or "",
        session=request.session or "",
        expire_at=request.expire_at or 0,
        info=None if is_absent(info) else info,
        data=None if is_absent(data) else data,
        recover_since=_position(request.recover_since),
        override=Override.of(request.override),
    )
    return Empty()


def _position(since: SincePosition | None) -> StreamPosition | None:
    return None if since is None else StreamPosition(since.offset or 0, since.epoch or "")


async def unsubscribe(request: UnsubscribeRequest, caller: Caller) -> Empty:
    """End a user's subscription to a channel, on all instances; without a channel nothing."""
    channel = request.channel or ""
    caller.require("unsubscribe", channel)
    if channel:
        (await services.asnapshot()).options_of(channel)
        await services.aunsubscribe(
            request.user or "",
            channel,
            client=request.client or "",
            session=request.session or "",
        )
    return Empty()


async def refresh(request: RefreshRequest, caller: Caller) -> Empty:
    """Give a user's connections another end, on all instances, or end them now."""
    caller.require("refresh")
    await services.arefresh(
        request.user or "",
        client=request.client or "",
        session=request.session or "",
        expired=bool(request.expired),
        expire_at=request.expire_at or 0,
        info=None if is_absent(request.info) else request.info,
    )
    return Empty()


async def disconnect(request: DisconnectRequest, caller: Caller) -> Empty:
    """Close a user's connections, on all instances."""
    caller.require("disconnect")
    asked = request.disconnect or DisconnectReason()
    close = close_of(asked.code or 0, asked.reason or "")
    await services.adisconnect(
        request.user or "",
        client=request.client or "",
        session=request.session or "",
        whitelist=request.whitelist or [],
        code=close.code,
        reason=close.reason,
    )
    return Empty()


def close_of(code: int, reason: str) -> Disconnect:
    """Return how connections are to be closed; without a code as *force disconnect*.

    Raises:
        BadRequest: No close frame can carry it, centrifuge-js would misread it, or a reason
            comes without a code.
    """
    if not code and not reason:
        return FORCE_DISCONNECT
    # Without a reason centrifuge-js would take a terminal code for one to reconnect after.
    reason = reason or FORCE_DISCONNECT.reason
    if code not in CLOSE_CODES:
        raise BadRequest(f"code {code} is not in 3000-4999")
    if len(reason.encode()) > REASON_MAX_BYTES:
        raise BadRequest(f"reason exceeds {REASON_MAX_BYTES} bytes")
    if _is_json(reason):
        raise BadRequest("reason is JSON, which centrifuge-js would read as advice")
    return Disconnect(code, reason)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
