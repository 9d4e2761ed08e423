"""Daphne's WebSocket protocol with a frame writer, bounds both ways, and reasons for closing.

Built by the server's factory, one per socket. Offers itself to the application as the
``FrameWriter`` of ``outbox.py``; everything a stock consumer sends takes the same way.
"""

import logging
from typing import Any, Final

from autobahn.twisted.websocket import ConnectionDeny
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from twisted.internet.tcp import Connection as TcpConnection

from realtime import conf
from realtime.outbox import FRAME_WRITER
from realtime.protocol import websocket
from realtime.protocol.disconnects import MESSAGE_TOO_BIG, SLOW, TOO_MANY_REQUESTS

logger = logging.getLogger(__name__)

INCOMING_MESSAGES_MAX: Final = 256
CLOSE_HANDSHAKE_SECONDS: Final = 3.0
DENIAL: Final = "websocket.http.response"


def direct_writes_work() -> bool:
    """Tell whether Twisted's transport still has what a direct write looks at.

    Where it has not, every frame goes through ``transport.write``: slower, and as correct.
    """
    names = ("dataBuffer", "offset", "disconnecting", "writeSomeData")
    return all(hasattr(TcpConnection, name) for name in names)


class FrameProtocol(WebSocketProtocol):
    """One WebSocket connection."""

    writes_directly = True  # the server sets it from ``direct_writes_work``
    _has_denied = False
    _denial_status = 403

    # Way out: FrameWriter ---------------------------------------------------------------------

    def write_frame(self, frame: bytes) -> None:
        """Send a finished frame at once if nothing waits before it, else queue it.

        Twisted's own way costs two ``epoll_ctl`` calls and a turn of the loop for every frame.
        """
        if self.state != self.STATE_OPEN:
            return
        transport = self.transport
        if self.writes_directly and self._is_clear(transport):
            try:
                sent_bytes = transport.socket.send(frame)
            except BlockingIOError:
                sent_bytes = 0
            except OSError:
                transport.abortConnection()
                return
            if sent_bytes == len(frame):
                return
            frame = frame[sent_bytes:]
        transport.write(frame)

    @staticmethod
    def _is_clear(transport: Any) -> bool:
        return not (
            transport.dataBuffer
            or transport._tempDataBuffer
            or transport.disconnecting
            or not transport.connected
        )

    def queued_bytes(self) -> int:
        """Return how many bytes wait for the socket."""
        transport = self.transport
        try:
            waiting = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
        except AttributeError:
            return 0  # a transport that does not tell; TLS ends at the proxy
        return int(waiting)

    def close(self, code: int, reason: str) -> None:
        """Close behind what is queued; a peer that does not answer is cut off in 3 seconds.

        Autobahn's ``sendClose`` refuses codes such as 1009, and Daphne passes no reason on.
        """
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, websocket.reason_bytes(reason))

    # Way in -----------------------------------------------------------------------------------

    def onConnect(self, request: Any) -> Any:
        """Refuse while the server drains, else as Daphne."""
        if self.factory.server_class.is_draining:
            raise ConnectionDeny(503, "Service Unavailable")
        # Daphne would answer 500 with Python's words, and log a traceback for any stranger.
        if not request.headers.get("sec-websocket-protocol", "").isascii():
            raise ConnectionDeny(400, "Bad Request")
        return super().onConnect(request)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Pass a message on, unless the application is too far behind."""
        if self.application_queue.qsize() >= INCOMING_MESSAGES_MAX:
            self.close(*TOO_MANY_REQUESTS)
            return
        super().onMessage(payload, isBinary)

    def _max_message_size_exceeded(self, msg_size: int, max_msg_size: int, reason: str) -> None:
        logger.warning("an incoming message is too big: %s", reason)
        # Autobahn's flag: what still arrives of this message is thrown away unread.
        self.failedByMe = True
        self.close(*MESSAGE_TOO_BIG)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Tell the application, as Daphne; a handshake that failed early was never known to it.

        Daphne's would raise for those, and Autobahn then never forgets the connection.
        """
        if hasattr(self, "server") and self in self.server.connections:
            super().onClose(wasClean, code, reason)

    # What the application says ----------------------------------------------------------------

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Do what an ASGI message says; with headers, close reasons and denials."""
        kind = message["type"]
        if kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.send":
            self._send(message)
        elif kind == "websocket.close":
            if self.state == self.STATE_CONNECTING:
                self.serverReject()
            else:
                self.close(message.get("code") or 1000, message.get("reason") or "")
        elif kind == f"{DENIAL}.start":
            self._denial_status = message["status"]
        elif kind == f"{DENIAL}.body" and not message.get("more_body") and not self._has_denied:
            self._deny(message.get("body", b"").decode())

    def _accept(self, message: dict[str, Any]) -> None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in message.get("headers", ())
        }
        deferred = self.handshake_deferred
        del self.handshake_deferred
        deferred.callback(
            (message.get("subprotocol"), headers) if headers else message.get("subprotocol")
        )

    def _send(self, message: dict[str, Any]) -> None:
        text = message.get("text")
        opcode = websocket.TEXT if text is not None else websocket.BINARY
        payload = text.encode() if text is not None else message["bytes"]
        if self.queued_bytes() > conf.current().queue_max_bytes:
            self.close(*SLOW)
            return
        self.write_frame(websocket.frame(payload, opcode))

    def _deny(self, reason: str) -> None:
        self._has_denied = True
        deferred = self.handshake_deferred
        del self.handshake_deferred
        self.server.protocol_disconnected(self)
        deferred.errback(ConnectionDeny(self._denial_status, reason or "Refused"))

    def check_timeouts(self) -> None:
        """Refuse an application that does not answer a handshake.

        Nothing else: pings and ages are the session's, and are looked at in slices.
        """
        is_waiting = self.state == self.STATE_CONNECTING and hasattr(self, "handshake_deferred")
        if is_waiting and self.duration() > self.server.websocket_connect_timeout:
            self.serverReject()


class FrameFactory(WebSocketFactory):
    """Makes the protocols of one server."""

    protocol = FrameProtocol


def extensions_of(protocol: FrameProtocol) -> dict[str, Any]:
    """Return what a connection offers beyond plain ASGI."""
    return {FRAME_WRITER: protocol, DENIAL: {}}
