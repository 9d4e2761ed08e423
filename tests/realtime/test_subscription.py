import pytest

from realtime.protocol.disconnects import UNSUBSCRIBED_INSUFFICIENT_STATE
from realtime.protocol.messages import StreamPosition
from realtime.subscription import BUFFER_MAX_BYTES, Delivery, State, Subscription


def delivery(offset, epoch="now", *, size=None):
    frame = b"%d" % offset if size is None else b"x" * size
    return Delivery(frame, offset, epoch)


def plain(text):
    return Delivery(text)


def at(offset, epoch="now"):
    return StreamPosition(offset, epoch)


@pytest.fixture
def written():
    return []


@pytest.fixture
def ended():
    return []


class Holder:
    """An outbox and a holder that note what they are told."""

    def __init__(self, written, ended):
        self.write = written.append
        self.end = lambda *told: ended.append(told)


@pytest.fixture
def subscription(written, ended):
    holder = Holder(written, ended)
    return Subscription("news", outbox=holder, holder=holder, is_positioned=True)


@pytest.mark.rule("order-subscribe-reply-first")
def test_nothing_is_written_before_the_reply(subscription, written):
    subscription.hand(delivery(1))
    subscription.hand(plain(b"join"))

    assert subscription.state is State.JOINING
    assert not subscription.has_joined
    assert written == []


@pytest.mark.rule("live-known-dropped", "recover-buffered-follows")
def test_what_the_read_covered_is_not_written_again(subscription, written):
    for offset in (1, 2, 3):
        subscription.hand(delivery(offset))

    reached = subscription.release(at(2))

    assert reached == 3
    assert written == [b"3"]


@pytest.mark.rule("live-known-dropped")
def test_a_read_ahead_of_the_link_guards_until_the_link_has_passed_it(subscription, written):
    subscription.release(at(3))

    for offset in (2, 3, 4, 5):
        subscription.hand(delivery(offset))

    assert written == [b"4", b"5"]
    assert subscription.state is State.LIVE


def test_a_guard_lets_through_what_has_no_offset(subscription, written):
    subscription.release(at(3))

    subscription.hand(plain(b"join"))
    subscription.hand(delivery(3))

    assert written == [b"join"]
    assert subscription.state is State.GUARDED


def test_a_guard_holds_back_nothing_of_another_epoch(subscription, written):
    subscription.release(at(5))

    subscription.hand(delivery(9, "before"))
    subscription.hand(delivery(5))
    subscription.hand(delivery(1, "after"))

    assert written == [b"9", b"1"]


def test_what_was_kept_moves_the_guard_on(subscription, written):
    for offset in (3, 4):
        subscription.hand(delivery(offset))
    subscription.release(at(2))

    subscription.hand(delivery(4))  # repaired by the hub, which was behind

    assert written == [b"3", b"4"]


def test_an_offset_kept_twice_is_written_once(subscription, written):
    for offset in (3, 3):
        subscription.hand(delivery(offset))

    subscription.release(at(2))

    assert written == [b"3"]


@pytest.mark.rule("order-held-until-reply")
def test_without_a_position_everything_kept_is_written_in_order(subscription, written):
    for kept in (delivery(2), plain(b"join"), delivery(3)):
        subscription.hand(kept)

    reached = subscription.release(None)

    assert reached == 0
    assert written == [b"2", b"join", b"3"]
    assert subscription.is_live


def test_the_order_between_publications_and_joins_is_kept(subscription, written):
    for kept in (delivery(1), plain(b"join"), delivery(2), plain(b"leave")):
        subscription.hand(kept)

    subscription.release(at(1))

    assert written == [b"join", b"2", b"leave"]


@pytest.mark.parametrize(
    ("kept", "position"),
    [
        ((), 5),
        ((6,), 5),
        ((6, 7), 5),
        ((4, 5, 6), 5),
        ((3, 4), 5),
        ((5,), 5),
        ((0, 6, 0), 5),
    ],
)
def test_what_continues_the_read_follows(subscription, kept, position):
    for offset in kept:
        subscription.hand(delivery(offset))

    assert subscription.follows(at(position))


@pytest.mark.rule("recover-hole-read-again")
@pytest.mark.parametrize(("kept", "position"), [((7,), 5), ((6, 8), 5), ((4, 7), 5)])
def test_a_hole_after_the_read_does_not_follow(subscription, kept, position):
    for offset in kept:
        subscription.hand(delivery(offset))

    assert not subscription.follows(at(position))


def test_what_came_behind_a_hole_is_still_there_for_a_later_read(subscription, written):
    subscription.hand(delivery(8))
    assert not subscription.follows(at(5))

    assert subscription.follows(at(7))
    subscription.release(at(7))

    assert written == [b"8"]


def test_what_was_kept_of_another_epoch_is_forgotten(subscription, written):
    subscription.hand(delivery(6, "before"))
    assert not subscription.follows(at(5))

    assert subscription.follows(at(5))
    subscription.release(at(5))

    assert written == []


def test_a_full_buffer_asks_for_another_read(subscription, written):
    for offset in (1, 2, 3):
        subscription.hand(delivery(offset, size=BUFFER_MAX_BYTES // 2))
    assert not subscription.follows(at(0))

    subscription.hand(delivery(4))
    assert subscription.follows(at(3))
    subscription.release(at(3))

    assert written == [b"4"]


def test_a_buffer_that_overflowed_can_be_filled_again(subscription):
    subscription.hand(delivery(1, size=BUFFER_MAX_BYTES + 1))
    subscription.follows(at(0))

    subscription.hand(delivery(2, size=BUFFER_MAX_BYTES))

    assert not subscription.has_overflowed
    assert subscription.keeps(2)


def test_a_buffer_refilled_after_a_clear_holds_a_whole_buffer_again(subscription):
    subscription.hand(delivery(1, "before", size=BUFFER_MAX_BYTES))
    subscription.follows(at(0))  # forgets it: another epoch

    subscription.hand(delivery(1, size=BUFFER_MAX_BYTES))

    assert not subscription.has_overflowed


def test_an_ended_subscription_writes_nothing(subscription, written):
    subscription.release(at(0))
    subscription.hand(delivery(1))

    subscription.end()
    subscription.hand(delivery(2))

    assert written == [b"1"]
    assert not subscription.has_joined


def test_a_joining_subscription_can_end(subscription, written):
    subscription.hand(delivery(1))

    subscription.end()
    subscription.hand(delivery(2))

    assert not subscription.keeps(1)
    assert written == []


def test_the_server_asks_the_session_to_end_it(subscription, ended):
    subscription.end_by_server(UNSUBSCRIBED_INSUFFICIENT_STATE)

    assert ended == [(subscription, UNSUBSCRIBED_INSUFFICIENT_STATE)]
