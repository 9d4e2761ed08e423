import pytest

from realtime.wheel import Wheel


def turned(wheel, ticks):
    """Return how often each item had its turn."""
    counts = {}
    for _ in range(ticks):
        for item in wheel.turn():
            counts[item] = counts.get(item, 0) + 1
    return counts


@pytest.fixture
def wheel():
    return Wheel(interval_seconds=25, tick_seconds=0.1)


def test_every_item_has_one_turn_an_interval(wheel):
    for item in range(1000):
        wheel.add(item)

    assert turned(wheel, 2 * wheel.slot_count) == dict.fromkeys(range(1000), 2)


@pytest.mark.parametrize("interval_seconds", [0.2, 0.3, 1, 25])
def test_the_first_turn_comes_after_half_an_interval_and_before_a_whole_one(interval_seconds):
    wheel = Wheel(interval_seconds=interval_seconds, tick_seconds=0.1)
    turned(wheel, 7)
    for item in range(500):
        wheel.add(item)

    first_turn = {}
    for tick in range(1, wheel.slot_count + 1):
        for item in wheel.turn():
            first_turn.setdefault(item, tick)

    assert len(first_turn) == 500
    assert min(first_turn.values()) >= wheel.slot_count // 2
    assert max(first_turn.values()) < wheel.slot_count


def test_items_added_together_are_spread(wheel):
    for item in range(1000):
        wheel.add(item)

    largest = max(len(wheel.turn()) for _ in range(wheel.slot_count))

    assert largest < 40  # 8 on average over half the slots


def test_a_discarded_item_has_no_turn(wheel):
    slot = wheel.add("gone")
    wheel.add("here")

    wheel.discard("gone", slot)
    wheel.discard("gone", slot)

    assert turned(wheel, wheel.slot_count) == {"here": 1}


def test_an_item_may_leave_during_its_own_turn(wheel):
    slots = {item: wheel.add(item) for item in range(1000)}

    for _ in range(wheel.slot_count):
        for item in wheel.turn():
            wheel.discard(item, slots[item])

    assert turned(wheel, wheel.slot_count) == {}


def test_whose_turn_was_some_ticks_ago_can_be_asked(wheel):
    wheel.add("item")
    while not wheel.turn():
        pass

    for _ in range(80):
        assert not wheel.turn()

    assert wheel.behind(80) == ["item"]
    assert wheel.behind(79) == []
