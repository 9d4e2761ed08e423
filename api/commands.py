"""``POST /api/<method>``: the server API for backends, compatible with Centrifugo's.

A body that cannot be read as the method's request is answered with HTTP 400 and ``Bad Request``,
one larger than ``DATA_UPLOAD_MAX_MEMORY_SIZE`` with 413, a missing or refused key with 401 and an
empty body, a call outside the key's scopes with 403 and an empty body (``auth.py``), another HTTP
method with 405, an unknown method with 404. Everything else is HTTP 200 with ``result`` or
``error``, or, if ``X-Centrifugo-Error-Mode: transport`` asks for it, an HTTP status and the error.
"""

import asyncio
import logging
from collections.abc import Sequence
from itertools import chain
from typing import Final

import msgspec
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from msgspec import Struct

from api import schemas
from api.auth import Caller, caller_of
from api.methods import METHODS, publish_item, publish_items
from api.results import error_body
from api.schemas import BatchCommand, BatchRequest, MalformedBody, PublishRequest
from realtime.protocol.errors import (
    BadRequest,
    InternalError,
    MethodNotFound,
    PermissionDenied,
    ProtocolError,
)
from realtime.services import PublishItem

logger = logging.getLogger(__name__)

BATCH: Final = "batch"
PARALLEL_RUNS_MAX: Final = 64
_STATUSES: Final = {102: 404, 104: 404, 107: 400, 108: 400, 112: 416, 113: 409}
_encode = msgspec.json.Encoder().encode

Reply = dict[str, Struct]


class NotFound(MethodNotFound):
    """A command of a batch names no method; the API words it otherwise than the client protocol."""

    message = "not found"


# Not a browser's page but a holder of an API key calls this: no cookie counts here, so that there
# is nothing for a forged request to borrow.
@csrf_exempt
async def command(request: HttpRequest, method: str) -> HttpResponse:
    """Carry out one method and answer."""
    if method != BATCH and method not in METHODS:
        return HttpResponse(status=404)
    if request.method != "POST":
        return HttpResponse(status=405, headers={"Allow": "POST"})
    try:
        caller = await caller_of(request)
        if caller is None:
            return HttpResponse(status=401)
        return await _answer(method, request.body, caller)
    except MalformedBody:
        return HttpResponse("Bad Request", status=400, content_type="text/plain")
    except RequestDataTooBig:
        return HttpResponse("Payload Too Large", status=413, content_type="text/plain")
    except PermissionDenied:
        return HttpResponse(status=403)
    except ProtocolError as error:
        return _error_response(request, error)
    except Exception:
        logger.exception("server API: %s failed", method)
        return _error_response(request, InternalError())


async def _answer(method: str, body: bytes, caller: Caller) -> HttpResponse:
    if method == BATCH:
        batch = schemas.decode(body, BatchRequest)
        return _response({"replies": await _replies(batch, caller)})
    request_type, perform = METHODS[method]
    return _response({"result": await perform(schemas.decode(body, request_type), caller)})


def _response(content: object, status: int = 200) -> HttpResponse:
    return HttpResponse(_encode(content), status=status, content_type="application/json")


def _error_response(request: HttpRequest, error: ProtocolError) -> HttpResponse:
    body = error_body(error)
    if request.headers.get("X-Centrifugo-Error-Mode", "").lower() == "transport":
        return _response(body, _STATUSES.get(error.code, 500))
    return _response({"error": body})


# Batch ----------------------------------------------------------------------------------------


async def _replies(batch: BatchRequest, caller: Caller) -> list[Reply]:
    """Return one reply for each command, in order.

    Publishes that follow one another go in one round trip. In a parallel batch at most
    ``PARALLEL_RUNS_MAX`` such runs and other commands are under way at once, and what stands
    later may be done earlier.
    """
    places = asyncio.Semaphore(PARALLEL_RUNS_MAX if batch.parallel else 1)

    async def carry_out(run: list[BatchCommand | None]) -> list[Reply]:
        async with places:
            if _is_publish(run[0]):
                return await _publish_replies(run, caller)
            return [await _reply(run[0], caller)]

    # A semaphore lets in whoever came first, so that one place means one after another.
    replies = await asyncio.gather(*map(carry_out, _runs(batch.commands or ())))
    return list(chain.from_iterable(replies))


def _runs(commands: Sequence[BatchCommand | None]) -> list[list[BatchCommand | None]]:
    runs: list[list[BatchCommand | None]] = []
    for command in commands:
        if runs and _is_publish(command) and _is_publish(runs[-1][0]):
            runs[-1].append(command)
        else:
            runs.append([command])
    return runs


def _is_publish(command: BatchCommand | None) -> bool:
    return command is not None and command.publish is not None


async def _publish_replies(run: Sequence[BatchCommand | None], caller: Caller) -> list[Reply]:
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
