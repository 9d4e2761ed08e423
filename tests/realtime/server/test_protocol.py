"""The protocol class by itself, beside Autobahn's own reading and framing."""

import asyncio
import random

import pytest
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from realtime.protocol import websocket
from realtime.protocol.disconnects import INVALID_TEXT, MESSAGE_TOO_BIG, SHUTDOWN
from realtime.server.incoming import MESSAGES_MAX
from realtime.server.lean_protocol import KEPT, READ_BYTES
from tests.realtime.server.handmade import (
    HANDSHAKE,
    MESSAGE_MAX_BYTES,
    Host,
    Transport,
    masked,
)


@pytest.fixture
async def host():
    return Host()


def texts(host):
    return [message["text"] for message in host.received if "text" in message]


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


# What is kept ----------------------------------------------------------------------------------


async def test_an_open_connection_keeps_little(host):
    protocol = await host.open()
    protocol.dataReceived(masked(b"hello"))
    await settle()

    assert texts(host) == ["hello"]
    assert set(vars(protocol)) <= {*KEPT, "writes_directly"}
    assert protocol.transport.producer is None


async def test_what_came_in_parts_costs_nothing_that_lasts(host):
    protocol = await host.open()
    for _ in range(100):
        protocol.dataReceived(masked(b"x" * 1000, is_final=False) + masked(b"y", 0))
    await settle()

    assert len(texts(host)) == 100
    assert len(protocol.data) == 0
    assert not protocol.message_data


async def test_the_scope_says_what_was_asked(host):
    await host.open()

    (scope,) = host.scopes
    assert scope["path"] == "/connection/websocket"
    assert scope["query_string"] == b"a=b"
    assert (b"host", b"127.0.0.1") in scope["headers"]
    assert scope["client"] == ["192.168.1.1", 54321]
    assert scope["subprotocols"] == []
    assert scope["type"] == "websocket"


async def test_a_header_with_an_underscore_passes_for_no_other(host):
    host.connect(HANDSHAKE.replace(b"\r\n\r\n", b"\r\nX_Real_IP: 1\r\nX-Other: 2\r\n\r\n"))
    await settle()

    names = [name for name, _ in host.scopes[0]["headers"]]
    assert b"x-other" in names
    assert b"x_real_ip" not in names


async def test_compression_is_not_offered(host):
    offer = b"\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    protocol = host.connect(HANDSHAKE.replace(b"\r\n\r\n", offer))
    await settle()

    answer = protocol.transport.value()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"extensions" not in answer.lower()


# Handshakes that are refused -------------------------------------------------------------------


async def test_a_refused_handshake_costs_no_application(host):
    host.answer = (503, "Connection Limit")

    protocol = host.connect()
    await settle()
    protocol.connectionLost(Failure(ConnectionDone()))

    assert protocol.transport.value().startswith(b"HTTP/1.1 503 Connection Limit\r\n")
    assert host.scopes == []
    assert host.connections == {}
    assert host.factory.countConnections == 0


async def test_bad_handshakes_are_not_counted_for_ever(host):
    for request in (
        HANDSHAKE.replace(b"Version: 13", b"Version: 99"),
        HANDSHAKE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
        HANDSHAKE.replace(b"Host: 127.0.0.1\r\n", b""),
        HANDSHAKE.replace(b"GET", b"PUT"),
        HANDSHAKE.replace(b"Upgrade: websocket", b"Upgrade: something"),
        HANDSHAKE.replace(b"Connection: Upgrade", b"Connection: close"),
        HANDSHAKE.replace(b"\r\n\r\n", b"\r\nOrigin: http://[\r\n\r\n"),
        HANDSHAKE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: a, a\r\n\r\n"),
        HANDSHAKE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: \xff\r\n\r\n"),
    ):
        protocol = host.connect(request)
        assert protocol.transport.value().startswith(b"HTTP/1.1 4") or b" 505 " in (
            protocol.transport.value()
        )
        protocol.connectionLost(Failure(ConnectionDone()))

    assert host.connections == {}
    assert host.factory.countConnections == 0
    assert host.scopes == []


async def test_a_handshake_sets_no_timer(host):
    protocol = host.connect()

    assert protocol.openHandshakeTimeoutCall is None
    await settle()
    protocol.connectionLost(Failure(ConnectionLost()))
    await settle()

    assert host.received == [{"type": "websocket.disconnect", "code": 1006}]


async def test_a_second_request_before_the_answer_is_no_second_handshake(host):
    protocol = host.connect()

    protocol.dataReceived(HANDSHAKE)
    await settle()

    assert len(host.scopes) == 1
    assert protocol.transport.value().count(b"HTTP/1.1 ") == 1


async def test_what_comes_before_the_answer_is_read_behind_it(host):
    protocol = host.connect()

    protocol.dataReceived(masked(b"early"))
    await settle()

    assert texts(host) == ["early"]


async def test_a_flood_before_the_answer_ends_the_connection(host):
    protocol = host.connect()

    for _ in range(100):
        protocol.dataReceived(bytes(1000))
    await settle()

    assert protocol.transport.disconnecting
    assert len(protocol.data) <= READ_BYTES + 1000
    assert protocol.transport.value() == b""


async def test_an_acceptance_that_cannot_be_sent_ends_by_the_deadline(host):
    host.acceptance = {"type": "websocket.accept", "subprotocol": "nobody-asked-for-it"}
    protocol = host.connect()
    await settle()
    assert protocol.state == protocol.STATE_CONNECTING

    protocol.check_timeouts()
    assert not protocol.transport.disconnecting

    protocol.socket_opened -= host.websocket_connect_timeout + 1
    protocol.check_timeouts()
    assert protocol.transport.disconnecting


# Reading ---------------------------------------------------------------------------------------


class Stock(WebSocketServerProtocol):
    """Autobahn's own reading."""

    def onOpen(self):
        self.messages = []

    def onMessage(self, payload, isBinary):
        self.messages.append((payload, isBinary))


def stock_connection():
    factory = WebSocketServerFactory()
    factory.protocol = Stock
    factory.setProtocolOptions(
        openHandshakeTimeout=0,
        failByDrop=False,
        closeHandshakeTimeout=0,
        allowNullOrigin=True,
        utf8validateIncoming=False,
    )
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(Transport())
    protocol.dataReceived(HANDSHAKE)
    protocol.transport.clear()
    return protocol


client_frames = st.one_of(
    st.builds(
        masked,
        st.text(max_size=40).map(str.encode),
        st.just(1),
        mask=st.binary(min_size=4, max_size=4),
    ),
    st.builds(masked, st.binary(max_size=40), st.just(2), mask=st.binary(min_size=4, max_size=4)),
    st.builds(masked, st.sampled_from([b"a" * n for n in (125, 126, 127, 1000)]), st.just(1)),
    st.builds(masked, st.binary(max_size=20), st.just(9)),
    st.builds(masked, st.binary(max_size=20), st.just(10)),
    st.builds(
        lambda a, b: masked(a, 1, is_final=False) + masked(b, 0),
        st.just(b"first "),
        st.just(b"second"),
    ),
)


@given(st.lists(client_frames, max_size=12), st.randoms(use_true_random=False))
@examples(max_examples=150, deadline=None)
def test_whatever_arrives_is_read_as_autobahn_reads_it(frames, choices):
    async def both():
        ours, theirs, host = None, stock_connection(), Host()
        ours = await host.open()
        data = b"".join(frames)
        while data:
            cut = choices.randint(1, max(1, min(len(data), choices.choice((3, 50, 5000)))))
            for protocol in (ours, theirs):
                protocol.dataReceived(data[:cut])
            data = data[cut:]
            await settle()
        got = [
            (each["text"].encode(), False) if "text" in each else (each["bytes"], True)
            for each in host.received
        ]
        assert got == theirs.messages
        assert ours.transport.value() == theirs.transport.value()  # the pongs
        ours.connectionLost(Failure(ConnectionDone()))
        await settle()

    asyncio.run(both())


async def test_garbage_is_refused_as_autobahn_refuses_it(host):
    chance = random.Random(7)
    for _ in range(200):
        garbage = chance.randbytes(chance.randint(1, 60))
        ours, theirs = await host.open(), stock_connection()

        ours.dataReceived(garbage)
        theirs.dataReceived(garbage)

        if ours.closed_with != INVALID_TEXT:  # which ``theirs`` does not look for
            assert ours.transport.value() == theirs.transport.value(), garbage
        ours.connectionLost(Failure(ConnectionDone()))


async def test_a_stream_that_breaks_the_protocol_is_kept_nothing_of(host):
    protocol = await host.open()

    for _ in range(100):
        protocol.dataReceived(masked(b"x" * 1000, 9))  # a ping may have 125

    assert protocol.transport.value()[2:4] == (1002).to_bytes(2, "big")
    assert protocol.transport.disconnecting
    assert len(protocol.data) == 0
    assert not vars(protocol).get("control_frame_data")


async def test_empty_parts_of_a_message_cost_nothing(host):
    protocol = await host.open()
    protocol.dataReceived(masked(b"begin", is_final=False))

    for _ in range(1000):
        protocol.dataReceived(masked(b"", 0, is_final=False))

    assert protocol.message_data == b"begin"
    protocol.dataReceived(masked(b" end", 0))
    await settle()
    assert texts(host) == ["begin end"]


async def test_text_that_is_not_utf8_closes_with_1007(host):
    protocol = await host.open()

    protocol.dataReceived(masked(b"\xff\xfe") + masked(b"after"))
    await settle()

    assert protocol.closed_with == INVALID_TEXT
    assert protocol.transport.value()[2:4] == (1007).to_bytes(2, "big")
    assert host.received == []


async def test_text_in_parts_that_is_not_utf8_closes_with_1007(host):
    protocol = await host.open()

    protocol.dataReceived(masked(b"ok", is_final=False) + masked(b"\xc3", 0))

    assert protocol.closed_with == INVALID_TEXT


async def test_a_message_beyond_the_bound_closes_with_1009(host):
    protocol = await host.open()

    frame = masked(b" " * (MESSAGE_MAX_BYTES + 1))

    protocol.dataReceived(frame[:100])
    assert protocol.closed_with == MESSAGE_TOO_BIG

    protocol.dataReceived(frame[100:-1])
    await settle()
    assert len(protocol.data) == 0  # what arrives of it is thrown away unread
    assert not protocol.message_data
    assert host.received == []


async def test_what_follows_our_close_is_nobodys(host):
    protocol = await host.open()

    protocol.close(*SHUTDOWN)
    protocol.dataReceived(masked(b"late"))
    await settle()

    assert host.received == []
    assert protocol.closed_with == SHUTDOWN


async def test_a_clients_close_is_not_ours(host):
    protocol = await host.open()

    protocol.dataReceived(masked((4321).to_bytes(2, "big") + b"bye", 8))
    protocol.connectionLost(Failure(ConnectionDone()))
    await settle()

    assert protocol.closed_with is None
    assert host.received == [{"type": "websocket.disconnect", "code": 4321}]


# Back-pressure ---------------------------------------------------------------------------------


async def test_a_socket_that_is_ahead_is_not_read_until_half_is_done(host):
    protocol = await host.open()
    host.may_receive.clear()
    await settle()

    protocol.dataReceived(masked(b"x") * (MESSAGES_MAX + 2))
    assert protocol.transport.producerState == "paused"

    host.may_receive.set()
    await settle()
    assert protocol.transport.producerState == "producing"


async def test_a_close_by_us_reads_on_so_that_its_answer_is_seen(host):
    protocol = await host.open()
    host.may_receive.clear()
    await settle()
    protocol.dataReceived(masked(b"x") * (MESSAGES_MAX + 2))

    protocol.close(*SHUTDOWN)

    assert protocol.transport.producerState == "producing"


async def test_the_end_of_a_paused_connection_is_told(host):
    protocol = await host.open()
    host.may_receive.clear()
    await settle()
    protocol.dataReceived(masked(b"x") * (MESSAGES_MAX + 2))

    protocol.connectionLost(Failure(ConnectionLost()))
    host.may_receive.set()
    await settle()

    assert host.received[-1] == {"type": "websocket.disconnect", "code": 1006}


# Writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536])
async def test_text_goes_out_with_the_bytes_of_autobahns(host, length):
    ours, theirs = await host.open(), stock_connection()

    assert ours.write_frame(websocket.frame(b"x" * length))
    theirs.sendMessage(b"x" * length, False)

    assert ours.transport.value() == theirs.transport.value()


@pytest.mark.parametrize("length", [0, 1, 125])
async def test_a_ping_goes_out_with_the_bytes_of_autobahns(host, length):
    ours, theirs = await host.open(), stock_connection()

    ours.write_frame(websocket.frame(b"x" * length, websocket.PING))
    theirs.sendPing(b"x" * length)

    assert ours.transport.value() == theirs.transport.value()


@pytest.mark.parametrize("length", [0, 1, 123, 124])
async def test_a_close_goes_out_with_the_bytes_of_autobahns(host, length):
    ours, theirs = await host.open(), stock_connection()

    ours.close(3500, "x" * length)
    theirs.sendClose(3500, "x" * length)

    assert ours.transport.value() == theirs.transport.value()


async def test_nothing_is_written_after_the_close_and_nobody_is_blamed(host):
    protocol = await host.open()
    protocol.close(*SHUTDOWN)
    protocol.transport.clear()

    assert protocol.write_frame(websocket.frame(b"late"), 0)

    assert protocol.transport.value() == b""
