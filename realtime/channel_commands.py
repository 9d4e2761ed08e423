"""What a client may do with a channel besides subscribing: publish, read history and presence.

Called by the handlers of its commands.
"""

from realtime import conf
from realtime.instance import Instance
from realtime.permissions import may_publish, may_read_history, may_read_presence
from realtime.protocol import codec
from realtime.protocol.errors import (
    BadRequest,
    NotAvailable,
    PermissionDenied,
    UnrecoverablePosition,
)
from realtime.protocol.messages import (
    UINT64_MAX,
    HistoryRequest,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    Publication,
    PublishRequest,
    StreamPosition,
)
from realtime.recovery import History
from realtime.snapshot import ChannelOptions


def check_publish(options: ChannelOptions, user: str, *, is_subscribed: bool) -> None:
    """Refuse who may not publish to a channel.

    Source: Centrifugo client protocol, publish.
    """
    insecure = conf.current().insecure
    if not may_publish(options, user, is_subscribed=is_subscribed, insecure=insecure):
        raise PermissionDenied


def check_type(request: PublishRequest) -> None:
    """Refuse a publication of another type than streams have."""
    if request.type:
        raise BadRequest("not a publication type of this namespace")


async def history(
    instance: Instance,
    options: ChannelOptions,
    request: HistoryRequest,
    user: str,
    *,
    is_subscribed: bool,
) -> HistoryResult:
    """Return a part of the stream, at most ``history_max_publications``.

    Source: Centrifugo client protocol, history.
    """
    if not options.has_history:
        raise NotAvailable
    insecure = conf.current().insecure
    if not may_read_history(options, user, is_subscribed=is_subscribed, insecure=insecure):
        raise PermissionDenied
    since = None
    if request.since is not None:
        since = StreamPosition(request.since.offset or 0, request.since.epoch or "")
    limit, limit_max = request.limit or 0, conf.current().history_max_publications
    if not 0 <= limit <= limit_max:
        limit = limit_max
    return await read_history(
        instance, request.channel or "", since=since, limit=limit, reverse=bool(request.reverse)
    )


async def read_history(
    instance: Instance, channel: str, *, since: StreamPosition | None, limit: int, reverse: bool
) -> HistoryResult:
    """Return a part of the stream, with its top.

    Raises:
        BadRequest: ``reverse`` from before the first offset.
        UnrecoverablePosition: ``since`` is of another epoch.
    """
    if reverse and since is not None and since.offset == 0:
        raise BadRequest("reverse from offset 0")
    if since is not None and since.offset > UINT64_MAX:
        raise BadRequest("offset exceeds 64 bits")
    read = await instance.broker.history(channel, since=since, limit=limit, reverse=reverse)
    if since is not None and not read.knows(since):
        raise UnrecoverablePosition
    return HistoryResult(_fitting(read), read.position.offset, read.position.epoch)


def _fitting(read: History) -> list[Publication]:
    """Return as many publications as leave half of a connection's queue free, at least one.

    A reply that filled the queue would have the next frame close the connection as slow. The
    client asks for the rest from the last offset it got.
    """
    left_bytes = conf.current().queue_max_bytes // 2
    fitting: list[Publication] = []
    for publication in read.publications:
        left_bytes -= codec.encoded_size(publication)
        if left_bytes < 0 and fitting:
            break
        fitting.append(publication)
    return fitting


def check_presence(options: ChannelOptions, user: str, *, is_subscribed: bool) -> None:
    """Refuse who may not see a channel's presence.

    Source: Centrifugo client protocol, presence.
    """
    if not options.presence:
        raise NotAvailable
    insecure = conf.current().insecure
    if not may_read_presence(options, user, is_subscribed=is_subscribed, insecure=insecure):
        raise PermissionDenied


async def presence(instance: Instance, channel: str) -> PresenceResult:
    """Return who is subscribed, on all instances."""
    return PresenceResult(await instance.presence.members(channel))


async def presence_stats(instance: Instance, channel: str) -> PresenceStatsResult:
    """Return how many are subscribed, on all instances."""
    return await instance.presence.stats(channel)
