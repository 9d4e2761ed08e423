"""What ``realtime.server`` takes for granted of Autobahn."""

import pytest
from autobahn.twisted.websocket import (
    ConnectionDeny,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from realtime.protocol import websocket

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Recorder(WebSocketServerProtocol):
    """Notes what Autobahn calls."""

    def __init__(self):
        super().__init__()
        self.exceeded = []
        self.messages = []
        self.closes = []

    def onMessage(self, payload, isBinary):
        self.messages.append((payload, isBinary))

    def onClose(self, wasClean, code, reason):
        self.closes.append((wasClean, code, reason))

    def _max_message_size_exceeded(self, msg_size, max_msg_size, reason):
        self.exceeded.append(msg_size)
        self.failedByMe = True
        self.sendCloseFrame(1009, b"message too big")


@pytest.fixture(scope="module")
def factory():
    factory = WebSocketServerFactory()
    factory.protocol = Recorder
    factory.setProtocolOptions(
        openHandshakeTimeout=0,
        closeHandshakeTimeout=0,
        autoPingInterval=0,
        failByDrop=False,
        maxMessagePayloadSize=65536,
        maxFramePayloadSize=65536,
        allowNullOrigin=True,
    )
    return factory


@pytest.fixture(scope="module")
def unbounded():
    factory = WebSocketServerFactory()
    factory.protocol = Recorder
    factory.setProtocolOptions(openHandshakeTimeout=0)
    return factory


def opened(factory):
    protocol = factory.buildProtocol(None)
    transport = StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(HANDSHAKE)
    assert transport.value().startswith(b"HTTP/1.1 101 ")
    transport.clear()
    return protocol


@pytest.fixture
def protocol(factory):
    return opened(factory)


def masked(payload, opcode=1, *, is_final=True):
    """Return a client's frame; a mask of zeros changes nothing."""
    length = len(payload)
    head = bytes([(0x80 if is_final else 0) | opcode])
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 65536:
        head += b"\xfe" + length.to_bytes(2, "big")
    else:
        head += b"\xff" + length.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 65537])
@pytest.mark.parametrize("is_binary", [False, True])
def test_a_frame_has_the_bytes_of_autobahns(unbounded, length, is_binary):
    protocol = opened(unbounded)
    payload = b"x" * length
    opcode = websocket.BINARY if is_binary else websocket.TEXT

    protocol.sendMessage(payload, is_binary)

    assert websocket.frame(payload, opcode) == protocol.transport.value()


def test_any_frame_has_the_bytes_of_autobahns(unbounded):
    protocol = opened(unbounded)

    @given(st.binary(max_size=300))
    @examples(max_examples=50)
    def holds(payload):
        protocol.transport.clear()
        protocol.sendMessage(payload, True)
        assert websocket.frame(payload, websocket.BINARY) == protocol.transport.value()

    holds()


@pytest.mark.rule("close-1009")
def test_a_close_frame_takes_any_code_and_bytes_for_a_reason(protocol):
    protocol.sendCloseFrame(1009, websocket.reason_bytes("é" * 100))

    sent = protocol.transport.value()
    assert sent[0] == 0x88
    assert sent[1] == len(sent) - 2 <= 125
    assert sent[2:4] == (1009).to_bytes(2, "big")
    assert sent[4:].decode()


def test_a_sent_close_ends_the_open_state(protocol):
    assert protocol.state == protocol.STATE_OPEN

    protocol.sendCloseFrame(3001, b"shutdown")

    assert protocol.state == protocol.STATE_CLOSING
    assert protocol.STATE_CONNECTING not in (protocol.STATE_OPEN, protocol.STATE_CLOSING)


@pytest.mark.rule("ws-message-beyond-64k-1009")
def test_a_message_beyond_the_bound_is_told_and_the_rest_of_it_thrown_away(protocol):
    protocol.dataReceived(masked(b" " * 65537) + masked(b"after"))

    assert protocol.exceeded == [65537]
    assert protocol.messages == []
    assert protocol.transport.value()[2:4] == (1009).to_bytes(2, "big")


def test_the_bound_is_of_a_whole_message_in_parts(protocol):
    protocol.dataReceived(masked(b" " * 40_000, is_final=False))
    protocol.dataReceived(masked(b" " * 40_000, 0))

    assert protocol.exceeded
    assert protocol.messages == []


@pytest.mark.rule("ws-message-64k-read")
def test_a_message_at_the_bound_is_read(protocol):
    protocol.dataReceived(masked(b" " * 65536))

    assert protocol.messages == [(b" " * 65536, False)]
    assert protocol.exceeded == []


def test_the_factory_counts_its_connections(factory):
    before = factory.countConnections
    protocol = opened(factory)
    assert factory.countConnections == before + 1

    protocol.connectionLost(Failure(ConnectionDone()))

    assert factory.countConnections == before


def test_a_handshake_can_be_denied_with_any_status():
    denial = ConnectionDeny(503, "Service Unavailable")

    assert (denial.code, denial.reason) == (503, "Service Unavailable")
