"""Not asking for a while who has just failed several times.

Held by the client, one for each upstream and process.
"""

import time
from collections.abc import Callable

from upstreams.failures import Failed


class Breaker:
    """Closed: everybody asks. Open: nobody does. After a while one tries, and its outcome decides.

    Args:
        clock: Seconds that only grow; tests move it by hand.
        on_change: Told whether it is open now, and the reason of the last failure.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[bool, str], None] = lambda is_open, reason: None,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._failures = 0
        self._opened_at: float | None = None
        self._opened_count = 0
        self._is_tried = False

    @property
    def is_open(self) -> bool:
        """Whether it has opened, and no call has succeeded since."""
        return self._opened_at is not None

    def enter(self, *, seconds: float) -> int:
        """Let a call through; its outcome is told by exactly one of the methods below.

        Returns:
            What they want: it tells the one that tries from those that were under way before.
        Raises:
            Failed: It is open.
        """
        if self._opened_at is not None:
            if self._is_tried or self._clock() - self._opened_at < seconds:
                raise Failed("breaker open", is_of_upstream=False)
            self._is_tried = True
        return self._opened_count

    def succeed(self, entered: int) -> None:
        """Note an answer."""
        if entered != self._opened_count:
            return
        self._failures = 0
        self._is_tried = False
        if self._opened_at is not None:
            self._opened_at = None
            self._on_change(False, "")

    def fail(self, entered: int, reason: str, *, failures: int) -> None:
        """Note a failure; it opens with so many in a row, or if this was the one that tried."""
        if entered != self._opened_count:
            return
        self._failures += 1
        was_open, self._is_tried = self._opened_at is not None, False
        if was_open or self._failures >= failures:
            self._opened_at = self._clock()
            self._opened_count += 1
            if not was_open:
                self._on_change(True, reason)

    def abandon(self, entered: int) -> None:
        """Note a call that says nothing: nobody waited for it to its end."""
        if entered == self._opened_count:
            self._is_tried = False
