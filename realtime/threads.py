"""Threads for code that blocks: a few of them, and nothing before them that nobody waits for.

``Threads`` runs functions. ``Lanes`` are for asynchronous functions that use the ORM, whose calls
would otherwise share one thread of the whole process. Both leave no connection to the database in
use, and take over a new one where the old one broke.
"""

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from typing import Any, Final

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import close_old_connections, connections


class Threads:
    """So many threads, of which one user gets half at most; for any number of event loops.

    Attributes:
        busy_count: How many are at work, or about to be.
    """

    def __init__(self, name: str, count: int) -> None:
        self.busy_count = 0
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._count = count
        self._share_max = max(1, count // 2)
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._queues: OrderedDict[str, deque[Future[None]]] = OrderedDict()

    async def run(self, user: str, function: Callable[[], Any]) -> Any:
        """Return what a function returns; see ``begin``."""
        return await (await self.begin(user, function))

    async def begin(self, user: str, function: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Wait for a thread and begin a function in it; return what will have its result.

        A thread cannot be ended: what has begun goes on, and has its place until it ends by itself.
        """
        place: Future[None] = Future()
        with self._lock:
            self._queues.setdefault(user, deque()).append(place)
            self._hand_out()
        try:
            await asyncio.wrap_future(place)
        except BaseException:
            self._leave(user, place)
            raise
        try:
            job = self._executor.submit(_run, copy_context(), function)
        except BaseException:
            self._give_back(user)
            raise
        job.add_done_callback(lambda _: self._give_back(user))
        return asyncio.wrap_future(job)

    def _hand_out(self) -> None:
        """Give free places to those who wait, the users in turn. Within the lock."""
        while self.busy_count < self._count:
            user = next((u for u in self._queues if self._held[u] < self._share_max), None)
            if user is None:
                return
            place = self._queues[user].popleft()
            self._queues.move_to_end(user)
            if not self._queues[user]:
                del self._queues[user]
            if place.set_running_or_notify_cancel():
                self.busy_count += 1
                self._held[user] += 1
                place.set_result(None)

    def _leave(self, user: str, place: "Future[None]") -> None:
        with self._lock:
            is_given = not place.cancel()
            queue = self._queues.get(user)
            if queue is not None and place in queue:
                queue.remove(place)
                if not queue:
                    del self._queues[user]
        if is_given:
            self._give_back(user)  # it was its turn, and it goes without

    def _give_back(self, user: str) -> None:
        with self._lock:
            self.busy_count -= 1
            self._held[user] -= 1
            if not self._held[user]:
                del self._held[user]
            self._hand_out()

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
        context = ThreadSensitiveContext(executor=sticky)
        await context.__aenter__()  # type: ignore[no-untyped-call]  # asgiref
        assert context.token is not None, "one with an executor sets itself"
        try:
            yield
        finally:
            # Not by its own exit, after which tasks that were begun here could not use the ORM.
            SyncToAsync.thread_sensitive_context.reset(context.token)
            sticky.leave()

    def enter(self) -> _Lane:
        """Choose a lane, whose connection is looked at first."""
        with self._lock:
            lane = min(self._lanes, key=lambda each: each.count)
            lane.count += 1
            lane.executor.submit(close_old_connections if lane.count == 1 else _close_broken)
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
        self._last: Future[Any] | None = None
        self._is_over = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> "Future[Any]":
        """Begin a function in the lane's thread, after those before it."""
        lane = self._lane = self._lane or self._lanes.enter()
        self._last = lane.executor.submit(fn, *args, **named)
        if self._is_over:  # of a task that goes on behind the call
            self.leave()
        return self._last

    def leave(self) -> None:
        """Give the lane back, if one was chosen, once nothing of this runs there any more."""
        self._is_over = True
        lane, self._lane = self._lane, None
        if lane is not None and self._last is not None:
            self._last.add_done_callback(lambda _: self._lanes.leave(lane))


def _close_broken() -> None:
    """Close what broke, and nothing that somebody else is using."""
    for each in connections.all(initialized_only=True):
        if each.errors_occurred and not each.in_atomic_block and not each.is_usable():
            each.close()


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
