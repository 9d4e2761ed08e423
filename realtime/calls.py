"""Asking answerers: deadlines, bounds, cancellation, and what the client is told of a failure.

``Calls`` runs what ``hooks.find`` found, for all connections of a process. ``ConnectionCalls`` is
what runs beside the commands of one connection; it ends with it. What a call means is the
business of whoever asks.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from realtime import conf
from realtime.hooks import Answer, Answerer, CallFailed, Request
from realtime.protocol.disconnects import Disconnected
from realtime.protocol.errors import InternalError, ProtocolError, TooManyRequests
from realtime.tasks import TaskOwner, is_cancelled

logger = logging.getLogger(__name__)

FAREWELL_SECONDS: Final = 3.0  # for who is told that a connection has ended
FAREWELLS_MAX: Final = 100  # at once; thousands may leave in one moment
FAREWELLS_SECONDS: Final = 10.0  # for all that are left when the instance ends


class Calls:
    """The calls of a process, ``calls_max`` at once."""

    def __init__(self) -> None:
        self._count = 0
        self._farewells: set[asyncio.Task[None]] = set()
        self._farewell_turns = asyncio.Semaphore(FAREWELLS_MAX)

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
        self._count += 1
        try:
            return await _ask(answerer, request)
        finally:
            self._count -= 1

    def say_farewell(self, answerer: Answerer, request: Request) -> None:
        """Tell somebody that a connection has ended; nothing waits for it, nor for its outcome."""
        task = asyncio.create_task(self._tell(answerer, request), name=answerer.label)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _tell(self, answerer: Answerer, request: Request) -> None:
        try:
            async with self._farewell_turns:
                await _ask(answerer, request)
        except (ProtocolError, Disconnected) as error:
            logger.debug("%s: %s", answerer.label, error)

    async def until_told(self) -> None:
        """Wait for the farewells, for ten seconds at most."""
        if self._farewells:
            await asyncio.wait(list(self._farewells), timeout=FAREWELLS_SECONDS)

    async def close(self) -> None:
        """End them."""
        if self._farewells:
            logger.warning("%d ends of connections were told to nobody", len(self._farewells))
            for task in self._farewells:
                task.cancel()
            await asyncio.wait(list(self._farewells))


async def _ask(answerer: Answerer, request: Request) -> Answer:
    task = asyncio.current_task()
    assert task is not None
    name = task.get_name()
    task.set_name(answerer.label)
    try:
        return await _answered(answerer, request)
    finally:
        task.set_name(name)


async def _answered(answerer: Answerer, request: Request) -> Answer:
    deadline = asyncio.timeout(answerer.timeout_seconds)
    try:
        async with deadline:
            return await answerer.ask(request)
    except (ProtocolError, Disconnected):
        raise
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise  # nobody waits for it any more
        failure: BaseException = error  # of something that the answerer has waited for
    except TimeoutError as error:
        if deadline.expired():
            logger.warning("%s took longer than %g s", answerer.label, answerer.timeout_seconds)
            raise CallFailed("no answer in time") from error
        failure = error
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # the last two end the event loop
        failure = error
    extra = {"client": request.peer.client}
    logger.error("%s failed", answerer.label, exc_info=failure, extra=extra)
    raise InternalError from failure


class ConnectionCalls:
    """What runs beside the commands of one connection; made when there is something.

    Attributes:
        connecting: The connect under way, None if it asks nobody.
        subscribing: The subscribes under way that ask somebody, by channel.
        publishing: The last publication under way that asks somebody, by channel. The next one
            there waits for it, so that they keep their order.
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
        self.publishing: dict[str, asyncio.Task[None]] = {}

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
        for under_way in (self.subscribing, self.publishing):
            for channel in [name for name, each in under_way.items() if each is task]:
                del under_way[channel]
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
