"""Whether the event loop is blocked, and by whom: a metric, and a line in the log.

The loop sets a beat. A thread of its own sees when one is overdue, and notes what the loop is doing
then: afterwards nobody could tell. What holds the interpreter's lock as well, such as a long
regular expression, is seen by its length, and named by what came next.
"""

import asyncio
import logging
import sys
import sysconfig
import threading
import time
from collections import Counter
from types import FrameType
from typing import Final

from realtime import metrics

logger = logging.getLogger(__name__)

BEAT_SECONDS: Final = 0.02
# A block begins up to a beat before it shows: with this, those of 100 ms are seen for certain, and
# none of less than 80.
BLOCKED_SECONDS: Final = 0.08
_SUSPICIOUS_SECONDS: Final = 0.02
_HUNG_SECONDS: Final = 1.0
_QUIET_SECONDS: Final = 5.0  # for so long nothing more is logged of the same culprit
_UNSEEN: Final = ("unknown", "an unknown place")
_LIBRARIES: Final = (
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    "<",  # what is frozen into the interpreter
)


class LagMonitor:
    """Watches the running loop for as long as ``run`` runs."""

    def __init__(self) -> None:
        self._due_at = 0.0
        # What was seen of an overdue beat, and how often: who blocks, and where.
        self._sights: Counter[tuple[str, str]] = Counter()
        self._told_at: dict[str, float] = {}
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Beat, and tell of blocks once they are over, until cancelled."""
        self._due_at = time.monotonic() + BEAT_SECONDS
        loop = asyncio.get_running_loop()
        watcher = threading.Thread(
            target=self._watch, args=(loop, threading.get_ident()), name="lag", daemon=True
        )
        watcher.start()
        try:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                self._beat(time.monotonic())
        finally:
            self._stopped.set()

    def _beat(self, now: float) -> None:
        lag_seconds = max(0.0, now - self._due_at)
        sights, self._sights = self._sights, Counter()
        self._due_at = now + BEAT_SECONDS
        metrics.LOOP_LAG.observe(lag_seconds)
        if lag_seconds >= BLOCKED_SECONDS:
            what, where = _most_seen(sights) if sights else _UNSEEN
            metrics.LOOP_BLOCKED.labels(what).inc()
            self._tell(now, what, lag_seconds, where)

    def _tell(self, now: float, what: str, seconds: float, where: str) -> None:
        if now - self._told_at.get(what, -_QUIET_SECONDS) >= _QUIET_SECONDS:
            self._told_at[what] = now
            logger.warning(
                "the event loop was blocked for %.2f s by %s, at %s", seconds, what, where
            )

    # In the thread ---------------------------------------------------------------------------

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        hung_since = 0.0
        while not self._stopped.wait(BEAT_SECONDS):
            due_at, now = self._due_at, time.monotonic()
            if now - due_at < _SUSPICIOUS_SECONDS:
                continue
            sight = _look(loop, thread)
            if sight is None or due_at != self._due_at:
                continue  # it has just gone on
            self._sights[sight] += 1
            if now - due_at >= _HUNG_SECONDS and hung_since != due_at:
                hung_since = due_at
                logger.error("the event loop is blocked by %s, at %s", *sight)


def _look(loop: asyncio.AbstractEventLoop, thread: int) -> tuple[str, str] | None:
    """Return who holds the loop, and where.

    The frame stays in here: kept by the watcher, it would keep what its function had, such as a
    connection that has closed since.
    """
    frame = sys._current_frames().get(thread)
    return None if frame is None else (_culprit(loop), _place(frame))


def _most_seen(sights: Counter[tuple[str, str]]) -> tuple[str, str]:
    """Return who was seen most often, and where most of that: several may have had a part in it."""
    times: Counter[str] = Counter()
    for (what, _), count in sights.items():
        times[what] += count
    most = max(times, key=times.__getitem__)
    return max((sight for sight in sights if sight[0] == most), key=sights.__getitem__)


def _culprit(loop: asyncio.AbstractEventLoop) -> str:
    """Return the name of the task that runs: a handler's, or else its function's.

    Tasks have numbers for names where nobody gave one; these would make metrics without end.
    """
    task = asyncio.current_task(loop)
    if task is None:
        return "a callback"
    name = task.get_name()
    if not name.startswith("Task-"):
        return name
    return str(getattr(task.get_coro(), "__qualname__", "a task"))


def _place(frame: FrameType) -> str:
    """Return where the loop is: in which line of ours, and below it in which of a library."""
    innermost, outer = _describe(frame), frame
    while outer.f_code.co_filename.startswith(_LIBRARIES):
        if outer.f_back is None:
            return innermost
        outer = outer.f_back
    ours = _describe(outer)
    return ours if outer is frame else f"{ours} ({innermost})"


def _describe(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno or code.co_firstlineno} in {code.co_qualname}"
