"""What all connections of a driver count together."""

from array import array
from collections import Counter

from bench.client.frames import Stamp


class Tally:
    """Counts and times of deliveries; reset() between parts of a scenario.

    Attributes:
        delivered: Publications that arrived, doubled ones included.
        lost: Numbers that were skipped; doubled: numbers that came again.
        last_at_ns: When the last one arrived.
        latencies_ns: Publish to receive, one for each delivery.
        opening: Connections that are neither open nor given up.
        failures: Why connections never opened, or closed unasked, and how many.
    """

    def __init__(self) -> None:
        self.opening = 0
        self.opened = 0
        self.failed = 0
        self.closed = 0
        self.failures: Counter[str] = Counter()
        self.opening_times_ns = array("q")
        # What was parsed last: the same bytes go to everybody in a channel.
        self.chunk = b""
        self.stamps: list[Stamp] = []
        self.reset()

    def reset(self) -> None:
        self.delivered = 0
        self.lost = 0
        self.doubled = 0
        self.last_at_ns = 0
        self.latencies_ns = array("q")

    def misplaced(self, expected: int, number: int) -> int:
        """Count a publication that is not the expected one; return which is expected next."""
        if number < expected:
            self.doubled += 1
            return expected
        self.lost += number - expected
        return number + 1
