"""The door for Python code: publish, read and end things, from any process.

``publish`` and its like without a prefix are synchronous and work in views, commands and threads,
in a process that runs no instance as well; those with an ``a`` are for coroutines. Nobody's
permission is asked here: who calls this is trusted.
"""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError
from django.db import connection, transaction

from realtime import control, instance, presence, reach, registry
from realtime.broker import acts
from realtime.broker.acts import Published
from realtime.permissions import check_size
from realtime.protocol.disconnects import FORCE_DISCONNECT
from realtime.protocol.errors import (
    BadRequest,
    BrokerUnavailable,
    NotAvailable,
    ProtocolError,
    UnrecoverablePosition,
)
from realtime.protocol.messages import (
    ClientInfo,
    HistoryResult,
    PresenceStatsResult,
    StreamPosition,
)
from realtime.publishing import PLAIN, encoded, prepare
from realtime.publishing import PublishOptions as PublishOptions  # part of the door
from realtime.reach import asnapshot as asnapshot
from realtime.reach import snapshot as snapshot
from realtime.redis_act import Act
from realtime.registry import NodeInfo
from realtime.snapshot import ChannelOptions, Snapshot

READINESS_SECONDS: Final = 1.5


@dataclass(frozen=True, slots=True)
class PublishItem:
    """One of several publications."""

    channel: str
    data: object
    options: PublishOptions = PLAIN


# Publish ------------------------------------------------------------------------------------


def publish(
    channel: str,
    data: object,
    *,
    skip_history: bool = False,
    tags: dict[str, str] | None = None,
    idempotency_key: str = "",
    version: int = 0,
    version_epoch: str = "",
) -> StreamPosition:
    """Publish to everybody subscribed to a channel, on every instance.

    Args:
        channel: Its namespace must be configured.
        data: Anything with a JSON form; ``msgspec.Raw`` is taken as JSON already.
        skip_history: Do not keep it; it gets no offset.
        tags: Texts that travel with it.
        idempotency_key: At most 256 bytes; a repeat within five minutes publishes nothing and
            returns the first one's position.
        version: Above 0, dropped unless newer than the channel's last version.
        version_epoch: Versions compare only within one.
    Returns:
        Where it is in the stream; ``(0, "")`` if the channel keeps none.
    Raises:
        UnknownChannel: The namespace is not configured.
        BadRequest: The data or an option is not acceptable.
        BrokerUnavailable: Redis did not answer within ``broker_timeout_seconds``; whether it was
            published is not known. Repeat it with the same idempotency key.
    """
    options = PublishOptions(skip_history, tags, idempotency_key, version, version_epoch)
    act = _publish_act(snapshot(), PublishItem(channel, data, options))
    return reach.run(act).position


async def apublish(
    channel: str,
    data: object,
    *,
    skip_history: bool = False,
    tags: dict[str, str] | None = None,
    idempotency_key: str = "",
    version: int = 0,
    version_epoch: str = "",
) -> StreamPosition:
    """Do what ``publish`` does, in a coroutine."""
    options = PublishOptions(skip_history, tags, idempotency_key, version, version_epoch)
    act = _publish_act(await asnapshot(), PublishItem(channel, data, options))
    return (await reach.arun(act)).position


def publish_on_commit(
    channel: str,
    data: object,
    *,
    skip_history: bool = False,
    tags: dict[str, str] | None = None,
    idempotency_key: str = "",
    version: int = 0,
    version_epoch: str = "",
) -> None:
    """Publish once the database transaction has been committed; not at all if it is rolled back.

    What is wrong with the data or the channel is raised now, not after the commit. Where Redis
    does not answer, the commit stands and the error is logged by Django.
    """
    options = PublishOptions(skip_history, tags, idempotency_key, version, version_epoch)
    act = _publish_act(snapshot(), PublishItem(channel, data, options))

    def publish_now() -> None:  # a partial has no name for Django to log
        reach.run(act)

    transaction.on_commit(publish_now, robust=True)


async def apublish_many(items: Sequence[PublishItem]) -> list[StreamPosition | ProtocolError]:
    """Publish several in one round trip a server, in order; each has its own outcome."""
    known = await asnapshot()
    outcomes: list[StreamPosition | ProtocolError] = []
    prepared: list[tuple[int, Act[Published]]] = []
    for item in items:
        try:
            prepared.append((len(outcomes), _publish_act(known, item)))
            outcomes.append(StreamPosition())
        except ProtocolError as error:
            outcomes.append(error)
    async with reach.servers() as servers:
        published = await servers.run_many([act for _, act in prepared])
    for (index, _), outcome in zip(prepared, published, strict=True):
        outcomes[index] = outcome if isinstance(outcome, BrokerUnavailable) else outcome.position
    return outcomes


def _publish_act(known: Snapshot, item: PublishItem) -> Act[Published]:
    namespace = _options(known, item.channel)
    return prepare(item.channel, encoded(item.data), namespace, options=item.options)


def _options(known: Snapshot, channel: str) -> ChannelOptions:
    check_size(channel)
    return known.options_of(channel)


# History and presence -----------------------------------------------------------------------


async def ahistory(
    channel: str, *, limit: int = 0, since: StreamPosition | None = None, reverse: bool = False
) -> HistoryResult:
    """Return a part of a channel's stream, with its top.

    Args:
        channel: Its namespace keeps history.
        limit: Most publications; 0 for the position alone, below 0 for all.
        since: Those after it; with ``reverse`` those before it. None starts at the end.
        reverse: Newest first.
    Raises:
        NotAvailable: The channel keeps no history.
        UnrecoverablePosition: ``since`` is of another epoch.
    """
    if not _options(await asnapshot(), channel).has_history:
        raise NotAvailable
    if reverse and since is not None and since.offset == 0:
        raise BadRequest("reverse from offset 0")
    act = acts.history(channel, since=since, limit=limit, reverse=reverse)
    read = await reach.arun(act)
    if since is not None and not read.knows(since):
        raise UnrecoverablePosition
    return HistoryResult(list(read.publications), read.position.offset, read.position.epoch)


async def ahistory_remove(channel: str) -> None:
    """Drop a channel's publications; its offset and epoch stay."""
    if not _options(await asnapshot(), channel).has_history:
        raise NotAvailable
    await reach.arun(acts.remove(channel))


async def apresence(channel: str) -> dict[str, ClientInfo]:
    """Return who is subscribed to a channel, by client."""
    _check_presence(await asnapshot(), channel)
    return await reach.arun(presence.members(channel))


async def apresence_stats(channel: str) -> PresenceStatsResult:
    """Return how many clients and users are subscribed to a channel."""
    _check_presence(await asnapshot(), channel)
    return await reach.arun(presence.stats(channel))


def _check_presence(known: Snapshot, channel: str) -> None:
    if not _options(known, channel).presence:
        raise NotAvailable


# Instances and connections ------------------------------------------------------------------


async def achannels(pattern: str = "") -> tuple[dict[str, int], list[str]]:
    """Return the channels with subscriptions and their clients, summed over the instances.

    Args:
        pattern: A glob; empty for all.
    Returns:
        Clients by channel, and the uids of the instances that did not answer in time.
    """
    async with reach.servers() as servers:
        answers, missing = await registry.survey(servers, "channels", pattern=pattern)
    counts: dict[str, int] = {}
    for content in answers.values():
        for name, count in msgspec.json.decode(content, type=dict[str, int]).items():
            counts[name] = counts.get(name, 0) + count
    return counts, missing


async def ainfo() -> tuple[list[NodeInfo], list[str]]:
    """Return every instance's figures, and the uids of those that did not answer in time."""
    async with reach.servers() as servers:
        answers, missing = await registry.survey(servers, "info")
    nodes = [msgspec.json.decode(content, type=NodeInfo) for content in answers.values()]
    return sorted(nodes, key=lambda node: node.name), missing


async def adisconnect(
    user: str,
    *,
    client: str = "",
    session: str = "",
    whitelist: Sequence[str] = (),
    code: int = FORCE_DISCONNECT.code,
    reason: str = FORCE_DISCONNECT.reason,
) -> None:
    """Close a user's connections on every instance, also on one that cannot hear it now.

    Args:
        user: Whose; empty for the anonymous ones.
        client: Only this connection.
        session: Only this session of an emulated transport.
        whitelist: Clients to keep.
        code: 3500-3999 and 4500-4999 tell the client not to come back.
        reason: At most 123 bytes.
    """
    command = control.DisconnectCommand(
        user=user,
        code=code,
        reason=reason,
        client=client,
        session=session,
        whitelist=list(whitelist),
    )
    await reach.arun(control.send(command))


async def aunsubscribe(user: str, channel: str, *, client: str = "", session: str = "") -> None:
    """End a user's subscriptions to a channel on every instance, for good: the client is told."""
    command = control.UnsubscribeCommand(user=user, channel=channel, client=client, session=session)
    await reach.arun(control.send(command))


# Readiness ----------------------------------------------------------------------------------


async def areadiness() -> dict[str, str]:
    """Return each thing that this process needs to serve, with ``ok`` or what is wrong."""
    running = instance.current()
    redis_state, database_state = await asyncio.gather(_redis_state(), _database_state())
    if running is None:
        return {"redis": redis_state, "layer": "ok", "database": database_state, "draining": "ok"}
    has_failed = running.failure is not None
    return {
        "redis": redis_state,
        "layer": "ok" if running.layer.is_linked else "the subscription link is down",
        "control": "ok" if running.hears_control else "the control stream has not been found yet",
        "database": "ok" if running.snapshot is not None else database_state,
        "draining": "draining" if running.is_draining else "ok",
        "instance": "a background loop has failed" if has_failed else "ok",
    }


async def _redis_state() -> str:
    try:
        async with reach.servers() as servers:
            await servers.ping()
    except BrokerUnavailable:
        return "Redis does not answer"
    return "ok"


async def _database_state() -> str:
    try:
        async with asyncio.timeout(READINESS_SECONDS):
            await sync_to_async(_ask_database, thread_sensitive=False)()
    except (DatabaseError, TimeoutError):
        return "the database does not answer"
    return "ok"


def _ask_database() -> None:
    # One at a time: probes of a database that hangs must not fill the pool of threads.
    if not _asking_database.acquire(timeout=READINESS_SECONDS):
        raise DatabaseError("the last question has not been answered")
    try:
        connection.ensure_connection()
    finally:
        connection.close()
        _asking_database.release()


_asking_database = threading.Lock()
