"""Daphne's WebSocket protocol with a frame writer, bounds both ways, and reasons for closing.

Built by the server's factory, one per socket. Offers itself to the application as the
``FrameWriter`` of ``outbox.py``; everything a stock consumer sends takes the same way.
"""

import asyncio
import logging
import sys
import time
from typing import Any, Final

from autobahn.twisted.websocket import ConnectionDeny
from daphne.ws_protocol import WebSocketFactory
from twisted.internet import defer
from twisted.internet.tcp import Connection as TcpConnection

from realtime import conf
from realtime.outbox import FRAME_WRITER
from realtime.protocol import websocket
from realtime.protocol.disconnects import INVALID_TEXT, MESSAGE_TOO_BIG, SLOW, Disconnect
from realtime.server import handshake
from realtime.server.incoming import Incoming
from realtime.server.lean_protocol import OPEN, LeanProtocol

logger = logging.getLogger(__name__)

CLOSE_HANDSHAKE_SECONDS: Final = 3.0
DENIAL: Final = "websocket.http.response"


def direct_writes_work() -> bool:
    """Tell whether Twisted's transport still has what a direct write looks at.

    Where it has not, every frame goes through ``transport.write``: slower, and as correct.
    """
    names = ("dataBuffer", "offset", "disconnecting", "writeSomeData")
    return all(hasattr(TcpConnection, name) for name in names)


class FrameProtocol(LeanProtocol):
    """One WebSocket connection."""

    writes_directly = True  # ``prepare`` sets it from ``direct_writes_work``
    _has_denied = False
    _denial_status = 403

    # Way out: FrameWriter ---------------------------------------------------------------------

    def write_frame(self, frame: bytes, limit_bytes: int = sys.maxsize) -> bool:
        """Send finished frames at once if nothing waits before them, else queue them.

        Twisted's own way costs two ``epoll_ctl`` calls and a turn of the loop for every frame.
        """
        if self.state != OPEN:
            return True
        transport = self.transport
        if self.writes_directly and not (transport._tempDataLen or transport.dataBuffer):
            try:
                sent_bytes = transport.socket.send(frame)
            except BlockingIOError:
                sent_bytes = 0
            except OSError:
                transport.abortConnection()
                return True
            if sent_bytes != len(frame):
                transport.write(frame[sent_bytes:])
            return True
        queued_bytes = self.queued_bytes()
        if queued_bytes and queued_bytes + len(frame) > limit_bytes:
            return False
        transport.write(frame)
        return True

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
        if self.state == OPEN:
            self.sendCloseFrame(code, websocket.reason_bytes(reason))

    def dropConnection(self, abort: bool = False) -> None:
        """End the connection, with a reset only where something is queued that nobody takes.

        Autobahn resets whoever answers our close, or does not in time. That takes from a peer what
        it has not read yet, and is an error in the log of a proxy. Where it does not, it waits for
        ever for a peer that takes nothing.
        """
        is_queued = self.queued_bytes() > 0
        super().dropConnection(abort=abort and is_queued)
        if is_queued and not abort:
            self.factory._batched_timer.call_later(
                CLOSE_HANDSHAKE_SECONDS, self.transport.abortConnection
            )

    @property
    def closed_with(self) -> Disconnect | None:
        """What this side closed with, None if the client came first."""
        if not self.closedByMe:
            return None
        return Disconnect(self.localCloseCode or 1005, (self.localCloseReason or b"").decode())

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        """Close, and read on, so that the answer is seen behind what nobody will handle."""
        super().sendCloseFrame(code, reasonUtf8, isReply)
        self.incoming.resume()

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write what Autobahn has framed, as it is."""
        self.transport.write(data)

    def onPing(self, payload: bytes) -> None:
        """Answer; answers that nobody reads are bounded like everything else."""
        if not self.write_frame(websocket.frame(payload, websocket.PONG), _queue_max_bytes()):
            self.close(*SLOW)

    # Way in -----------------------------------------------------------------------------------

    def onConnect(self, request: Any) -> Any:
        """Start the application of a connection, or refuse it."""
        server = self.factory.server_class
        refusal = server.admission.refusal() or handshake.refusal(request)
        if refusal is not None:
            raise ConnectionDeny(*refusal)
        self.server = server
        self.socket_opened = time.time()
        server.protocol_connected(self)
        scope = handshake.scope_of(self, request)
        scope["extensions"] = extensions_of(self)
        self.client_addr = scope["client"]
        self.incoming = Incoming(self.transport)
        self.incoming.put({"type": "websocket.connect"})
        self.handshake_deferred = defer.Deferred()
        application = server.application(scope, self.incoming.get, self.send)
        server.connections[self]["application_instance"] = asyncio.get_running_loop().create_task(
            application, name="websocket"
        )
        return self.handshake_deferred

    def onOpen(self) -> None:
        """Choose the way out; the application has accepted, and knows."""
        if not isinstance(self.transport, TcpConnection):
            self.writes_directly = False

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Queue a message for the application; what follows our close is nobody's."""
        if self.state != OPEN:
            return
        if isBinary:
            self.incoming.put({"type": "websocket.receive", "bytes": payload})
            return
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            self.close(*INVALID_TEXT)
        else:
            self.incoming.put({"type": "websocket.receive", "text": text})

    def _max_message_size_exceeded(self, msg_size: int, max_msg_size: int, reason: str) -> None:
        logger.warning("an incoming message is too big: %s", reason)
        # Autobahn's flag: what still arrives of this message is thrown away unread.
        self.failedByMe = True
        self.close(*MESSAGE_TOO_BIG)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Tell the application; a handshake that failed early was never known to it."""
        self.forget_http()
        if hasattr(self, "server") and self in self.server.connections:
            self.server.protocol_disconnected(self)
            self.incoming.put({"type": "websocket.disconnect", "code": code})

    # What the application says ----------------------------------------------------------------

    async def send(self, message: dict[str, Any]) -> None:
        """Do what an ASGI message says, unless the connection is gone."""
        details = self.server.connections.get(self)
        if details is not None and "disconnected" not in details:
            self.handle_reply(message)

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
        if self.state != self.STATE_CONNECTING:
            return  # dropped meanwhile
        deferred = self.handshake_deferred
        del self.handshake_deferred
        deferred.callback(
            (message.get("subprotocol"), headers) if headers else message.get("subprotocol")
        )

    def _send(self, message: dict[str, Any]) -> None:
        text = message.get("text")
        opcode = websocket.TEXT if text is not None else websocket.BINARY
        payload = text.encode() if text is not None else message["bytes"]
        frame = websocket.frame(payload, opcode)
        if not self.write_frame(frame, _queue_max_bytes()):
            self.close(*SLOW)

    def _deny(self, reason: str) -> None:
        self._has_denied = True
        deferred = self.handshake_deferred
        del self.handshake_deferred
        self.server.protocol_disconnected(self)
        deferred.errback(ConnectionDeny(self._denial_status, reason or "Refused"))

    def check_timeouts(self) -> None:
        """Refuse an application that does not answer a handshake, or not so that it can be sent.

        Nothing else: pings and ages are the session's, and are looked at in slices.
        """
        if self.state != self.STATE_CONNECTING:
            return
        if self.duration() > self.server.websocket_connect_timeout:
            if hasattr(self, "handshake_deferred"):
                self.serverReject()
            else:
                self.dropConnection(abort=True)


def _queue_max_bytes() -> int:
    return conf.current().queue_max_bytes


def prepare(factory: WebSocketFactory) -> None:
    """Let Daphne's factory make lean connections, with its configuration in their class."""
    writes_directly = direct_writes_work()
    if not writes_directly:
        logger.warning("Twisted's transport has changed: frames take the slow way")
    factory.setProtocolOptions(
        allowNullOrigin=True,  # the consumer decides, and says why
        failByDrop=False,  # so that a message that is too big is answered by 1009
        closeHandshakeTimeout=CLOSE_HANDSHAKE_SECONDS,
        openHandshakeTimeout=0,  # Daphne hands whole requests over; the answer: check_timeouts
        autoPingInterval=0,
        utf8validateIncoming=False,
    )
    configuration = {name: getattr(factory, name) for name in FrameProtocol.CONFIG_ATTRS}
    accept = configuration["perMessageCompressionAccept"]
    factory.protocol = type(
        FrameProtocol.__name__,
        (FrameProtocol,),
        {
            **configuration,
            "perMessageCompressionAccept": staticmethod(accept),
            "writes_directly": writes_directly,
        },
    )


def extensions_of(protocol: FrameProtocol) -> dict[str, Any]:
    """Return what a connection offers beyond plain ASGI."""
    return {FRAME_WRITER: protocol, DENIAL: {}}
