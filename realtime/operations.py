"""What operators and backends do to instances and connections, from any process.

Part of the door: ``services`` passes these on. What must not be lost goes by the control stream,
so that an instance which cannot hear it now obeys later; what is only asked is a survey.
"""

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Sequence
from typing import Final

import msgspec
from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError
from django.db import connection
from msgspec import Raw

from realtime import conf, control, instance, reach, registry
from realtime.permissions import check_size
from realtime.protocol import codec
from realtime.protocol.disconnects import CONNECTION_EXPIRED, FORCE_DISCONNECT
from realtime.protocol.errors import BadRequest, BrokerUnavailable, InternalError
from realtime.protocol.messages import ABSENT, StreamPosition
from realtime.publishing import check_text, encoded
from realtime.registry import ConnectionInfo, NodeInfo
from realtime.tokens import Override

PAGE_MAX: Final = 1000  # most that one answer lists
READINESS_SECONDS: Final = 1.5
NOTHING_OVERRIDDEN: Final = Override()
_decode_connections = msgspec.json.Decoder(list[ConnectionInfo]).decode


# What there is ------------------------------------------------------------------------------


async def achannels(pattern: str = "") -> tuple[dict[str, int], list[str]]:
    """Return the channels with subscriptions and their clients, summed over the instances.

    Args:
        pattern: A glob, no longer than a channel's name may be; empty for all.
    Returns:
        Clients by channel, and the uids of the instances that did not answer in time.
    """
    # Every instance reads it, and a long one would take its loop for seconds.
    check_text("pattern", pattern, max_bytes=conf.current().channel_name_max_bytes)
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


async def aconnections(
    *, user: str | None = None, channel: str = "", after: str = "", limit: int = 100
) -> tuple[list[ConnectionInfo], list[str]]:
    """Return connections of all instances, in the order of their clients.

    Args:
        user: Only this user's; empty for the anonymous ones, None for everybody's.
        channel: Only those subscribed to it; empty for any.
        after: Only clients behind this one: the last of the page before.
        limit: Most to return, at most ``PAGE_MAX``.
    Returns:
        The connections, and the uids of the instances that did not answer in time.
    """
    limit = min(limit, PAGE_MAX)
    async with reach.servers() as servers:
        answers, missing = await registry.survey(
            servers, "connections", user=user, channel=channel, after=after, limit=limit
        )
    pages = [_decode_connections(content) for content in answers.values()]
    merged = heapq.merge(*pages, key=lambda each: each.client)
    return list(itertools.islice(merged, limit)), missing


# What is to become of them ------------------------------------------------------------------


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
        whitelist: Clients to keep, at most 1,000.
        code: 3500-3999 and 4500-4999 tell the client not to come back.
        reason: At most 123 bytes.
    Raises:
        BadRequest: A text is too long, or the whitelist.
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


async def adisconnect_client(
    client: str, *, code: int = FORCE_DISCONNECT.code, reason: str = FORCE_DISCONNECT.reason
) -> None:
    """Close one connection, whoever's and on whichever instance it is; see ``adisconnect``."""
    command = control.DisconnectCommand(user=None, code=code, reason=reason, client=client)
    await reach.arun(control.send(command))


async def asubscribe(
    user: str,
    channel: str,
    *,
    client: str = "",
    session: str = "",
    expire_at: int = 0,
    info: object = None,
    data: object = None,
    recover_since: StreamPosition | None = None,
    override: Override = NOTHING_OVERRIDDEN,
) -> None:
    """Subscribe a user's connections to a channel, on every instance; the clients are told.

    It lasts as long as the connection: one that comes back later is not subscribed.

    Args:
        user: Whose; empty for the anonymous ones.
        channel: Nobody's permission is asked.
        client: Only this connection.
        session: Only this session of an emulated transport.
        expire_at: When the subscription ends, in Unix seconds; 0 is never.
        info: What others see of the subscription, any JSON.
        data: What the client is sent with the news, any JSON.
        recover_since: The client gets what was published after this, if the channel recovers.
        override: Channel options that differ for this subscription.
    Raises:
        UnknownChannel: The namespace is not configured.
        BadRequest: No channel, an end in the past, or a payload or text that is not acceptable.
        InternalError: A connection of this process is subscribed already; the others are
            subscribed all the same.
    Source: Centrifugo server API, subscribe.
    """
    check_size(channel)
    (await reach.asnapshot()).options_of(channel)
    if expire_at and expire_at <= time.time():
        raise BadRequest("expire_at is in the past")
    command = control.SubscribeCommand(
        user=user,
        channel=channel,
        client=client,
        session=session,
        expire_at=expire_at,
        info=_payload(info),
        data=_payload(data),
        override=override,
        since=recover_since,
    )
    is_known_here = _is_subscribed_here(user, channel, client=client, session=session)
    await reach.arun(control.send(command))
    if is_known_here:
        raise InternalError("already subscribed")


def _is_subscribed_here(user: str, channel: str, *, client: str, session: str) -> bool:
    running = instance.current()
    if running is None or running.loop is not asyncio.get_running_loop():
        return False
    found = running.connections.find(user, client=client, session=session)
    return any(connection.holds(channel) for connection in found)


def _payload(value: object) -> Raw:
    if value is None:
        return ABSENT
    content = codec.payload(encoded(value))
    if len(content) > conf.current().publication_max_bytes:
        raise BadRequest(f"a payload exceeds {conf.current().publication_max_bytes} bytes")
    return Raw(content)


async def arefresh(
    user: str,
    *,
    client: str = "",
    session: str = "",
    expired: bool = False,
    expire_at: int = 0,
    info: object = None,
) -> None:
    """Give a user's connections another end, on every instance; the clients are told.

    Args:
        user: Whose; empty for the anonymous ones.
        client: Only this connection.
        session: Only this session of an emulated transport.
        expired: Close them now, with 3005.
        expire_at: When they end unless refreshed, in Unix seconds; 0 is never. In the past it
            does what ``expired`` does.
        info: What others see of the connections from now on, any JSON; None leaves it.
    Raises:
        BadRequest: ``info`` is not acceptable, or a text is too long.
    Source: Centrifugo server API, refresh.
    """
    if expired or (expire_at and expire_at <= time.time()):
        code, reason = CONNECTION_EXPIRED
        await adisconnect(user, client=client, session=session, code=code, reason=reason)
        return
    command = control.RefreshCommand(
        user=user, client=client, session=session, expire_at=expire_at, info=_payload(info)
    )
    await reach.arun(control.send(command))


async def aunsubscribe(user: str, channel: str, *, client: str = "", session: str = "") -> None:
    """End a user's subscriptions to a channel on every instance, for good: the client is told.

    Without a channel nothing is done; a text that is too long is a ``BadRequest``.
    """
    if not channel:
        return
    check_size(channel)
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
        try:
            connection.ensure_connection()
        finally:
            connection.close()
    finally:
        _asking_database.release()


_asking_database = threading.Lock()
