"""Asking answerers: deadlines, bounds, cancellation, and what the client is told of a failure.

``Calls`` runs what ``hooks.find`` found, for all connections of a process. ``ConnectionCalls`` is
what runs beside the commands of one connection; it ends with it. What a call means is the
business of whoever asks.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Final, Protocol

from django.db import close_old_connections

from realtime import conf
from realtime.hooks import Answer, Answerer, CallFailed, Request
from realtime.protocol.disconnects import Disconnected
from realtime.protocol.errors import InternalError, ProtocolError, TooManyRequests
from realtime.tasks import TaskOwner

logger = logging.getLogger(__name__)

FAREWELL_SECONDS: Final = 3.0  # for who is told that a connection has ended


class Calls:
    """The calls of a process, ``calls_max`` at once."""

    def __init__(self) -> None:
        self._count = 0
        self._farewells: set[asyncio.Task[None]] = set()

    async def ask(self, answerer: Answerer, request: Request) -> Answer:
        """Return an answer, of the answerer's kind.

        The task has the answerer's name meanwhile, so that who blocks the loop is known by it.

        Raises:
            ProtocolError: The answerer's own; or CallFailed after its deadline, InternalError
                where it broke, TooManyRequests where it was not asked.
            Disconnected: The answerer ends the connection.
        """
        if self._count >= conf.current().calls_max:
            raise TooManyRequests
        task = asyncio.current_task()
        assert task is not None
        name = task.get_name()
        task.set_name(answerer.label)
        self._count += 1
        try:
            return await _ask(answerer, request)
        finally:
            self._count -= 1
            task.set_name(name)

    def say_farewell(self, answerer: Answerer, request: Request) -> None:
        """Tell somebody that a connection has ended; nothing waits for it, nor for its outcome."""
        task = asyncio.create_task(self._tell(answerer, request), name=answerer.label)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _tell(self, answerer: Answerer, request: Request) -> None:
        try:
            await self.ask(answerer, request)
        except (ProtocolError, Disconnected) as error:
            logger.debug("%s: %s", answerer.label, error)

    async def until_told(self) -> None:
        """Wait for the farewells that are under way; each has its deadline."""
        if self._farewells:
            await asyncio.wait(list(self._farewells))

    async def close(self) -> None:
        """End them."""
        for task in self._farewells:
            task.cancel()
        await self.until_told()


async def _ask(answerer: Answerer, request: Request) -> Answer:
    deadline = asyncio.timeout(answerer.timeout_seconds)
    try:
        async with deadline:
            return await answerer.ask(request)
    except (ProtocolError, Disconnected):
        raise
    except Exception as error:
        if isinstance(error, TimeoutError) and deadline.expired():
            logger.warning("%s took longer than %g s", answerer.label, answerer.timeout_seconds)
            raise CallFailed("no answer in time") from error
        logger.exception("%s failed", answerer.label, extra={"client": request.peer.client})
        raise InternalError from error


class ConnectionCalls:
    """What runs beside the commands of one connection; made when there is something.

    Attributes:
        connecting: The connect under way, None if it asks nobody.
        subscribing: The subscribes under way that ask somebody, by channel.
        publishing: The last publication under way that asks somebody. The next one waits for it,
            so that they keep their order.
    """

    __slots__ = (
        "_holder",
        "_hooks",
        "_pending",
        "_rpcs",
        "_tasks",
        "connecting",
        "publishing",
        "subscribing",
    )

    def __init__(self, holder: "Holder", tasks: TaskOwner) -> None:
        self._holder = holder
        self._tasks = tasks
        self._rpcs: set[asyncio.Task[None]] = set()
        self._hooks: set[asyncio.Task[None]] = set()
        self._pending: set[asyncio.Task[None]] = set()
        self.connecting: asyncio.Task[None] | None = None
        self.subscribing: dict[str, asyncio.Task[None]] = {}
        self.publishing: asyncio.Task[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether so many RPCs are under way that one more may not begin."""
        return len(self._rpcs) >= conf.current().call_concurrency_limit

    def start_rpc(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Run an RPC, which ends with the connection."""
        self._rpcs.add(self._start(coroutine, name))

    def start_hook(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run what asks somebody; until it ``settle``s it ends with the connection."""
        task = self._start(coroutine, name)
        self._hooks.add(task)
        return task

    def _start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._tasks.spawn(coroutine, name)
        self._pending.add(task)
        task.add_done_callback(self._forget)
        return task

    def settle(self) -> None:
        """Have the running task go on to its end, whatever becomes of the connection."""
        task = asyncio.current_task()
        assert task is not None
        self._pending.discard(task)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._rpcs.discard(task)
        self._hooks.discard(task)
        self._pending.discard(task)
        if self.connecting is task:
            self.connecting = None
        if self.publishing is task:
            self.publishing = None
        for channel in [name for name, each in self.subscribing.items() if each is task]:
            del self.subscribing[channel]
        if not (self._rpcs or self._hooks) and self._holder.calls is self:
            self._holder.calls = None

    async def until_clear(self, channel: str | None) -> None:
        """Wait for a connect under way, and for a subscribe to the channel."""
        ahead = [self.connecting, self.subscribing.get(channel) if channel else None]
        tasks = [task for task in ahead if task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def until_place(self) -> None:
        """Wait while so many commands ask somebody that one more may not: its socket waits too."""
        while len(self._hooks) >= conf.current().call_concurrency_limit:
            await asyncio.wait(self._hooks, return_when=asyncio.FIRST_COMPLETED)

    def cancel(self) -> None:
        """End what still asks: the connection is gone."""
        for task in self._pending:
            task.cancel()


class Holder(Protocol):
    """Whose calls they are.

    Attributes:
        calls: None while nothing runs, so that an idle connection carries nothing of it.
    """

    calls: ConnectionCalls | None


def ongoing(holder: Holder, tasks: TaskOwner) -> ConnectionCalls:
    """Return what runs beside the commands of a connection, made if nothing does."""
    if holder.calls is None:
        holder.calls = ConnectionCalls(holder, tasks)
    return holder.calls


# Threads -----------------------------------------------------------------------------------------

_threads: ThreadPoolExecutor | None = None


async def run_in_thread(function: Callable[..., Any], /, *args: Any, **named: Any) -> Any:
    """Return what a function returns that may block, such as one that asks the database.

    In one of ``sync_handler_threads``; while all are taken it waits. A function that has begun
    goes on to its end, whatever becomes of who asked.
    """
    global _threads
    if _threads is None:
        count = conf.current().sync_handler_threads
        _threads = ThreadPoolExecutor(count, thread_name_prefix="handler")
    context = copy_context()

    def run() -> Any:
        close_old_connections()
        try:
            return context.run(function, *args, **named)
        except StopIteration as error:  # which no future takes: who waits would wait for ever
            raise RuntimeError("a StopIteration") from error
        finally:
            close_old_connections()

    return await asyncio.get_running_loop().run_in_executor(_threads, run)


def close_threads() -> None:
    """Begin nothing more in the threads; those that are at work end by themselves."""
    global _threads
    if _threads is not None:
        _threads.shutdown(wait=False, cancel_futures=True)
        _threads = None
