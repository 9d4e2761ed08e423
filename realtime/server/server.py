"""Daphne's server with an instance beside it, and an orderly end.

``serve`` and ``runserver`` call ``run``. The instance starts before the first connection is
accepted; SIGTERM and SIGINT close every connection with a reason, a second one ends at once.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from daphne.http_protocol import WebRequest
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from django.conf import settings
from twisted.internet import defer, reactor

from realtime import conf, instance, services
from realtime.protocol.disconnects import SHUTDOWN
from realtime.protocol.errors import BrokerUnavailable
from realtime.server import garbage, listening
from realtime.server.admission import Admission
from realtime.server.child import LEAVE, ORPHANED
from realtime.server.http_channel import DeadlineChannel
from realtime.server.listening import QUEUE_MAX, SETTLE_SECONDS, Queue
from realtime.server.protocol import prepare
from realtime.server.supervisor import ECHO_SECONDS
from realtime.server.upkeep import TURN_SECONDS, Upkeep

logger = logging.getLogger(__name__)

PREPARE_SECONDS: Final = 1.0
HANDSHAKE_SECONDS: Final = 5
HTTP_TIMEOUT_SECONDS: Final = 120
ANSWERS_SECONDS: Final = 5.0
READY_POLL_SECONDS: Final = 0.1
EXIT_FAILED: Final = 1
EXIT_AT_ONCE: Final = 130


class HeliographServer(Server):
    """The server of one process.

    Args:
        queue: Whose the queue of the listening socket is.
    Attributes:
        sockets: The open WebSockets, those included whose handshake waits for the application.
        admission: Says whether one more may be opened.
    """

    def __init__(
        self,
        application: Any,
        endpoints: list[str],
        *,
        on_ready: Callable[[], None],
        queue: Queue = Queue.OWN,
    ):
        self.exit_code = 0
        self.sockets: set[WebSocketProtocol] = set()
        self.admission = Admission(self.sockets)
        self._requests: set[WebRequest] = set()
        self._queue = queue
        self._ports: list[Any] = []
        self._told_at = 0.0
        self._ending: asyncio.Task[None] | None = None
        self._on_ready = on_ready
        self._request_ended = asyncio.Event()
        trusts_proxy = getattr(settings, "SECURE_PROXY_SSL_HEADER", None) is not None
        super().__init__(
            application,
            endpoints=endpoints,
            signal_handlers=False,
            http_timeout=HTTP_TIMEOUT_SECONDS,
            websocket_timeout=-1,
            websocket_connect_timeout=HANDSHAKE_SECONDS,
            websocket_handshake_timeout=HANDSHAKE_SECONDS,
            websocket_max_message_size=conf.current().message_max_bytes,
            websocket_max_frame_size=conf.current().message_max_bytes,
            proxy_forwarded_address_header="X-Real-IP" if trusts_proxy else None,
            verbosity=0,
            ready_callable=self._make_ready,
            server_name="heliograph",
        )

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that Twisted and asyncio share."""
        loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop
        return loop

    @property
    def is_draining(self) -> bool:
        """Whether it takes nothing new, because it is about to end."""
        return self.admission.is_draining

    # Start ------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to end."""
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._start_instance())
        super().run()

    async def _start_instance(self) -> None:
        started = await instance.ensure_started(on_failure=self._fail)
        if not await started.until_prepared(seconds=PREPARE_SECONDS):
            logger.error("listening without being ready: see /ready for what is missing")

    def _make_ready(self) -> None:
        """Called by Daphne once its factories exist, before the reactor runs."""
        prepare(self.ws_factory)
        self.http_factory.protocol = DeadlineChannel
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._on_signal)
        if self._queue is Queue.OF_SUPERVISOR:
            self.loop.add_signal_handler(LEAVE, self._leave)
            self.loop.add_signal_handler(ORPHANED, self._begin_end)
        self._upkeep = Upkeep(
            self.connections,
            close_seconds=lambda: self.application_close_timeout,
            stop=self.stop,
        )
        self._telling = self.loop.create_task(self._tell_when_ready(), name="tell when ready")
        garbage.begin()

    async def _tell_when_ready(self) -> None:
        """Say it once this process can serve: another one may be ended for it then."""
        while True:
            checks = await services.areadiness()
            if all(state == "ok" for state in checks.values()):
                break
            await asyncio.sleep(READY_POLL_SECONDS)
        self._on_ready()

    def listen_success(self, port: Any) -> None:
        """Keep the port for who closes it; Daphne's forgets it."""
        super().listen_success(port)
        self._ports.append(port)

    def listen_error(self, failure: Any) -> None:
        """End with a failure: a server that cannot listen is of no use."""
        self.exit_code = EXIT_FAILED
        super().listen_error(failure)

    # End --------------------------------------------------------------------------------------

    def _fail(self) -> None:
        self.exit_code = self.exit_code or EXIT_FAILED
        self._begin_end()

    def _leave(self) -> None:
        """End in order, and leave those who wait at the listening socket to another process."""
        if self._ending is None:
            self._queue = Queue.OF_OTHERS
        self._begin_end()

    def _begin_end(self) -> None:
        if self._ending is None:
            self._told_at = self.loop.time()
            self._ending = self.loop.create_task(self._end(), name="end")

    def _on_signal(self) -> None:
        """End in order; at the second signal at once, at the third without a word to anybody."""
        if self._ending is None:
            self._begin_end()
        elif self.exit_code == EXIT_AT_ONCE:
            os._exit(EXIT_AT_ONCE)
        elif self.loop.time() - self._told_at > ECHO_SECONDS:
            self.exit_code = EXIT_AT_ONCE
            self._ending.cancel()
            self.stop()

    async def _end(self) -> None:
        started_at = time.monotonic()
        self._telling.cancel()
        stopping = self.loop.create_task(listening.stop(self._ports, self._queue), name="stop")
        if self._queue is Queue.OF_OTHERS:
            await stopping  # who was let in here a moment ago is served here
        self.admission.is_draining = True
        await self._close_sockets()
        await stopping
        await self._until_answered()
        await self._stop_instance()
        logger.info("ended in %.1f s", time.monotonic() - started_at)
        self.stop()

    async def _close_sockets(self) -> None:
        running = instance.current()
        if running is not None:
            try:
                await running.drain(seconds=conf.current().drain_seconds)
            except TimeoutError:
                logger.warning("some connections did not end in time")
        for left in list(self.sockets):  # those of other applications
            left.close(*SHUTDOWN)

    async def _until_answered(self) -> None:
        """Wait until each request that was taken has its answer, but not for ever."""
        await asyncio.sleep(SETTLE_SECONDS)  # what was taken last has not been read yet
        try:
            async with asyncio.timeout(ANSWERS_SECONDS):
                while self._has_unanswered():
                    self._request_ended.clear()
                    await self._request_ended.wait()
        except TimeoutError:
            logger.warning("some requests were not answered in time")
        await asyncio.sleep(SETTLE_SECONDS)  # what was answered last has not been written yet

    def _has_unanswered(self) -> bool:
        entries = self.connections.items()
        return any(isinstance(each, WebRequest) and "disconnected" not in d for each, d in entries)

    async def _stop_instance(self) -> None:
        try:
            await instance.stop_current()
        except BrokerUnavailable as error:
            logger.warning("Redis was not told of the end: %s", error)

    def kill_all_applications(self) -> Any:
        """Cancel what still runs; Daphne's fails on connections that have no application yet."""
        tasks = [details.get("application_instance") for details in self.connections.values()]
        running = [task for task in tasks if task is not None and not task.done()]
        for task in running:
            task.cancel()
        if self.exit_code == EXIT_AT_ONCE:
            return None
        ended = defer.Deferred.fromFuture(
            asyncio.ensure_future(asyncio.gather(*running, return_exceptions=True))
        )
        ended.addErrback(lambda _: None)
        return ended

    # Connections ------------------------------------------------------------------------------

    def protocol_connected(self, protocol: Any) -> None:
        """Note a connection or request."""
        super().protocol_connected(protocol)
        if isinstance(protocol, WebSocketProtocol):
            self.sockets.add(protocol)

    def protocol_disconnected(self, protocol: Any) -> None:
        """Note the end of a connection or request; Daphne may tell it twice."""
        if protocol not in self.connections:
            return
        super().protocol_disconnected(protocol)
        self.sockets.discard(protocol)
        self._request_ended.set()
        self._upkeep.look_after(protocol)

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Start the application of a request; those of WebSockets are started by their protocol."""
        queue = super().create_application(protocol, scope)
        if queue is not None:
            self._requests.add(protocol)
            application = self.connections[protocol]["application_instance"]
            application.add_done_callback(lambda _: self._forget_request(protocol))
        return queue

    def _forget_request(self, protocol: Any) -> None:
        """Let go of a request now: held until its turn it would outlive two collections."""
        self._requests.discard(protocol)
        self._upkeep.look_after(protocol)

    def application_checker(self) -> None:
        """Look after a slice of the connections; Daphne's looks at all at once."""
        reactor.callLater(TURN_SECONDS, self.application_checker)
        self._upkeep.turn()
        self.admission.tell()
        garbage.turn(is_quiet=not self._requests)

    def timeout_checker(self) -> None:
        """Do nothing: ``application_checker`` minds the times as well."""


def run(
    application: Any,
    *,
    host: str | None = None,
    port: int | None = None,
    fd: int | None = None,
    is_supervised: bool = False,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code.

    Args:
        host, port: Where to listen.
        fd: A listening IPv4 socket to adopt instead; who gave it keeps it open.
        is_supervised: Whether that is a supervisor of this project.
        on_ready: Called once connections are accepted and ``/ready`` is good.
    """
    queue = Queue.OWN
    if fd is not None:
        endpoint = f"fd:fileno={fd}"
        queue = Queue.OF_SUPERVISOR if is_supervised else Queue.OF_OTHERS
    else:
        interface = (host or "127.0.0.1").strip("[]").replace(":", r"\:")
        endpoint = f"tcp:port={port}:interface={interface}:backlog={QUEUE_MAX}"
    server = HeliographServer(application, [endpoint], on_ready=on_ready, queue=queue)
    server.run()
    return server.exit_code
