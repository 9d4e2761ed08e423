"""Publications at a steady pace, which waits for who cannot keep up."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.client.crowd import Crowd

WAIT_SECONDS = 5.0  # for deliveries that may be lost


@dataclass(frozen=True)
class Pace:
    """``rate`` publications a second to the channels in turn, each with so many subscribers.

    No more than ``ahead`` publications are on their way at any time: a system that cannot keep the
    pace gets less to do, instead of a queue whose length would be all that is measured.
    """

    channels: Sequence[str]
    subscribers: int
    rate: int
    ahead: int
    padding: bytes = b""

    def run(
        self, crowd: Crowd, count: int, *, each: Callable[[int], None] = lambda _: None
    ) -> tuple[int, float]:
        """Publish ``count`` publications, or what fits into twice their time.

        Returns how many that were, and in how many seconds.

        ``each`` is called with the index of every publication, once it is on its way.
        """
        tally = crowd.tally
        start = tally.delivered
        interval = 1.0 / self.rate
        began = due = time.monotonic()
        until = began + 2 * count * interval
        done = 0
        while done < count and time.monotonic() < until:
            crowd.rest(due - time.monotonic())
            crowd.wait_delivered(start + (done - self.ahead) * self.subscribers, WAIT_SECONDS)
            # Time that was lost is not made up for: a burst would be another scenario.
            due = max(due + interval, time.monotonic())
            crowd.publish(self.channels[done % len(self.channels)], padding=self.padding)
            each(done)
            done += 1
        return done, time.monotonic() - began
