"""What ``realtime.server`` takes for granted of Autobahn."""

import inspect

import pytest
from autobahn.twisted.websocket import (
    ConnectionDeny,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket.protocol import WebSocketProtocol as AutobahnProtocol
from autobahn.websocket.protocol import WebSocketServerProtocol as AutobahnServerProtocol
from daphne.ws_protocol import WebSocketFactory
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from realtime.protocol import websocket
from realtime.server.lean_protocol import LeanProtocol
from realtime.server.protocol import prepare

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


# A lean connection ------------------------------------------------------------------------------


def unopened(factory):
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(StringTransport())
    return protocol


def test_what_autobahn_gives_every_connection_is_what_the_class_has(unbounded):
    own_things = {"factory", "transport", "state", "connected", "_transport_details", "peer"}
    shared = {"is_open", "is_closed", "trafficStats", "utf8validator", "exceeded", "messages"}
    of_events = {"_valid_events", "_results", "closes"}  # Recorder's, and what nobody listens to
    left_out = own_things | shared | of_events | set(Recorder.CONFIG_ATTRS)

    for name, value in vars(unopened(unbounded)).items():
        if name not in left_out:
            assert hasattr(LeanProtocol, name), f"Autobahn has a new {name}"
            assert getattr(LeanProtocol, name) == value, name


def test_the_configuration_is_copied_by_name():
    text = inspect.getsource(AutobahnProtocol._connectionMade)

    assert "for configAttr in self.CONFIG_ATTRS:" in text
    assert "setattr(self, configAttr, getattr(self.factory, configAttr))" in text


def test_the_class_brings_all_that_is_configured_and_no_function_is_bound():
    factory = WebSocketFactory(None)
    prepare(factory)

    protocol = factory.protocol()
    for name in Recorder.CONFIG_ATTRS:
        assert getattr(protocol, name) == getattr(factory, name), name
    assert protocol.perMessageCompressionAccept([]) is None
    assert not protocol.utf8validateIncoming
    assert not protocol.failByDrop
    assert protocol.openHandshakeTimeout == 0


def test_a_server_counts_a_connection_when_it_is_made():
    text = inspect.getsource(AutobahnServerProtocol._connectionMade)

    assert "self.factory.countConnections += 1" in text
    assert "onClose" in inspect.getsource(AutobahnProtocol._connectionLost)
    # Behind what may fail: an exception there would never be taken back.
    text = inspect.getsource(AutobahnServerProtocol._connectionLost)
    assert text.index("WebSocketProtocol._connectionLost(") < text.index("countConnections -= 1")


def test_a_handshake_goes_through_the_methods_that_are_overridden():
    text = inspect.getsource(AutobahnServerProtocol.succeedHandshake)

    assert "self._onOpen()" in text
    assert text.index("self.inside_message = False") < text.index("self._onOpen()")
    assert "txaio.resolve(self.is_open, None)" in text
    assert "self.sendData(response.encode(" in text
    assert "self.sendData(raw, sync, chopsize)" in inspect.getsource(AutobahnProtocol.sendFrame)


def test_an_open_connection_is_read_through_the_methods_that_are_overridden():
    assert "self._onMessageEnd()" in inspect.getsource(AutobahnProtocol.onFrameEnd)
    for name in ("message_data", "message_is_binary"):
        assert f"self.{name}" in inspect.getsource(AutobahnProtocol.onMessageBegin)
    assert "self.current_frame is None" in inspect.getsource(AutobahnProtocol.processData)


def test_a_close_frame_says_what_was_sent(protocol):
    protocol.sendCloseFrame(3001, b"shutdown")

    assert (protocol.closedByMe, protocol.localCloseCode) == (True, 3001)
    assert protocol.localCloseReason == b"shutdown"


def test_a_reply_to_a_close_is_not_a_close_by_this_side(protocol):
    protocol.sendCloseFrame(1000, isReply=True)

    assert not protocol.closedByMe


def test_a_close_that_is_not_answered_ends_in_one_method():
    text = inspect.getsource(AutobahnProtocol.sendCloseFrame)

    assert "self.onCloseHandshakeTimeout" in text
