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
from daphne.ws_protocol import WebSocketFactory
from django.conf import settings
from twisted.internet import defer, reactor

from realtime import conf, instance
from realtime.protocol.errors import BrokerUnavailable
from realtime.server.protocol import (
    CLOSE_HANDSHAKE_SECONDS,
    FrameFactory,
    FrameProtocol,
    direct_writes_work,
    extensions_of,
)
from realtime.server.supervisor import ECHO_SECONDS

logger = logging.getLogger(__name__)

BACKLOG: Final = 4096
PREPARE_SECONDS: Final = 1.0
HANDSHAKE_SECONDS: Final = 5
HTTP_TIMEOUT_SECONDS: Final = 120
ANSWERS_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 0.1
EXIT_FAILED: Final = 1
EXIT_AT_ONCE: Final = 130


class HeliographServer(Server):
    """The server of one process."""

    def __init__(self, application: Any, endpoints: list[str], *, on_ready: Callable[[], None]):
        self.exit_code = 0
        self.is_draining = False
        self._told_at = 0.0
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
        FrameProtocol.writes_directly = direct_writes_work()
        if not FrameProtocol.writes_directly:
            logger.warning("Twisted's transport has changed: frames take the slow way")
        self._use_own_protocol(self.ws_factory)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._on_signal)
        self.loop.call_soon(self._on_ready)

    def _use_own_protocol(self, factory: WebSocketFactory) -> None:
        factory.protocol = FrameFactory.protocol
        factory.setProtocolOptions(
            failByDrop=False,  # so that a message that is too big is answered by 1009
            closeHandshakeTimeout=CLOSE_HANDSHAKE_SECONDS,
            autoPingInterval=0,
        )

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Start the application of a connection, with what it offers beyond plain ASGI."""
        if scope["type"] == "websocket":
            scope["extensions"] = extensions_of(protocol)
        return super().create_application(protocol, scope)

    def listen_success(self, port: Any) -> Any:
        """Hand the port on to who closes it; Daphne's keeps it to itself."""
        super().listen_success(port)
        return port

    def listen_error(self, failure: Any) -> None:
        """End with a failure: a server that cannot listen is of no use."""
        self.exit_code = EXIT_FAILED
        super().listen_error(failure)

    # End --------------------------------------------------------------------------------------

    def _fail(self) -> None:
        self.exit_code = EXIT_FAILED
        self._on_signal()

    def _on_signal(self) -> None:
        """End in order; at the second signal at once, at the third without a word to anybody."""
        now = self.loop.time()
        if not self.is_draining:
            self.is_draining = True
            self._told_at = now
            self._ending = self.loop.create_task(self._end(), name="end")
        elif self.exit_code == EXIT_AT_ONCE:
            os._exit(EXIT_AT_ONCE)
        elif now - self._told_at > ECHO_SECONDS:
            self.exit_code = EXIT_AT_ONCE
            self._ending.cancel()
            self.stop()

    async def _end(self) -> None:
        started_at = time.monotonic()
        for listener in self.listeners:
            listener.addCallback(_take_last_and_close)
        running = instance.current()
        if running is not None:
            try:
                await running.drain(seconds=conf.current().drain_seconds)
            except TimeoutError:
                logger.warning("some connections did not end in time")
            await self._until_answered()
            await self._stop_instance()
        logger.info("ended in %.1f s", time.monotonic() - started_at)
        self.stop()

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
        return any(
            isinstance(protocol, WebRequest) and "disconnected" not in details
            for protocol, details in self.connections.items()
        )

    def protocol_disconnected(self, protocol: Any) -> None:
        """Note the end of a connection or request."""
        super().protocol_disconnected(protocol)
        self._request_ended.set()

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

    def application_checker(self) -> None:
        """Look after ended applications; one that fails must not stop the looking for good."""
        try:
            super().application_checker()
        except Exception:
            logger.exception("the check of ended applications failed")
            reactor.callLater(1, self.application_checker)

    def timeout_checker(self) -> None:
        """Look after handshakes and requests that take too long; see ``application_checker``."""
        try:
            super().timeout_checker()
        except Exception:
            logger.exception("the check of timeouts failed")
            reactor.callLater(2, self.timeout_checker)


def _take_last_and_close(port: Any) -> Any:
    """Stop listening, after taking who was let in by the system already and would be cut off."""
    port.numberAccepts = BACKLOG  # all of them in one go
    port.doRead()
    return port.stopListening()


def run(
    application: Any,
    *,
    host: str | None = None,
    port: int | None = None,
    fd: int | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code.

    Args:
        application: The ASGI application.
        host: Address to listen on, with ``port``.
        port: TCP port.
        fd: A listening IPv4 socket to adopt instead; the caller gives it up.
        on_ready: Called once connections are accepted.
    """
    if fd is not None:
        endpoint = f"fd:fileno={fd}"
    else:
        interface = (host or "127.0.0.1").strip("[]").replace(":", r"\:")
        endpoint = f"tcp:port={port}:interface={interface}:backlog={BACKLOG}"
    server = HeliographServer(application, [endpoint], on_ready=on_ready)
    server.run()
    return server.exit_code
