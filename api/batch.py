"""Several commands in one body, each with its own reply.

Called by ``commands.py`` for ``batch`` and for the lines of ``POST /api``.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

from msgspec import Struct

from api.auth import Caller
from api.methods import METHODS, NotFound, publish_item, publish_items
from api.results import error_body
from api.schemas import COMMANDS_MAX, BatchCommand, MalformedBody, PublishRequest
from realtime.protocol.errors import BadRequest, InternalError, ProtocolError
from realtime.services import PublishItem

logger = logging.getLogger(__name__)

PARALLEL_RUNS_MAX: Final = 64

Reply = dict[str, Struct]
Run = list[BatchCommand | None]  # publishes that follow one another, or one command


async def replies(
    commands: Sequence[BatchCommand | None], caller: Caller, *, is_parallel: bool = False
) -> list[Reply]:
    """Return one reply for each command, in order: by its method's name a result, or an error.

    Publishes that follow one another go together. In a parallel batch at most
    ``PARALLEL_RUNS_MAX`` such runs and other commands are under way at once, and what stands
    later may be done earlier.

    Raises:
        MalformedBody: They are more than ``COMMANDS_MAX``.
    """
    if sum(map(_size, commands)) > COMMANDS_MAX:
        raise MalformedBody(f"more than {COMMANDS_MAX} commands")
    runs = _runs(commands)
    answers: list[list[Reply]] = [[] for _ in runs]
    waiting = enumerate(runs)
    if is_parallel:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(PARALLEL_RUNS_MAX, len(runs))):
                tasks.create_task(_work(waiting, answers, caller), name="parallel batch")
    else:
        await _work(waiting, answers, caller)
    return list(chain.from_iterable(answers))


def _size(command: BatchCommand | None) -> int:
    if command is None or command.broadcast is None:
        return 1
    return max(len(command.broadcast.channels or ()), 1)


async def _work(
    waiting: Iterator[tuple[int, Run]], answers: list[list[Reply]], caller: Caller
) -> None:
    """Carry out what waits, as long as there is any; others may take from it as well."""
    for place, run in waiting:
        if _is_publish(run[0]):
            answers[place] = await _publish_replies(run, caller)
        else:
            answers[place] = [await _reply(run[0], caller)]


def _runs(commands: Sequence[BatchCommand | None]) -> list[Run]:
    runs: list[Run] = []
    for command in commands:
        if runs and _is_publish(command) and _is_publish(runs[-1][0]):
            runs[-1].append(command)
        else:
            runs.append([command])
    return runs


def _is_publish(command: BatchCommand | None) -> bool:
    return command is not None and command.publish is not None


async def _publish_replies(run: Run, caller: Caller) -> list[Reply]:
    items = [_publish_item(command.publish, caller) for command in run if command]
    try:
        outcomes = await publish_items(items)
    except Exception as error:
        failure = _as_answer(error, "publish")
        outcomes = [item if isinstance(item, ProtocolError) else failure for item in items]
    return [
        {"error": error_body(outcome)}
        if isinstance(outcome, ProtocolError)
        else {"publish": outcome}
        for outcome in outcomes
    ]


def _publish_item(request: PublishRequest | None, caller: Caller) -> PublishItem | ProtocolError:
    try:
        return publish_item(request or PublishRequest(), caller)
    except ProtocolError as error:
        return error


async def _reply(command: BatchCommand | None, caller: Caller) -> Reply:
    if command is None:
        return {"error": error_body(BadRequest())}
    named = command.named_request()
    if named is None:
        return {"error": error_body(NotFound())}
    method, request = named
    try:
        return {method: await METHODS[method].perform(request, caller)}
    except Exception as error:
        return {"error": error_body(_as_answer(error, method))}


def _as_answer(error: Exception, method: str) -> ProtocolError:
    """Return the error that a caller may see of a failure inside a batch; log what is ours."""
    if isinstance(error, ProtocolError):
        return error
    logger.error("server API: %s failed in a batch", method, exc_info=error)
    return InternalError()
