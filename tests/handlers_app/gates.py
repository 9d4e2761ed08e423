"""Doors that a call stands before until a test opens them: waiting without a clock."""

import asyncio
import threading
from collections import defaultdict

# How long a call may take that is given little time.
DEADLINE_SECONDS = 0.3


class Gate:
    """What one name stands for; the calls of both kinds of handlers wait for the same test.

    Attributes:
        waiting: How many calls stand before it.
        most: The most that ever did at once.
        cancelled: How many were taken away from it.
        has_cancelled: Set by the first of these.
    """

    def __init__(self) -> None:
        self.waiting = self.most = self.cancelled = 0
        self.opened = asyncio.Event()
        self.has_cancelled = asyncio.Event()
        self.opened_for_threads = threading.Event()
        self._lock = threading.Lock()

    def open(self) -> None:
        self.opened.set()
        self.opened_for_threads.set()

    def enter(self) -> None:
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)

    def leave(self) -> None:
        with self._lock:
            self.waiting -= 1

    async def wait(self) -> None:
        self.enter()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self.has_cancelled.set()
            raise
        finally:
            self.leave()

    def wait_in_a_thread(self) -> None:
        self.enter()
        try:
            # Bounded, or a test that fails would keep a thread of the server for ever.
            self.opened_for_threads.wait(10)
        finally:
            self.leave()


gates: defaultdict[str, Gate] = defaultdict(Gate)
