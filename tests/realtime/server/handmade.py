"""Connections of the server's protocol class in this process, on transports that only remember."""

import asyncio
from typing import Any

from daphne.ws_protocol import WebSocketFactory
from twisted.internet.testing import StringTransport

from realtime.server.protocol import FrameProtocol, prepare

HANDSHAKE = (
    b"GET /connection/websocket?a=b HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MESSAGE_MAX_BYTES = 65536


class Transport(StringTransport):
    """Forgets a producer that it does not have, as Twisted's real ones do."""

    def unregisterProducer(self) -> None:
        self.producer = None


class Host:
    """What a protocol asks of its server; its application accepts and keeps what it receives."""

    def __init__(self) -> None:
        self.admission = self
        self.answer: tuple[int, str] | None = None
        self.connections: dict[Any, dict[str, Any]] = {}
        self.root_path = ""
        self.proxy_forwarded_address_header = None
        self.websocket_connect_timeout = 5
        self.received: list[dict[str, Any]] = []
        self.scopes: list[dict[str, Any]] = []
        self.acceptance: dict[str, Any] = {"type": "websocket.accept"}
        self.may_receive = asyncio.Event()
        self.may_receive.set()
        self.factory = WebSocketFactory(self)
        self.factory.setProtocolOptions(
            maxMessagePayloadSize=MESSAGE_MAX_BYTES, maxFramePayloadSize=MESSAGE_MAX_BYTES
        )
        prepare(self.factory)

    def refusal(self) -> tuple[int, str] | None:
        return self.answer

    def protocol_connected(self, protocol: Any) -> None:
        self.connections[protocol] = {}

    def protocol_disconnected(self, protocol: Any) -> None:
        self.connections[protocol]["disconnected"] = True

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await receive()
        await send(self.acceptance)
        while True:
            await self.may_receive.wait()
            self.received.append(await receive())
            if self.received[-1]["type"] == "websocket.disconnect":
                return

    def connect(self, request: bytes = HANDSHAKE) -> FrameProtocol:
        """Return a connection that has sent its handshake."""
        protocol = self.factory.buildProtocol(None)
        protocol._raw_query_string = b"a=b"
        protocol.makeConnection(Transport())
        protocol.dataReceived(request)
        return protocol

    async def open(self) -> FrameProtocol:
        """Return a connection whose handshake is answered and forgotten."""
        protocol = self.connect()
        async with asyncio.timeout(5):
            while protocol.state != protocol.STATE_OPEN:
                await asyncio.sleep(0)
        protocol.transport.clear()
        return protocol


def masked(
    payload: bytes, opcode: int = 1, *, is_final: bool = True, mask: bytes = b"wxyz"
) -> bytes:
    """Return a client's frame."""
    length = len(payload)
    head = bytes([(0x80 if is_final else 0) | opcode])
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 65536:
        head += b"\xfe" + length.to_bytes(2, "big")
    else:
        head += b"\xff" + length.to_bytes(8, "big")
    body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return head + mask + body
