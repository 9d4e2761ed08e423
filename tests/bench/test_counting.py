"""What the benchmark counts is what was sent: frames, publications, lost and doubled ones."""

import socket

import pytest

from bench.client import frames
from bench.client.reader import OPEN, Reader
from bench.client.tally import Tally
from bench.peers.base import PAYLOAD_BYTES, Seat, Wire, client_frame, payload


class PlainWire(Wire):
    def handshake(self, seat, resume=None):
        return b""

    def publish(self, channel, data):
        return b""


def frame(data: bytes, opcode: int = frames.TEXT) -> bytes:
    """Return what a server would send."""
    if len(data) < 126:
        return bytes((0x80 | opcode, len(data))) + data
    if len(data) < 65536:
        return bytes((0x80 | opcode, 126)) + len(data).to_bytes(2, "big") + data
    return bytes((0x80 | opcode, 127)) + len(data).to_bytes(8, "big") + data


@pytest.fixture
def sockets():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def reader(sockets):
    """An open connection that waits for publication 1."""
    made = Reader(Seat(0, "news"), PlainWire(), Tally(), forget=lambda _sock: None, expected=1)
    made.sock, made.state = sockets[0], OPEN
    return made


def receive(reader: Reader, sockets, *chunks: bytes) -> Tally:
    for chunk in chunks:
        sockets[1].sendall(chunk)
        reader.on_readable()
    return reader._tally


def test_a_payload_has_its_size_and_its_stamp():
    data = payload(7, 1234567890123456789)

    assert len(data) == PAYLOAD_BYTES
    assert frames.stamps(data) == [(7, 1234567890123456789)]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames_are_split_at_every_length(size):
    data = frame(b"x" * size) + frame(b"{}") + b"\x81"

    assert frames.split(data) == ([(frames.TEXT, b"x" * size), (frames.TEXT, b"{}")], b"\x81")


@pytest.mark.parametrize("size", [5, 126, 65536])
def test_no_part_of_a_frame_is_taken_for_a_whole_one(size):
    data = frame(b"x" * size)

    for end in {1, 2, 3, 5, len(data) - 1}:
        assert frames.split(data[:end]) == ([], data[:end])


def test_publications_in_order_are_delivered(reader, sockets):
    tally = receive(reader, sockets, *(frame(payload(number, 1)) for number in (1, 2, 3)))

    assert (tally.delivered, tally.lost, tally.doubled, reader.expected) == (3, 0, 0, 4)


def test_a_skipped_publication_is_lost(reader, sockets):
    tally = receive(reader, sockets, *(frame(payload(number, 1)) for number in (1, 4)))

    assert (tally.delivered, tally.lost, tally.doubled) == (2, 2, 0)


def test_the_same_publication_again_is_doubled(reader, sockets):
    tally = receive(reader, sockets, *(frame(payload(number, 1)) for number in (1, 2, 2, 1)))

    assert (tally.lost, tally.doubled, reader.expected) == (0, 2, 3)


def test_several_frames_in_pieces_are_all_counted(reader, sockets):
    whole = b"".join(frame(payload(number, 1)) for number in range(1, 6))

    tally = receive(reader, sockets, whole[:50], whole[50:51], whole[51:400], whole[400:])

    assert (tally.delivered, tally.lost, tally.doubled) == (5, 0, 0)


def test_several_publications_in_one_frame_are_all_counted(reader, sockets):
    tally = receive(reader, sockets, frame(payload(1, 1) + b"\n" + payload(2, 1)))

    assert (tally.delivered, tally.lost) == (2, 0)


def test_the_answer_of_a_call_counts_with_the_payload_in_it(reader, sockets):
    reply = b'{"id":3,"rpc":{"data":%s}}' % payload(1, 5)

    tally = receive(reader, sockets, frame(reply))

    assert (tally.delivered, len(tally.latencies_ns)) == (1, 1)


def test_an_error_reply_counts_not_but_is_told(reader, sockets):
    reader._wire.error_marker = b'"error":'
    reply = b'{"id":3,"error":{"code":100,"message":"internal server error"}}'

    tally = receive(reader, sockets, frame(reply))

    assert tally.delivered == 0
    assert tally.failures == {reply.decode(): 1}


def test_a_ping_is_answered_and_what_follows_it_counted(reader, sockets):
    tally = receive(reader, sockets, frame(b"here?", frames.PING) + frame(payload(1, 1)))

    answer = sockets[1].recv(100)
    mask, masked = answer[2:6], answer[6:]
    assert answer[0] == 0x80 | frames.PONG
    assert bytes(each ^ mask[at % 4] for at, each in enumerate(masked)) == b"here?"
    assert tally.delivered == 1


def test_a_ping_of_the_application_is_answered_beside_publications(reader, sockets):
    reader._wire.ping, reader._wire.pong = b"{}", b"{}"

    tally = receive(
        reader, sockets, frame(payload(1, 1) + b"\n{}"), frame(b"{}"), frame(payload(2, 1))
    )

    assert len(sockets[1].recv(100)) == 2 * len(client_frame(b"{}"))
    assert (tally.delivered, tally.lost) == (2, 0)


def test_a_close_is_seen_with_its_code(reader, sockets):
    receive(reader, sockets, frame((3008).to_bytes(2, "big") + b"slow", frames.CLOSE))
    sockets[1].shutdown(socket.SHUT_WR)
    reader.on_readable()

    assert (reader.close_code, reader._tally.closed) == (3008, 1)


@pytest.mark.parametrize("size", [0, 3, 125, 126, 65536])
def test_frames_of_the_driver_are_masked(size):
    made = client_frame(b"z" * size)

    # A frame of a server is the same without the mask and its bit.
    start = len(made) - size - 4
    mask, masked = made[start : start + 4], made[start + 4 :]
    assert made[1] & 0x80
    assert bytes(each ^ mask[at % 4] for at, each in enumerate(masked)) == b"z" * size
