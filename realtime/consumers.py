"""Channels' side of a connection: frames in, frames out, close codes. No rules.

Runs on any ASGI server. Ours offers a frame writer in the scope; elsewhere ``SendWriter`` brings
frames to plain ``send``.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qs

from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.http.request import split_domain_port, validate_host

from realtime import commands, conf, hooks, instance, origins
from realtime.outbox import FRAME_WRITER, FrameWriter, Outbox
from realtime.protocol import websocket
from realtime.protocol.disconnects import SERVER_ERROR, SHUTDOWN, Disconnect
from realtime.session import Session

logger = logging.getLogger(__name__)

DENIAL: Final = "websocket.http.response"
JSON_SUBPROTOCOL: Final = "centrifuge-json"
PROTOBUF_SUBPROTOCOL: Final = "centrifuge-protobuf"

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Refusal(Exception):  # an outcome
    """The handshake is answered with an HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class SendWriter:
    """A ``FrameWriter`` on plain ASGI ``send``: one task a connection brings frames out in order.

    What waits here counts as queued; beyond the outbox's bound the connection is closed as slow.
    """

    closed_with: Disconnect | None = None

    def __init__(self, send: Send) -> None:
        self._send = send
        self._queue: deque[tuple[dict[str, Any], int]] = deque()
        self._bytes = 0
        self._is_closed = False
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="send frames")

    def write_frame(self, frame: bytes, limit_bytes: int = sys.maxsize) -> bool:
        """Queue what is not a control frame; other servers send their own pings."""
        if self._bytes and self._bytes + len(frame) > limit_bytes:
            return False
        for opcode, payload in () if self._is_closed else websocket.split(frame):
            if opcode == websocket.TEXT:
                message = {"type": "websocket.send", "text": payload.decode()}
                self._put(message, len(payload) + websocket.HEAD_MAX_BYTES)
        return True

    def close(self, code: int, reason: str) -> None:
        """Queue the close."""
        if not self._is_closed:
            self._is_closed = True
            self._put({"type": "websocket.close", "code": code, "reason": reason}, 0)

    def queued_bytes(self) -> int:
        """Return what waits."""
        return self._bytes

    def _put(self, message: dict[str, Any], size_bytes: int) -> None:
        self._queue.append((message, size_bytes))
        self._bytes += size_bytes
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                message, size_bytes = self._queue.popleft()
                try:
                    await self._send(message)
                except Exception as error:
                    # The server says in its own way that the client is gone.
                    logger.debug("a frame was not sent: %s", error)
                    self._is_closed = True
                    self._queue.clear()
                self._bytes -= size_bytes
                if self._is_closed and not self._queue:
                    return

    def stop(self) -> None:
        """End the task; the connection is gone."""
        self._is_closed = True
        self._task.cancel()


class ConnectionConsumer(AsyncWebsocketConsumer):
    """One client connection.

    A Channels consumer with a loop of its own: the parent's costs two tasks a connection and a
    hop to a thread for every message, both ways.
    """

    channel_layer_alias = None

    @classmethod
    def as_asgi(cls, **initkwargs: Any) -> "ConnectionConsumer":
        """Return one consumer for all connections: it holds nothing of them."""
        return cls(**initkwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the connection from handshake to end."""
        if (await receive())["type"] != "websocket.connect":
            return
        try:
            subprotocol = _negotiated(scope)
        except Refusal as refusal:
            await _deny(scope, send, refusal)
            return
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        running = await instance.ensure_started()
        # Outside our server the first connection starts the instance, and is not refused for it.
        await running.until_prepared(seconds=conf.current().broker_timeout_seconds)
        given: FrameWriter | None = scope.get("extensions", {}).get(FRAME_WRITER)
        writer = given or SendWriter(send)
        outbox = Outbox(writer, limit_bytes=conf.current().queue_max_bytes)
        session = Session(
            running,
            outbox,
            has_native_pings=_wants_native_pings(scope),
            headers=_shown_headers(scope, running),
        )
        address = (scope.get("client") or ["unix"])[0]
        if given is not None:
            # A browser's take a kilobyte or two, and the routers hold the scope to its end.
            scope["headers"].clear()
        await _converse(session, receive, writer, address)

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Nothing is dispatched: ``__call__`` reads by itself."""
        raise StopConsumer


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse the handshake of an address that nobody serves; for the end of a ``URLRouter``."""
    await receive()
    await _deny(scope, send, Refusal(404, "Not Found"))


async def _converse(session: Session, receive: Receive, writer: FrameWriter, address: str) -> None:
    """Handle what the client sends until the connection is closed, and leave nothing of it."""
    code: int | None = None
    try:
        if session.instance.is_draining:
            session.disconnect(SHUTDOWN)
        while (message := await receive())["type"] != "websocket.disconnect":
            await commands.receive(session, _content_of(message))
            del message  # or an idle connection would hold what it sent last
        code = message.get("code")
    except Exception:
        logger.exception("the conversation with client %s failed", session.client)
        session.disconnect(SERVER_ERROR)
    finally:
        closed_with = session.outbox.closed_with
        _log_close(session, closed_with or writer.closed_with, code, address)
        if closed_with is None and isinstance(writer, SendWriter):
            writer.stop()
        await session.end()


def _content_of(message: dict[str, Any]) -> str | bytes:
    text: str | None = message.get("text")
    content: str | bytes = text if text is not None else message["bytes"]
    return content


def _query(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope.get("query_string", b"").decode("latin-1"))


def _shown_headers(scope: Scope, running: instance.Instance) -> dict[str, str]:
    """Return the headers that somebody is shown who is asked about the connection.

    Repeated ones are joined, as HTTP says.
    """
    shown: dict[str, str] = {}
    wanted = hooks.headers(running.parts)
    if wanted:
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            if name in wanted:
                shown[name] = f"{shown[name]}, {value}" if name in shown else value
    return shown


def _wants_native_pings(scope: Scope) -> bool:
    """Tell whether a person's tool asks for pings that it answers by itself, such as wscat."""
    return _query(scope).get("cf_ws_frame_ping_pong") == ["true"]


def _negotiated(scope: Scope) -> str | None:
    """Return the subprotocol to accept with, None for none.

    Raises:
        Refusal: This instance takes no connections, the host or the page's origin is not allowed,
            or the client wants Protobuf.
    """
    if not conf.current().websockets:
        raise Refusal(503, "No WebSockets here")
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    origin = headers.get(b"origin")
    host = headers.get(b"host", "")
    if not _is_own_host(host):
        logger.warning("host %r refused (400): add it to ALLOWED_HOSTS", host, extra={"code": 400})
        raise Refusal(400, "Host not allowed")
    if not origins.is_allowed(origin, scheme=_scheme(scope, headers), host=host):
        logger.warning(
            "origin %r refused (403): add it to REALTIME_ALLOWED_ORIGINS",
            origin,
            extra={"code": 403},
        )
        raise Refusal(403, "Origin not allowed")
    # centrifuge-python up to 0.5 sends the header with an empty value, which asks for nothing.
    asked = [name for name in scope.get("subprotocols", ()) if name]
    query = _query(scope)
    by_query = "protobuf" in (query.get("format", []) + query.get("cf_protocol", []))
    if by_query or (PROTOBUF_SUBPROTOCOL in asked and JSON_SUBPROTOCOL not in asked):
        logger.warning("a client asked for Protobuf, refused (400): use JSON", extra={"code": 400})
        raise Refusal(400, "Protobuf is not supported")
    return JSON_SUBPROTOCOL if JSON_SUBPROTOCOL in asked else None


def _is_own_host(host: str) -> bool:
    """Tell whether Django would answer to this host, by its own rule for requests.

    A page may give its own name this server's address, and is then of the same origin.
    """
    allowed = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed:
        allowed = [".localhost", "127.0.0.1", "[::1]"]
    domain, _ = split_domain_port(host)
    return not host or bool(domain and validate_host(domain, allowed))


def _scheme(scope: Scope, headers: dict[bytes, str]) -> str:
    """Return the scheme as the client sees it; a proxy is believed only where settings say so."""
    trusted: tuple[str, str] | None = getattr(settings, "SECURE_PROXY_SSL_HEADER", None)
    if trusted is not None:
        name = trusted[0].removeprefix("HTTP_").replace("_", "-").lower().encode()
        return "https" if headers.get(name) == trusted[1] else "http"
    return "https" if scope.get("scheme") in ("wss", "https") else "http"


async def _deny(scope: Scope, send: Send, refusal: Refusal) -> None:
    if DENIAL not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1000, "reason": str(refusal)})
        return
    await send({"type": f"{DENIAL}.start", "status": refusal.status, "headers": []})
    await send({"type": f"{DENIAL}.body", "body": str(refusal).encode()})


def _log_close(
    session: Session, closed_with: Disconnect | None, code: int | None, address: str
) -> None:
    by_server = closed_with is not None
    logger.info(
        "closed",
        extra={
            "client": session.client,
            "user": session.user,
            "code": closed_with.code if closed_with is not None else code,
            "reason": closed_with.reason if closed_with is not None else "",
            "by": "server" if by_server else "client",
            "address": address,
        },
    )
