"""The door for Python code: publish, read and end things, from any process.

``publish`` and its like without a prefix are synchronous and work in views, commands and threads,
in a process that runs no instance as well; those with an ``a`` are for coroutines. Nobody's
permission is asked here: who calls this is trusted.
"""

import asyncio
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from asgiref.sync import sync_to_async
from django.db import transaction
from django.db.models import Model

from realtime import presence, reach
from realtime.broker import acts
from realtime.broker.acts import Published
from realtime.decision_signals import forget_decisions as forget_decisions
from realtime.lease import Lease as Lease
from realtime.operations import PAGE_MAX as PAGE_MAX  # part of the door, as those below
from realtime.operations import achannels as achannels
from realtime.operations import aconnections as aconnections
from realtime.operations import adisconnect as adisconnect
from realtime.operations import adisconnect_client as adisconnect_client
from realtime.operations import ainfo as ainfo
from realtime.operations import areadiness as areadiness
from realtime.operations import arefresh as arefresh
from realtime.operations import asubscribe as asubscribe
from realtime.operations import aunsubscribe as aunsubscribe
from realtime.permissions import check_size
from realtime.protocol.errors import (
    BadRequest,
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
from realtime.publishing import IDEMPOTENCY_KEY_MAX_BYTES as IDEMPOTENCY_KEY_MAX_BYTES
from realtime.publishing import PLAIN as PLAIN
from realtime.publishing import PublishOptions as PublishOptions
from realtime.publishing import act_of, body_of, encoded, prepare
from realtime.reach import amay_subscribe as amay_subscribe
from realtime.reach import asnapshot as asnapshot
from realtime.reach import is_served_here as is_served_here
from realtime.reach import snapshot as snapshot
from realtime.redis_act import Act
from realtime.registry import ConnectionInfo as ConnectionInfo
from realtime.registry import NodeInfo as NodeInfo
from realtime.sharing import agive_back_leases as agive_back_leases
from realtime.sharing import akeep as akeep
from realtime.sharing import atake_lease as atake_lease
from realtime.sharing import awatched as awatched
from realtime.snapshot import ChannelOptions, Snapshot

PREPARE_SLICE: Final = 200  # so many publications are prepared before others have their turn


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
    return await apublish_item(PublishItem(channel, data, options))


async def apublish_item(item: PublishItem) -> StreamPosition:
    """Do what ``publish`` does, in a coroutine, for who has put everything together."""
    return (await reach.arun(_publish_act(await asnapshot(), item))).position


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
    """Publish several, those of a server in order; each has its own outcome.

    A server gets 1,000 at a time; after a time without an answer it is not asked for the rest, and
    these have ``BrokerUnavailable`` for their outcomes as well.
    """
    prepared = await _publish_acts(await asnapshot(), items)
    async with reach.servers() as servers:
        published = iter(await servers.run_many([act for act in prepared if isinstance(act, Act)]))
    outcomes: list[StreamPosition | ProtocolError] = []
    for act in prepared:
        outcome = next(published) if isinstance(act, Act) else act
        outcomes.append(outcome.position if isinstance(outcome, Published) else outcome)
    return outcomes


async def _publish_acts(
    known: Snapshot, items: Sequence[PublishItem]
) -> list[Act[Published] | ProtocolError]:
    prepared: list[Act[Published] | ProtocolError] = []
    last: tuple[object, ...] = ()
    body = b""
    for index, item in enumerate(items, 1):
        if index % PREPARE_SLICE == 0:
            await asyncio.sleep(0)
        try:
            namespace = _options(known, item.channel)
            this = (item.data, item.options, namespace)
            # The same for many channels is checked and encoded once.
            if not (last and all(map(operator.is_, this, last))):
                last = ()
                body = body_of(encoded(item.data), namespace, options=item.options)
                last = this
            prepared.append(act_of(item.channel, body, namespace, options=item.options))
        except ProtocolError as error:
            prepared.append(error)
    return prepared


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


# Channel rules ------------------------------------------------------------------------------


async def aforget_decisions(user: str = "", *, model: type[Model] | None = None) -> None:
    """Do what ``forget_decisions`` does, in a coroutine."""
    await sync_to_async(forget_decisions)(user, model=model)
