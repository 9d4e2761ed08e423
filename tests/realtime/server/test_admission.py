import logging

import pytest

from realtime.server.admission import Admission


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def connections() -> list[object]:
    return []


@pytest.fixture
def admission(clock: Clock, connections: list[object]) -> Admission:
    return Admission(connections, clock=clock)


def admitted(admission: Admission, count: int) -> int:
    """Return how many of so many handshakes at once are let in."""
    return [admission.refusal() for _ in range(count)].count(None)


@pytest.mark.rule("default-connection-limit-off")
def test_nobody_is_refused_unless_a_limit_is_set(settings, admission, connections):
    settings.REALTIME = {}
    connections.extend(range(100_000))

    assert admitted(admission, 1000) == 1000


def test_who_comes_while_the_server_drains_is_refused(admission):
    admission.is_draining = True

    assert admission.refusal() == (503, "Draining")


def test_a_connection_beyond_the_limit_is_refused_until_one_ends(settings, admission, connections):
    settings.REALTIME = {"CONNECTION_LIMIT": 2}
    connections.append("first")
    before = admission.refusal()
    connections.append("second")

    beyond = admission.refusal()
    connections.pop()

    assert before is None
    assert beyond == (503, "Connection Limit")
    assert admission.refusal() is None


def test_handshakes_of_one_second_may_come_at_once(settings, admission):
    settings.REALTIME = {"CONNECTION_RATE": 5}

    assert admitted(admission, 100) == 5
    assert admission.refusal() == (503, "Connection Rate")


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 0), (0.2, 1), (0.9, 4), (1.0, 5), (60.0, 5)])
def test_more_are_let_in_as_time_goes_by(settings, admission, clock, seconds, count):
    settings.REALTIME = {"CONNECTION_RATE": 5}
    admitted(admission, 100)

    clock.now += seconds + 1e-6

    assert admitted(admission, 100) == count


def test_over_a_minute_no_more_than_the_rate_is_let_in(settings, admission, clock):
    settings.REALTIME = {"CONNECTION_RATE": 7}
    count = 0
    for _ in range(600):
        count += admitted(admission, 3)
        clock.now += 0.1

    assert 60 * 7 <= count <= 61 * 7


def test_who_is_refused_by_the_limit_takes_nothing_of_the_rate(settings, admission, connections):
    settings.REALTIME = {"CONNECTION_RATE": 1, "CONNECTION_LIMIT": 1}
    connections.append("first")
    admission.refusal()

    connections.clear()

    assert admission.refusal() is None


def test_a_flood_of_refusals_is_one_line_a_second_with_their_number(
    settings, admission, clock, caplog
):
    settings.REALTIME = {"CONNECTION_RATE": 1}
    caplog.set_level(logging.INFO)
    for _ in range(20):
        admitted(admission, 100)
        admission.tell()
        clock.now += 0.1

    lines = [record.getMessage() for record in caplog.records]

    # One is let in at once, and one more after a second.
    assert lines == [
        "handshakes refused with 503, connection rate: 99",
        "handshakes refused with 503, connection rate: 999",
    ]


def test_nothing_is_told_where_nobody_was_refused(admission, caplog):
    admission.refusal()
    admission.tell()

    assert caplog.records == []
