"""How code in any process reaches Redis, the configuration and the channel rules.

Used by ``services``. Where the process runs an instance, its connections and its snapshot are
used; elsewhere this module keeps its own, one set for a process.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError

from realtime import conf, instance
from realtime import snapshot as snapshots
from realtime.decisions import Decisions
from realtime.protocol.errors import InternalError
from realtime.redis_act import Act, T
from realtime.redis_client import RedisServers, SyncRedisServers, hosts
from realtime.snapshot import Snapshot


class _PolledSnapshot:
    """The snapshot of a process that runs no instance, as fresh as an instance's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._read_at = 0.0

    def get(self) -> Snapshot:
        """Return it, read anew if it is a second old and was changed."""
        with self._lock:
            now = time.monotonic()
            is_fresh = now - self._read_at < conf.current().snapshot_poll_seconds
            if self._snapshot is None or not is_fresh:
                self._snapshot = snapshots.load_if_changed(self._snapshot)
                self._read_at = now
            return self._snapshot


_polled = _PolledSnapshot()


def snapshot() -> Snapshot:
    """Return the namespaces and API keys, at most a second old.

    Raises:
        django.db.Error: No instance runs here, and the database did not answer.
    """
    running = instance.current()
    if running is not None and running.snapshot is not None:
        return running.snapshot
    return _polled.get()


def is_served_here() -> bool:
    """Tell whether the running event loop has an instance: then nothing here asks the database."""
    return _running_here() is not None


def _running_here() -> instance.Instance | None:
    running = instance.current()
    if running is not None and running.loop is asyncio.get_running_loop():
        return running
    return None


async def asnapshot() -> Snapshot:
    """Do what ``snapshot`` does, in a coroutine.

    Raises:
        InternalError: The database did not answer in time.
    """
    running = _running_here()
    if running is not None:
        if running.snapshot is None:  # it asks by itself, and does not wait
            raise InternalError("the database has not answered yet")
        return running.snapshot
    try:
        async with asyncio.timeout(conf.current().broker_timeout_seconds):
            return await sync_to_async(_polled.get)()
    except (DatabaseError, TimeoutError) as error:
        raise InternalError("the database did not answer") from error


async def amay_subscribe(user: str, channel: str) -> bool | None:
    """Tell whether the rule of a channel lets a user subscribe; None where it has no rule.

    Raises:
        InternalError: The rule gave no answer.
    """
    running = _running_here()
    if running is not None:
        allow = await running.rules.ask(user, channel)
    else:
        allow = await Decisions().ask(user, channel)
    return allow.subscribe if allow is not None else None


@asynccontextmanager
async def servers() -> AsyncIterator[RedisServers]:
    """Give the instance's servers, or ones of its own to a loop that runs no instance."""
    running = _running_here()
    if running is not None:
        yield running.servers
        return
    own = RedisServers()
    try:
        yield own
    finally:
        await own.close()


async def arun(act: Act[T]) -> T:
    """Carry out an act in a coroutine.

    Raises:
        BrokerUnavailable: No answer in time; whether it was done is not known.
    """
    async with servers() as reached:
        return await reached.run(act)


_sync_servers: dict[tuple[str, ...], SyncRedisServers] = {}
_sync_lock = threading.Lock()


def run(act: Act[T]) -> T:
    """Carry out an act in a thread; see ``arun``."""
    addresses = tuple(str(host["address"]) for host in hosts())
    with _sync_lock:
        own = _sync_servers.get(addresses)
        if own is None:
            own = _sync_servers[addresses] = SyncRedisServers()
    return own.run(act)
