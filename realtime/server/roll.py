"""A rolling restart: the processes of a server are replaced one after the other.

Stepped by the supervisor, whose children these are. Each step waits for an event: the successor is
ready, or the one before it has ended.
"""

import logging
import math
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from realtime.server.child import LEAVE, Child

logger = logging.getLogger(__name__)

BACKOFF_MIN_SECONDS: Final = 0.25
BACKOFF_MAX_SECONDS: Final = 10.0
STEADY_SECONDS: Final = 10.0  # a child that lived this long starts again without delay
ROLL_READY_SECONDS: Final = 60.0


class Place:
    """Where children follow each other at one listening socket.

    Attributes:
        current: Who serves here, or is about to; None between a death and the next start.
        successor: Who will, once it is ready.
        leaving: Who did, and closes its connections.
        start_at: When the next ``current`` starts, if one is planned.
        was_ever_ready: Whether somebody has served here.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.current: Child | None = None
        self.successor: Child | None = None
        self.leaving: Child | None = None
        self.start_at: float | None = None
        self.was_ever_ready = False
        self.backoff_seconds = BACKOFF_MIN_SECONDS

    def children(self) -> list[Child]:
        """Return every process of this place."""
        here = (self.current, self.successor, self.leaving)
        return [child for child in here if child is not None]

    @property
    def is_wanted(self) -> bool:
        """Whether a process is here, or will be."""
        return bool(self.children()) or self.start_at is not None

    def plan_restart(self, ended: Child) -> float:
        """Set when the next process starts; return in how many seconds that is."""
        if time.monotonic() - ended.started_at > STEADY_SECONDS:
            self.backoff_seconds = BACKOFF_MIN_SECONDS
        delay_seconds = self.backoff_seconds
        self.backoff_seconds = min(BACKOFF_MAX_SECONDS, max(BACKOFF_MIN_SECONDS, delay_seconds * 2))
        self.start_at = time.monotonic() + delay_seconds
        return delay_seconds


class Roll:
    """Replaces the children of all places, one place at a time.

    The listening socket of a place outlives its children. A successor serves at it beside the child
    that it follows, until that one is told to leave; so nobody who waits there is refused.

    Args:
        places: All of them.
        start: Starts one more child in a place.
        leave_seconds: How long a child may take to leave.
    """

    def __init__(
        self, places: Sequence[Place], *, start: Callable[[Place], Child], leave_seconds: float
    ) -> None:
        self._places = places
        self._start = start
        self._leave_seconds = leave_seconds
        self._left: deque[Place] = deque()
        self._place: Place | None = None
        self._deadline = math.inf
        self._is_wanted_again = False

    def begin(self) -> None:
        """Begin, or begin once more after the one that is under way."""
        if self._place is not None:
            self._is_wanted_again = True
            return
        logger.info("the server processes are replaced, one after the other")
        self._left.extend(self._places)
        self._next()

    def _next(self) -> None:
        if not self._left:
            logger.info("the server processes have been replaced")
            self._finish()
            return
        self._place = self._left.popleft()
        self._place.successor = self._start(self._place)
        self._deadline = time.monotonic() + ROLL_READY_SECONDS

    def _finish(self) -> None:
        self._left.clear()
        self._place = None
        self._deadline = math.inf
        if self._is_wanted_again:
            self._is_wanted_again = False
            self.begin()

    def install(self, place: Place) -> None:
        """Let a successor that is ready take its place, and tell who was there to leave."""
        place.leaving, place.current, place.successor = place.current, place.successor, None
        if place.leaving is None:  # it has died meanwhile
            self._next()
            return
        place.leaving.signal(LEAVE)
        self._deadline = time.monotonic() + self._leave_seconds

    def lose(self, place: Place, child: Child, code: int, *, goes_on: bool) -> None:
        """Note the end of a child that was a successor or leaving; ``goes_on`` with the rest."""
        if child is place.leaving:
            place.leaving = None
            if goes_on:
                self._next()
            return
        place.successor = None
        if not goes_on:
            return
        logger.error(
            "server process %d ended with %d before it was ready: the others are not replaced",
            child.pid,
            code,
        )
        if place.current is None:
            place.plan_restart(child)
        self._finish()

    def mind_time(self, now: float) -> None:
        """End a child whose step takes too long."""
        if self._place is None or now < self._deadline:
            return
        self._deadline = math.inf
        late = self._place.successor or self._place.leaving
        if late is not None:
            logger.error("server process %d took too long and is killed", late.pid)
            late.signal(signal.SIGKILL)
