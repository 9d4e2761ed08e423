"""A timer wheel: many things to do at regular intervals, a slice of them at each tick.

Owned by the instance, which turns it. Keeps no task and no timer of its own, so that thousands of
connections cost nothing between their turns.
"""

import random
from typing import Generic, TypeVar

T = TypeVar("T")


class Wheel(Generic[T]):
    """Items spread over the slots of one interval; each tick is one slot's turn.

    An item's first turn comes after a random delay between half an interval and a whole one, so
    that those added together do not stay together.
    """

    def __init__(self, *, interval_seconds: float, tick_seconds: float) -> None:
        self.slot_count = max(2, round(interval_seconds / tick_seconds))
        self._slots: list[dict[T, None]] = [{} for _ in range(self.slot_count)]
        self._now = 0

    def add(self, item: T) -> int:
        """Give an item its slot, and return which, for ``discard``."""
        delay = random.randrange(self.slot_count // 2, self.slot_count)
        slot = (self._now + max(1, delay)) % self.slot_count
        self._slots[slot][item] = None
        return slot

    def discard(self, item: T, slot: int) -> None:
        """Take an item out of its slot, if it is in."""
        self._slots[slot].pop(item, None)

    def turn(self) -> list[T]:
        """Go on to the next slot and return whose turn it is."""
        self._now = (self._now + 1) % self.slot_count
        return list(self._slots[self._now])

    def behind(self, slots: int) -> list[T]:
        """Return those whose turn was ``slots`` ticks ago."""
        return list(self._slots[(self._now - slots) % self.slot_count])
