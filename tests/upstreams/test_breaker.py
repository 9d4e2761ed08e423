"""Not asking for a while who has just failed several times."""

import pytest

from upstreams.breaker import Breaker
from upstreams.failures import Failed

SECONDS = 10


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def changes():
    return []


@pytest.fixture
def breaker(clock, changes):
    return Breaker(clock=clock, on_change=lambda is_open, reason: changes.append((is_open, reason)))


def call(breaker, reason=""):
    entered = breaker.enter(seconds=SECONDS)
    if reason:
        breaker.fail(entered, reason, failures=3)
    else:
        breaker.succeed(entered)


def opened(breaker):
    for _ in range(3):
        call(breaker, "timeout")


def test_failures_in_a_row_open_it(breaker, changes):
    opened(breaker)

    with pytest.raises(Failed, match="breaker open"):
        call(breaker)
    assert changes == [(True, "timeout")]


def test_a_success_in_between_keeps_it_closed(breaker, changes):
    for _ in range(5):
        call(breaker, "timeout")
        call(breaker, "timeout")
        call(breaker)

    assert not breaker.is_open
    assert changes == []


def test_after_a_while_one_call_tries(breaker, clock):
    opened(breaker)
    clock.now += SECONDS

    breaker.enter(seconds=SECONDS)
    with pytest.raises(Failed):
        breaker.enter(seconds=SECONDS)


def test_the_trial_that_succeeds_closes_it(breaker, clock, changes):
    opened(breaker)
    clock.now += SECONDS

    call(breaker)
    call(breaker)

    assert changes == [(True, "timeout"), (False, "")]


def test_the_trial_that_fails_opens_it_for_as_long_again(breaker, clock, changes):
    opened(breaker)
    clock.now += SECONDS
    call(breaker, "connect")

    clock.now += SECONDS - 1
    with pytest.raises(Failed):
        call(breaker)
    clock.now += 1
    call(breaker)
    assert changes == [(True, "timeout"), (False, "")]


def test_a_trial_that_nobody_waited_for_makes_room_for_another(breaker, clock):
    opened(breaker)
    clock.now += SECONDS
    entered = breaker.enter(seconds=SECONDS)

    breaker.abandon(entered)

    call(breaker)
    assert not breaker.is_open


@pytest.mark.parametrize("outcome", ["succeed", "fail", "abandon"])
def test_what_was_under_way_before_decides_nothing(breaker, clock, changes, outcome):
    early = breaker.enter(seconds=SECONDS)
    opened(breaker)
    clock.now += SECONDS
    breaker.enter(seconds=SECONDS)

    arguments = {"reason": "timeout", "failures": 3} if outcome == "fail" else {}
    getattr(breaker, outcome)(early, **arguments)

    with pytest.raises(Failed, match="breaker open"):  # one tries, and no other beside it
        breaker.enter(seconds=SECONDS)
    assert changes == [(True, "timeout")]
