"""One server process: builds its parts and runs its background loops.

``serve`` starts it before it listens; elsewhere the first connection of an event loop does.
``current()`` is the only global.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.db import Error as DatabaseError
from django.db import close_old_connections

from realtime import answering, conf, demo, hooks, registry, snapshot, threads
from realtime.access import AccessWatch
from realtime.broker.broker import Broker
from realtime.broker.reads import SharedReads
from realtime.calls import Calls
from realtime.connections import ConnectionTable
from realtime.control import ControlReader
from realtime.decisions import Decisions
from realtime.hub import CHECK_TICK_SECONDS, Hub
from realtime.lag import LagMonitor
from realtime.layers import HeliographChannelLayer
from realtime.presence import Presence
from realtime.protocol.disconnects import SHUTDOWN
from realtime.protocol.errors import InternalError
from realtime.redis_client import RedisServers
from realtime.report import Report
from realtime.snapshot import ChannelOptions, Snapshot
from realtime.tasks import TaskOwner
from realtime.token_verifier import TokenVerifier
from realtime.walks import Walks

logger = logging.getLogger(__name__)


class Instance:
    """The parts of one process, on one event loop.

    Attributes:
        snapshot: Namespaces and keys as last read; None until the database has answered.
        is_draining: Whether it takes no new connections because it is about to end.
    """

    def __init__(self) -> None:
        answering.check()
        settings = conf.current()
        layer = get_channel_layer()
        assert isinstance(layer, HeliographChannelLayer), "a system check has said so"
        self.uid = str(uuid.uuid4())
        self.loop = asyncio.get_running_loop()
        self.layer = layer.on_this_loop()
        self.servers = RedisServers()
        self.broker = Broker(self.servers)
        self.reads = SharedReads(self.broker, limit=settings.recovery_max_publications)
        self.presence = Presence(self.servers)
        self.hub = Hub(self.layer, self.broker, check_seconds=settings.position_check_seconds)
        self.connections = ConnectionTable()
        self.tasks = TaskOwner()
        self.calls = Calls()
        self.rules = Decisions()
        self.access = AccessWatch(self)
        self.walks = Walks(self.connections, self.presence, self.tasks)
        self.token_verifier = TokenVerifier()
        self.report = Report(
            self.uid, self.servers, self.hub, self.connections, spawn=self.tasks.spawn
        )
        self.snapshot: Snapshot | None = None
        self._has_personal_namespace = True
        self._has_asked_database = asyncio.Event()
        self.is_draining = False
        self.failure: BaseException | None = None
        self._control = ControlReader(
            self.layer,
            self.servers,
            obey=self.walks.obey,
            lose=self._close_everybody,
            notice=self.report.notice,
        )
        self._loops: asyncio.Task[None] | None = None

    @property
    def hears_control(self) -> bool:
        """Whether it knows where the control stream is, and so will miss no command."""
        return self._control.has_begun

    def options_of(self, channel: str) -> ChannelOptions:
        """Return the options that hold for a channel.

        Raises:
            UnknownChannel: Its namespace is not configured.
            InternalError: The database has not answered yet.
        """
        if self.snapshot is None:
            raise InternalError("the database has not answered yet")
        return self.snapshot.options_of(channel)

    @property
    def parts(self) -> Mapping[str, Any]:
        """What other apps have configured, as ``hooks.find`` wants it."""
        return self.snapshot.parts if self.snapshot is not None else {}

    async def until_prepared(self, *, seconds: float) -> bool:
        """Wait for what every connection needs, and return whether it is there.

        That is the namespaces, unless the database fails, and the control stream; ``seconds`` is
        the longest to wait.
        """
        if self.snapshot is not None and self.hears_control:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._has_asked_database.wait()
                await self._control.until_begun()
        except TimeoutError:
            return False
        return self.snapshot is not None

    # Life ------------------------------------------------------------------------------------

    def start(self, *, on_failure: Callable[[], None] | None = None) -> None:
        """Start the background loops; ``on_failure`` is called if one of them breaks."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None:
                self.failure = task.exception()
                logger.critical("the instance has failed", exc_info=self.failure)
                if on_failure is not None:
                    on_failure()

        self._loops = asyncio.create_task(self._run(), name="instance")
        self._loops.add_done_callback(ended)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll_snapshot(), name="snapshot")
            tasks.create_task(LagMonitor().run(), name="lag")
            tasks.create_task(self.access.run(), name="access")
            tasks.create_task(self.walks.tick(), name="tick")
            tasks.create_task(self._check_positions(), name="positions")
            tasks.create_task(self._control.run(), name="control")
            tasks.create_task(registry.keep_beating(self.servers, self.uid), name="beat")
            for name, job in hooks.jobs.items():
                tasks.create_task(_run_job(job), name=name)
            if conf.current().demo:
                clock = demo.tick(self.broker, lambda: self.snapshot or Snapshot())
                tasks.create_task(clock, name="demo clock")

    async def stop(self) -> None:
        """End the loops and close what leads to Redis."""
        if self._loops is not None:
            self._loops.cancel()
            await asyncio.wait([self._loops])
        await self.hub.close()
        await self.tasks.close()
        await self.calls.close()
        await self.rules.close()
        threads.close()
        await self.layer.flush()
        await self.token_verifier.close()
        await self.servers.close()

    async def drain(self, *, seconds: float) -> None:
        """Close every connection with 3001, spread over ``seconds``, and wait for their ends."""
        self.is_draining = True
        await self.walks.close_all(SHUTDOWN, seconds=seconds)
        async with asyncio.timeout(conf.current().broker_timeout_seconds + 1.0):
            await self.connections.is_empty.wait()
        await self.calls.until_told()

    # Loops -----------------------------------------------------------------------------------

    async def load_snapshot(self) -> None:
        """Read namespaces and keys if they changed.

        Raises:
            django.db.Error: The database did not answer; the last snapshot stands.
        """
        # Its own thread, because the thread-sensitive one may be busy with a slow view.
        load = sync_to_async(_load_snapshot, thread_sensitive=False)
        try:
            self.snapshot = await load(self.snapshot)
            self._look_for_personal_namespace(self.snapshot)
        finally:
            self._has_asked_database.set()

    def _look_for_personal_namespace(self, loaded: Snapshot) -> None:
        """Say that nobody can connect once it is so, not again with each snapshot."""
        settings, had_it = conf.current(), self._has_personal_namespace
        name = settings.personal_channel_namespace if settings.personal_channels else ""
        self._has_personal_namespace = not name or name in loaded.namespaces
        if had_it and not self._has_personal_namespace:
            logger.warning(
                "the namespace %r of personal channels does not exist: no user can connect", name
            )

    async def _poll_snapshot(self) -> None:
        was_failing = False
        while True:
            try:
                await self.load_snapshot()
                was_failing = False
            except DatabaseError as error:
                if not was_failing:
                    logger.error("namespaces and keys cannot be read: %s", error)
                was_failing = True
            await asyncio.sleep(conf.current().snapshot_poll_seconds)

    async def _check_positions(self) -> None:
        while True:
            await asyncio.sleep(CHECK_TICK_SECONDS)
            await self.hub.check_quiet()

    def _close_everybody(self) -> None:
        closing = self.walks.close_all(SHUTDOWN, seconds=conf.current().drain_seconds)
        self.tasks.spawn(closing, "close everybody")


async def _run_job(job: hooks.Job) -> None:
    await job()


def _load_snapshot(known: Snapshot | None) -> Snapshot:
    close_old_connections()
    try:
        return snapshot.load_if_changed(known)
    finally:
        close_old_connections()


_current: Instance | None = None


def current() -> Instance | None:
    """Return the instance of this process, None if it runs none."""
    if _current is not None and _current.loop.is_closed():
        return None  # a test's loop that is gone
    return _current


async def ensure_started(*, on_failure: Callable[[], None] | None = None) -> Instance:
    """Return the instance of the running loop, started if it was not."""
    global _current
    if _current is None or _current.loop is not asyncio.get_running_loop():
        _current = Instance()
        _current.start(on_failure=on_failure)
    return _current


async def stop_current() -> None:
    """Stop the instance of this process, if it runs one."""
    global _current
    stopped, _current = _current, None
    if stopped is not None:
        await stopped.stop()
