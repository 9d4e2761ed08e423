"""Threads for code that blocks: a few of them, and nothing before them that nobody waits for.

``Threads`` runs functions. ``Lanes`` are for asynchronous functions that use the ORM, whose calls
would otherwise share one thread of the whole process. Both leave no connection to the database in
use, and take over a new one where the old one broke.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from typing import Any, Final

from asgiref.sync import ThreadSensitiveContext
from django.db import close_old_connections


class _Share:
    """What one user has of the threads; ``count`` with those that wait."""

    def __init__(self, most: int) -> None:
        self.turns = asyncio.Semaphore(most)
        self.count = 0


class Threads:
    """So many threads, of which one user gets half at most.

    Attributes:
        busy_count: How many are at work.
    """

    def __init__(self, name: str, count: int) -> None:
        self.busy_count = 0
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._free = asyncio.Semaphore(count)
        self._share_max = max(1, count // 2)
        self._shares: dict[str, _Share] = {}

    async def run(self, user: str, function: Callable[[], Any]) -> Any:
        """Return what a function returns; see ``begin``."""
        return await (await self.begin(user, function))

    async def begin(self, user: str, function: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Wait for a thread and begin a function in it; return what will have its result.

        A thread cannot be ended: what has begun goes on, and has its place until it ends by itself.
        """
        share = self._shares.setdefault(user, _Share(self._share_max))
        share.count += 1
        try:
            await share.turns.acquire()
            try:
                await self._free.acquire()
            except BaseException:
                share.turns.release()
                raise
        except BaseException:
            self._leave(user, share)
            raise
        loop = asyncio.get_running_loop()

        def done(_: "Future[Any]") -> None:
            with suppress(RuntimeError):  # the loop has ended before
                loop.call_soon_threadsafe(self._give_back, user, share)

        job = self._executor.submit(_run, copy_context(), function)
        self.busy_count += 1
        job.add_done_callback(done)
        return asyncio.wrap_future(job)

    def _give_back(self, user: str, share: _Share) -> None:
        self.busy_count -= 1
        self._free.release()
        share.turns.release()
        self._leave(user, share)

    def _leave(self, user: str, share: _Share) -> None:
        share.count -= 1
        if not share.count:
            del self._shares[user]

    def close(self) -> None:
        """Begin nothing more; what is at work ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _run(context: Context, function: Callable[[], Any]) -> Any:
    close_old_connections()
    try:
        return context.run(function)
    except StopIteration as error:  # which no future takes: who waits would wait for ever
        raise RuntimeError("a StopIteration") from error
    except Exception:
        raise
    except BaseException as error:  # such as sys.exit(), which would end the event loop
        raise RuntimeError(f"{type(error).__name__} in a thread") from error
    finally:
        close_old_connections()


# For asynchronous functions ----------------------------------------------------------------------


class _Lane:
    """One thread, and how many calls have chosen it."""

    def __init__(self, name: str) -> None:
        self.executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.count = 0


class Lanes:
    """So many threads; the ORM's calls of one asynchronous function all go to one of them."""

    def __init__(self, name: str, count: int) -> None:
        self._lanes = [_Lane(f"{name} {number}") for number in range(count)]
        self._lock = threading.Lock()

    @asynccontextmanager
    async def chosen(self) -> AsyncIterator[None]:
        """Have thread-sensitive calls go to the lane that fewest others use.

        It is chosen at the first of them: without one nothing is started.
        """
        sticky = _Sticky(self)
        try:
            async with ThreadSensitiveContext(executor=sticky):
                yield
        finally:
            sticky.leave()

    def enter(self) -> _Lane:
        """Choose a lane."""
        with self._lock:
            lane = min(self._lanes, key=lambda each: each.count)
            lane.count += 1
            if lane.count == 1:
                lane.executor.submit(close_old_connections)
            return lane

    def leave(self, lane: _Lane) -> None:
        """Give a lane back; the last one of it leaves no connection in use."""
        with self._lock:
            lane.count -= 1
            if not lane.count:
                with suppress(RuntimeError):  # closed
                    lane.executor.submit(close_old_connections)

    def close(self) -> None:
        """Begin nothing more; what is at work ends by itself."""
        for lane in self._lanes:
            lane.executor.shutdown(wait=False, cancel_futures=True)


class _Sticky(Executor):
    """One call's lane, for asgiref."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._lane: _Lane | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> "Future[Any]":
        """Begin a function in the lane's thread, after those before it."""
        if self._lane is None:
            self._lane = self._lanes.enter()
        return self._lane.executor.submit(fn, *args, **named)

    def leave(self) -> None:
        """Give the lane back, if one was chosen."""
        if self._lane is not None:
            self._lanes.leave(self._lane)


# Those of this process ---------------------------------------------------------------------------

_PREFIX: Final = "heliograph "
_threads: dict[str, Threads] = {}
_lanes: dict[str, Lanes] = {}


def threads(name: str, count: int) -> Threads:
    """Return the threads of a name, made at their first use."""
    if name not in _threads:
        _threads[name] = Threads(_PREFIX + name, count)
    return _threads[name]


def lanes(name: str, count: int) -> Lanes:
    """Return the lanes of a name, made at their first use."""
    if name not in _lanes:
        _lanes[name] = Lanes(_PREFIX + name, count)
    return _lanes[name]


def close() -> None:
    """Close them all; who asks again gets new ones."""
    while _threads:
        _threads.popitem()[1].close()
    while _lanes:
        _lanes.popitem()[1].close()


def left_over(*, seconds: float) -> int:
    """Return how many are still at work after they were closed, and had some time to end."""
    ends_at = time.monotonic() + seconds
    left = [each for each in threading.enumerate() if each.name.startswith(_PREFIX)]
    for thread in left:
        thread.join(max(0.0, ends_at - time.monotonic()))
    return sum(thread.is_alive() for thread in left)
