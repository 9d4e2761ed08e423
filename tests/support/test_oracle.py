"""The checker fails when it should: one planted fault for each of its rules."""

import pytest

from tests.support.event_log import Event, EventLog
from tests.support.oracle import Violation, check

CHANNEL = "stream:planted"


class Run:
    """A run without a fault, to plant one in: one publisher, one subscriber."""

    def __init__(self) -> None:
        self.publisher = EventLog("publisher")
        self.alice = EventLog("alice")

    def publish(self, offset: int, *, epoch: str = "aaaa", name: str | None = None) -> None:
        name = name or f"m{offset}"
        self.publisher.add("try", channel=CHANNEL, id=name)
        self.publisher.add("ok", channel=CHANNEL, id=name, offset=offset, epoch=epoch)

    def subscribe(self, offset: int, *, epoch: str = "aaaa", recovered: bool = False) -> None:
        self.alice.add(
            "subscribed", channel=CHANNEL, epoch=epoch, offset=offset, recovered=recovered
        )

    def receive(self, offset: int, *, epoch: str = "aaaa", name: str | None = None) -> None:
        name = name or f"m{offset}"
        self.alice.add("pub", channel=CHANNEL, epoch=epoch, offset=offset, id=name)

    @property
    def events(self) -> list[Event]:
        return self.publisher.events + self.alice.events

    def broken_rules(self) -> list[str]:
        return [violation.rule for violation in check(self.events)]


@pytest.fixture
def run() -> Run:
    run = Run()
    for offset in range(1, 6):
        run.publish(offset)
    run.subscribe(0)
    return run


def test_a_run_without_a_fault_has_no_violation(run: Run) -> None:
    for offset in (1, 2, 3):
        run.receive(offset)
    run.subscribe(3, recovered=True)
    run.receive(4)
    run.receive(5)

    assert check(run.events) == []


def test_a_publication_that_never_arrives_is_lost(run: Run) -> None:
    for offset in (1, 2, 3, 4):
        run.receive(offset)

    assert check(run.events) == [Violation("lost", "alice", CHANNEL, "m5 at aaaa/5")]


def test_a_hole_in_the_middle_is_a_gap_and_a_loss(run: Run) -> None:
    for offset in (1, 2, 4, 5):
        run.receive(offset)

    assert run.broken_rules() == ["gap", "lost"]


def test_a_recovery_with_one_missing_is_a_gap(run: Run) -> None:
    run.receive(1)
    run.subscribe(1, recovered=True)
    for offset in (3, 4, 5):
        run.receive(offset)

    assert run.broken_rules() == ["gap", "lost"]


def test_a_recovery_from_another_position_is_noticed(run: Run) -> None:
    run.receive(1)
    run.subscribe(2, recovered=True)

    assert "recovery" in run.broken_rules()


def test_a_loss_that_the_client_was_told_of_is_none(run: Run) -> None:
    run.receive(1)
    run.alice.add("unsub", channel=CHANNEL, code=2500)
    run.subscribe(4, recovered=False)
    run.receive(5)

    assert check(run.events) == []


def test_what_came_after_the_telling_is_owed_again(run: Run) -> None:
    run.receive(1)
    run.subscribe(4, recovered=False)

    assert run.broken_rules() == ["lost"]


def test_a_second_delivery_is_doubled(run: Run) -> None:
    for offset in (1, 2, 3, 3, 4, 5):
        run.receive(offset)

    assert run.broken_rules() == ["doubled"]


def test_a_delivery_repeated_by_a_recovery_is_doubled(run: Run) -> None:
    for offset in (1, 2, 3):
        run.receive(offset)
    run.subscribe(3, recovered=True)
    for offset in (3, 4, 5):
        run.receive(offset)

    assert run.broken_rules() == ["doubled"]


def test_two_that_changed_places_are_reordered(run: Run) -> None:
    for offset in (1, 3, 2, 4, 5):
        run.receive(offset)

    assert "reordered" in run.broken_rules()


def test_an_offset_used_again_in_its_epoch_is_not_unique(run: Run) -> None:
    run.publish(5, name="another")
    for offset in (1, 2, 3, 4):
        run.receive(offset)
    run.receive(5, name="another")

    assert "unique" in run.broken_rules()


def test_an_offset_used_again_in_a_new_epoch_is_fine(run: Run) -> None:
    for offset in (1, 2, 3, 4, 5):
        run.receive(offset)
    run.publish(5, epoch="bbbb", name="another")
    run.subscribe(4, epoch="bbbb")
    run.receive(5, epoch="bbbb", name="another")

    assert check(run.events) == []


def test_one_publication_stored_twice_is_noticed(run: Run) -> None:
    for offset in (1, 2, 3, 4, 5):
        run.receive(offset)
    run.receive(6, name="m2")

    assert run.broken_rules() == ["doubled", "once"]


def test_a_publication_nobody_made_is_a_phantom(run: Run) -> None:
    for offset in (1, 2, 3, 4, 5):
        run.receive(offset)
    run.receive(6, name="invented")

    assert run.broken_rules() == ["phantom"]


def test_a_refused_publication_that_arrives_is_a_phantom(run: Run) -> None:
    for offset in (1, 2, 3, 4, 5):
        run.receive(offset)
    run.publisher.add("try", channel=CHANNEL, id="refused")
    run.publisher.add("fail", channel=CHANNEL, id="refused")
    run.receive(6, name="refused")

    assert run.broken_rules() == ["phantom"]


def test_an_unanswered_publication_may_arrive_or_not(run: Run) -> None:
    for offset in (1, 2, 3, 4, 5):
        run.receive(offset)
    for name in ("stored", "gone"):
        run.publisher.add("try", channel=CHANNEL, id=name)
        run.publisher.add("unknown", channel=CHANNEL, id=name)
    run.receive(6, name="stored")

    assert check(run.events) == []


def test_nothing_is_owed_to_a_subscriber_that_left(run: Run) -> None:
    run.receive(1)

    assert check(run.events, gone=["alice"]) == []


def test_a_stream_that_goes_on_in_a_new_epoch_is_still_owed(run: Run) -> None:
    for offset in (1, 2, 3):
        run.receive(offset)
    run.subscribe(3, epoch="bbbb", recovered=True)
    run.publish(6, epoch="bbbb")
    run.receive(4, epoch="bbbb")
    run.receive(5, epoch="bbbb")

    assert check(run.events) == [Violation("lost", "alice", CHANNEL, "m6 at bbbb/6")]
