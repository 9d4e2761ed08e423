"""What each method of the server API does: from a request of ``schemas.py`` to a result.

Called by ``commands.py`` for single calls and for the commands of a batch. A method checks the
caller's scopes first; a channel's regex, its private prefix and the permissions of clients are
not looked at, because a key stands above them.
"""

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw, Struct

from api.auth import Caller
from api.results import (
    BroadcastResponse,
    BroadcastResult,
    ChannelCount,
    ChannelsResult,
    InfoResult,
    PublishResult,
    error_body,
)
from api.schemas import (
    BroadcastRequest,
    ChannelRequest,
    ChannelsRequest,
    DisconnectReason,
    DisconnectRequest,
    HistoryRequest,
    InfoRequest,
    PayloadRequest,
    PublishRequest,
    UnsubscribeRequest,
)
from realtime import services
from realtime.protocol.disconnects import FORCE_DISCONNECT, Disconnect
from realtime.protocol.errors import BadRequest, ProtocolError
from realtime.protocol.messages import (
    Empty,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    StreamPosition,
    is_absent,
)
from realtime.protocol.websocket import REASON_MAX_BYTES
from realtime.services import PublishItem, PublishOptions

# What a WebSocket close frame may carry for an application, RFC 6455 section 7.4.2.
_CLOSE_CODES: Final = range(3000, 5000)


# Publishing -----------------------------------------------------------------------------------


async def publish(request: PublishRequest, caller: Caller) -> PublishResult:
    """Publish; stored when this returns, if the channel has history."""
    item = publish_item(request, caller)
    options = item.options
    position = await services.apublish(
        item.channel,
        item.data,
        skip_history=options.skip_history,
        tags=options.tags,
        idempotency_key=options.idempotency_key,
        version=options.version,
        version_epoch=options.version_epoch,
    )
    return PublishResult(position.offset, position.epoch)


def publish_item(request: PublishRequest, caller: Caller) -> PublishItem:
    """Return what a publish asks for.

    Raises:
        PermissionDenied: The caller's scopes do not cover it.
        BadRequest: No data, or data that is not base64.
    """
    channel = request.channel or ""
    caller.require("publish", channel)
    return PublishItem(channel, _payload(request), _options(request))


async def broadcast(request: BroadcastRequest, caller: Caller) -> BroadcastResult:
    """Publish the same into several channels; one that fails leaves the others alone."""
    caller.require_some("broadcast")
    if not request.channels:
        raise BadRequest("no channels")
    payload, options = _payload(request), _options(request)
    items = [_broadcast_item(channel, payload, options, caller) for channel in request.channels]
    outcomes = await publish_items(items)
    return BroadcastResult(
        [
            BroadcastResponse(error=error_body(outcome))
            if isinstance(outcome, ProtocolError)
            else BroadcastResponse(result=outcome)
            for outcome in outcomes
        ]
    )


def _broadcast_item(
    channel: str, payload: Raw, options: PublishOptions, caller: Caller
) -> PublishItem | ProtocolError:
    try:
        caller.require("broadcast", channel)
        return PublishItem(channel, payload, options)
    except ProtocolError as error:
        return error


async def publish_items(
    items: Sequence[PublishItem | ProtocolError],
) -> list[PublishResult | ProtocolError]:
    """Publish in one round trip what is not an error yet; outcomes are in the order given."""
    good = [item for item in items if not isinstance(item, ProtocolError)]
    positions = iter(await services.apublish_many(good) if good else ())
    return [
        item if isinstance(item, ProtocolError) else _publish_result(next(positions))
        for item in items
    ]


def _publish_result(position: StreamPosition | ProtocolError) -> PublishResult | ProtocolError:
    if isinstance(position, ProtocolError):
        return position
    return PublishResult(position.offset, position.epoch)


def _payload(request: PayloadRequest) -> Raw:
    data = request.data
    if request.b64data:
        try:
            data = Raw(base64.b64decode(request.b64data, validate=True))
        except ValueError as error:
            raise BadRequest("b64data is not base64") from error
    if is_absent(data):
        raise BadRequest("no data")
    return data


def _options(request: PayloadRequest) -> PublishOptions:
    return PublishOptions(
        skip_history=bool(request.skip_history),
        tags=request.tags,
        idempotency_key=request.idempotency_key or "",
        version=request.version or 0,
        version_epoch=request.version_epoch or "",
    )


# Reading --------------------------------------------------------------------------------------


async def history(request: HistoryRequest, caller: Caller) -> HistoryResult:
    """Return a part of the stream, and its top."""
    channel = request.channel or ""
    caller.require("history", channel)
    since = request.since
    return await services.ahistory(
        channel,
        limit=request.limit or 0,
        since=None if since is None else StreamPosition(since.offset or 0, since.epoch or ""),
        reverse=bool(request.reverse),
    )


async def history_remove(request: ChannelRequest, caller: Caller) -> Empty:
    """Drop the publications of a stream; its position stays."""
    channel = request.channel or ""
    caller.require("history_remove", channel)
    await services.ahistory_remove(channel)
    return Empty()


async def presence(request: ChannelRequest, caller: Caller) -> PresenceResult:
    """Return who is subscribed, on all instances."""
    channel = request.channel or ""
    caller.require("presence", channel)
    return PresenceResult(await services.apresence(channel))


async def presence_stats(request: ChannelRequest, caller: Caller) -> PresenceStatsResult:
    """Return how many connections and users are subscribed, on all instances."""
    channel = request.channel or ""
    caller.require("presence_stats", channel)
    return await services.apresence_stats(channel)


async def channels(request: ChannelsRequest, caller: Caller) -> ChannelsResult:
    """Return the channels that somebody is subscribed to."""
    caller.require("channels")
    counts, unanswered = await services.achannels(request.pattern or "")
    counted = {channel: ChannelCount(count) for channel, count in counts.items()}
    return ChannelsResult(counted, unanswered)


async def info(_request: InfoRequest, caller: Caller) -> InfoResult:
    """Return how the instances are."""
    caller.require("info")
    return InfoResult(*await services.ainfo())


# Ending ---------------------------------------------------------------------------------------


async def disconnect(request: DisconnectRequest, caller: Caller) -> Empty:
    """Close a user's connections, on all instances."""
    caller.require("disconnect")
    code, reason = _disconnect(request.disconnect)
    await services.adisconnect(
        request.user or "",
        client=request.client or "",
        session=request.session or "",
        whitelist=request.whitelist or [],
        code=code,
        reason=reason,
    )
    return Empty()


def _disconnect(asked: DisconnectReason | None) -> Disconnect:
    if asked is None or not asked.code:
        return FORCE_DISCONNECT
    # Without a reason centrifuge-js would take a terminal code for one to reconnect after.
    reason = asked.reason or FORCE_DISCONNECT.reason
    if asked.code not in _CLOSE_CODES:
        raise BadRequest(f"close code {asked.code} is not in 3000-4999")
    if len(reason.encode()) > REASON_MAX_BYTES:
        raise BadRequest(f"reason exceeds {REASON_MAX_BYTES} bytes")
    if _is_json(reason):
        raise BadRequest("reason is JSON, which centrifuge-js would read as advice")
    return Disconnect(asked.code, reason)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


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


# The table ------------------------------------------------------------------------------------


class Method(NamedTuple):
    """A method: the form of its request, and what it does."""

    request_type: type[Struct]
    perform: Callable[[Any, Caller], Awaitable[Struct]]


METHODS: Final[dict[str, Method]] = {
    "publish": Method(PublishRequest, publish),
    "broadcast": Method(BroadcastRequest, broadcast),
    "history": Method(HistoryRequest, history),
    "history_remove": Method(ChannelRequest, history_remove),
    "presence": Method(ChannelRequest, presence),
    "presence_stats": Method(ChannelRequest, presence_stats),
    "channels": Method(ChannelsRequest, channels),
    "info": Method(InfoRequest, info),
    "disconnect": Method(DisconnectRequest, disconnect),
    "unsubscribe": Method(UnsubscribeRequest, unsubscribe),
}
