import pytest

from realtime.outbox import Outbox
from realtime.protocol.disconnects import FORCE_DISCONNECT, SHUTDOWN, SLOW, WRITE_ERROR
from tests.realtime.frames import RecordingWriter

LIMIT_BYTES = 100


@pytest.fixture
def writer():
    return RecordingWriter()


@pytest.fixture
def outbox(writer):
    return Outbox(writer, limit_bytes=LIMIT_BYTES)


def test_frames_go_out_in_order(outbox, writer):
    outbox.write(b"one")
    outbox.write(b"two")

    assert writer.frames == [b"one", b"two"]


@pytest.mark.rule("slow-empty-queue-accepts")
def test_any_frame_is_accepted_onto_an_empty_queue(outbox, writer):
    outbox.write(b"x" * 10 * LIMIT_BYTES)

    assert len(writer.frames) == 1
    assert outbox.closed_with is None


def test_the_queue_may_be_filled_to_its_bound(outbox, writer):
    writer.waiting_bytes = LIMIT_BYTES - 3

    outbox.write(b"abc")

    assert writer.frames == [b"abc"]


@pytest.mark.rule("slow-3008")
def test_a_frame_beyond_the_bound_closes_with_slow_and_is_dropped(outbox, writer):
    writer.waiting_bytes = LIMIT_BYTES - 2

    outbox.write(b"abc")

    assert writer.messages == [{"push": {"disconnect": {"code": 3008, "reason": "slow"}}}]
    assert writer.closes == [SLOW]


@pytest.mark.rule("push-disconnect")
def test_the_push_that_says_why_comes_before_the_close_even_when_full(writer):
    order = []
    writer.write_frame = lambda frame: order.append("push")  # and no limit is given
    writer.close = lambda code, reason: order.append(code)
    writer.waiting_bytes = 10 * LIMIT_BYTES

    Outbox(writer, limit_bytes=LIMIT_BYTES).close(SHUTDOWN)

    assert order == ["push", 3001]


def test_nothing_follows_a_close(outbox, writer):
    outbox.close(FORCE_DISCONNECT)

    outbox.write(b"late")

    assert len(writer.frames) == 1


def test_the_first_reason_stands(outbox, writer):
    outbox.close(FORCE_DISCONNECT)
    outbox.close(SHUTDOWN)

    assert outbox.closed_with is FORCE_DISCONNECT
    assert writer.closes == [FORCE_DISCONNECT]


@pytest.mark.rule("write-error-3009")
def test_a_writer_that_fails_costs_its_own_connection_alone(outbox, writer):
    def fail(frame, limit_bytes=0):
        raise RuntimeError("a broken socket")

    writer.write_frame = fail

    outbox.write(b"one")

    assert outbox.closed_with is WRITE_ERROR
    assert writer.closes == [WRITE_ERROR]


def test_a_writer_that_cannot_even_close_is_left_alone(outbox, writer):
    def fail(*_):
        raise RuntimeError("a broken socket")

    writer.write_frame = writer.close = fail

    outbox.write(b"one")
    outbox.write(b"two")

    assert outbox.closed_with is WRITE_ERROR


def test_a_close_on_a_writer_that_fails_does_not_fail_its_caller(outbox, writer):
    # It is called from the middle of a walk over all connections: a drain, a control command.
    def fail(*_):
        raise RuntimeError("a broken socket")

    writer.write_frame = writer.close = fail

    outbox.close(SHUTDOWN)

    assert outbox.closed_with is SHUTDOWN
