"""The calls of one event loop to one Redis server, gathered into pipelines.

Owned by ``RedisServers``. Calls wait in the order they came; a few workers take what waits and
send it in one round trip. So a thousand callers need a handful of connections, share their round
trips, and are served in turn. A pool with a connection for each caller would starve some of them.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, cast

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import NoScriptError, RedisError, ResponseError

from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_act import Act

WORKERS: Final = 4  # so many pipelines are under way at once
BATCH_MAX: Final = 128  # a pipeline takes whole calls until it has so many acts
# While a server is silent one round trip after the other asks whether it is back, and so long each
# has callers wait for it. A client's commands wait for one another: one with many channels there
# must not lose those it has elsewhere.
SILENT_WAIT_SECONDS: Final = 0.25


class _Call(NamedTuple):
    """Acts that one caller wants done in order, and where it waits."""

    acts: Sequence[Act[Any]]
    answers: asyncio.Future[list[Any]]


class Lane:
    """The way to one server."""

    def __init__(self, pool: ConnectionPool, *, timeout_seconds: float) -> None:
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self._waiting: deque[_Call] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._coming = 0  # workers that were started and have not looked yet
        self._is_silent = False  # whether nothing was answered for a whole deadline
        self._asked_at = 0.0  # when the last round trip began
        self._answered_at = 0.0

    async def run(self, acts: Sequence[Act[Any]]) -> list[Any]:
        """Carry out acts in order; return an answer or a ``RedisError`` for each.

        A caller that leaves does not take the others' round trip away; its acts may be done.

        Raises:
            BrokerUnavailable: No answer within the deadline, which covers the wait in the lane
                and is short while the server is silent; whether anything was done is not known.
        """
        answers: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(acts, answers))
        called_at = asyncio.get_running_loop().time()
        patience_seconds = self._patience_seconds()
        if self._coming == 0 and len(self._workers) < (1 if self._is_silent else WORKERS):
            self._coming += 1
            worker = asyncio.create_task(self._work(), name="redis lane")
            self._workers.add(worker)
        try:
            async with asyncio.timeout(patience_seconds):
                return await answers
        except TimeoutError as error:
            self._is_silent = self._is_silent or self._answered_at < called_at
            raise BrokerUnavailable("no answer in time") from error

    def _patience_seconds(self) -> float:
        if not self._is_silent:
            return self._timeout_seconds
        waited = asyncio.get_running_loop().time() - self._asked_at
        if not self._workers or waited >= self._timeout_seconds:
            waited = 0.0  # the next question begins now
        return min(max(SILENT_WAIT_SECONDS - waited, 0.0), self._timeout_seconds)

    async def _work(self) -> None:
        self._coming -= 1
        try:
            while self._waiting:
                await self._carry_out(self._take())
        finally:
            # At once, not by a callback: whoever comes in this very turn needs a worker.
            self._workers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _carry_out(self, batch: list[_Call]) -> None:
        answers: list[Any] | None = None
        reason = "the lane was closed"
        acts = [act for call in batch for act in call.acts]
        self._asked_at = asyncio.get_running_loop().time()
        try:
            # It has its whole time, whoever has left: so it is seen that the server is back.
            async with asyncio.timeout(self._timeout_seconds):
                answers = await self._send(acts)
            if acts:
                self._is_silent = False
                self._answered_at = asyncio.get_running_loop().time()
        except (RedisError, OSError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
        finally:
            # Whatever happened, nobody waits for ever.
            if answers is None:
                _fail(batch, reason)
            else:
                _answer(batch, answers)

    def _take(self) -> list[_Call]:
        batch: list[_Call] = []
        count = 0
        while self._waiting and (not batch or count + len(self._waiting[0].acts) <= BATCH_MAX):
            call = self._waiting.popleft()
            if not call.answers.done():  # nobody waits for what timed out in the lane
                batch.append(call)
                count += len(call.acts)
        return batch

    async def _send(self, acts: Sequence[Act[Any]]) -> list[Any]:
        if not acts:
            return []
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py
        try:
            await connection.send_packed_command(_packed(acts))
            answers = [await _answer_from(connection) for _ in acts]
            if isinstance(answers[0], NoScriptError):  # nothing was sent but this one
                await connection.send_packed_command(_packed_act(acts[0], brings_script=True))
                answers = [await _answer_from(connection)]
            return answers
        finally:
            await self._pool.release(connection)

    async def close(self) -> None:
        """End the workers; who waits is told that Redis did not answer."""
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers)
        _fail(self._waiting, "the lane was closed")
        self._waiting.clear()


def _packed(acts: Sequence[Act[Any]]) -> bytes:
    """Return acts as Redis reads them; of several the first of each script brings the script.

    One that Redis does not know would have to be run again after the others, out of order.
    """
    if len(acts) == 1:
        return _packed_act(acts[0], brings_script=False)
    brought: set[str] = set()
    packed: list[bytes] = []
    for act in acts:
        packed.append(_packed_act(act, brings_script=act.script.sha not in brought))
        brought.add(act.script.sha)
    return b"".join(packed)


def _packed_act(act: Act[Any], *, brings_script: bool) -> bytes:
    # redis-py packs in Python, which takes as long as all else that is done for a publication.
    command = ("EVAL", act.script.text) if brings_script else ("EVALSHA", act.script.sha)
    words: Any = (*command, len(act.keys), *act.keys, *act.args)  # its type is that of one word
    packed: bytes = pack_command(words)
    return packed


async def _answer_from(connection: AbstractConnection) -> Any:
    """Read one answer; an error in it is an answer, a connection that breaks is not."""
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def _answer(batch: Sequence[_Call], answers: list[Any]) -> None:
    start = 0
    for call in batch:
        end = start + len(call.acts)
        if not call.answers.done():
            call.answers.set_result(answers[start:end])
        start = end


def _fail(batch: Iterable[_Call], reason: str) -> None:
    for call in batch:
        if not call.answers.done():
            call.answers.set_exception(BrokerUnavailable(reason))
