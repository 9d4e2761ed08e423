"""What each method of the server API does: from a request of ``schemas.py`` to a result.

Called by ``commands.py`` and ``batch.py``. What is done to connections stands in
``connection_methods.py``. A method checks the caller's scopes first; a channel's regex, its private
prefix and the permissions of clients are not looked at, because a key stands above them.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from msgspec import Raw, Struct

from api import connection_methods
from api.auth import Caller
from api.payloads import payload
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
    COMMANDS_MAX,
    BroadcastRequest,
    ChannelRequest,
    ChannelsRequest,
    DisconnectRequest,
    HistoryRequest,
    InfoRequest,
    PayloadRequest,
    PublishRequest,
    RefreshRequest,
    RPCRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)
from realtime import services
from realtime.protocol.errors import BadRequest, MethodNotFound, ProtocolError
from realtime.protocol.messages import (
    Empty,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    StreamPosition,
    is_absent,
)
from realtime.services import PLAIN, PublishItem, PublishOptions


class NotFound(MethodNotFound):
    """No such method; the API words it otherwise than the client protocol."""

    message = "not found"


# Publishing -----------------------------------------------------------------------------------


async def publish(request: PublishRequest, caller: Caller) -> PublishResult:
    """Publish; stored when this returns, if the channel has history."""
    position = await services.apublish_item(publish_item(request, caller))
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
    if len(request.channels) > COMMANDS_MAX:
        raise BadRequest(f"channels are more than {COMMANDS_MAX}")
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
    """Publish what is not an error yet; outcomes are in the order given."""
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
    data = payload(request.data, request.b64data, "b64data")
    if is_absent(data):
        raise BadRequest("no data")
    return data


def _options(request: PayloadRequest) -> PublishOptions:
    if not (
        request.skip_history
        or request.tags
        or request.idempotency_key
        or request.version
        or request.version_epoch
    ):
        return PLAIN
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


async def rpc(request: RPCRequest, caller: Caller) -> Empty:
    """Refuse a call: no extension of the server exists.

    Raises:
        BadRequest: No method is named.
        NotFound: Otherwise.
    """
    caller.require("rpc")
    if not request.method:
        raise BadRequest("no method")
    raise NotFound(request.method)


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
    "rpc": Method(RPCRequest, rpc),
    "subscribe": Method(SubscribeRequest, connection_methods.subscribe),
    "unsubscribe": Method(UnsubscribeRequest, connection_methods.unsubscribe),
    "refresh": Method(RefreshRequest, connection_methods.refresh),
    "disconnect": Method(DisconnectRequest, connection_methods.disconnect),
}
