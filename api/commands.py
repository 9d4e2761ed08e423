"""``POST /api/<method>``: the server API for backends, compatible with Centrifugo's.

A body that cannot be read as the method's request, or that holds more than ``COMMANDS_MAX``
commands, is answered with HTTP 400 and ``Bad Request``, one larger than
``DATA_UPLOAD_MAX_MEMORY_SIZE`` with 413, a missing or refused key with 401 and an empty body, a
call outside the key's scopes with 403 and an empty body (``auth.py``), another HTTP method with
405, an unknown method with 404. Everything else is HTTP 200 with ``result`` or ``error``, or, if
``X-Centrifugo-Error-Mode: transport`` or the setting ``api_errors_as_statuses`` asks for it, an
HTTP status and the error.

``POST /api`` without a method takes lines of commands and answers with a line for each; a line that
cannot be read gets error 107 in its place, a method outside the scopes error 103.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from api import schemas
from api.auth import Caller, caller_of
from api.batch import replies
from api.methods import METHODS
from api.results import error_body
from api.schemas import COMMANDS_MAX, BatchCommand, BatchRequest, LegacyCommand, MalformedBody
from realtime import conf
from realtime.protocol.errors import InternalError, PermissionDenied, ProtocolError
from realtime.protocol.messages import is_absent

logger = logging.getLogger(__name__)

BATCH: Final = "batch"
_STATUSES: Final = {102: 404, 104: 404, 107: 400, 108: 400, 112: 416, 113: 409}
_encode = msgspec.json.Encoder().encode

Answer = Callable[[bytes, Caller], Awaitable[HttpResponse]]


# Not a browser's page but a holder of an API key calls this: no cookie counts here, so that there
# is nothing for a forged request to borrow.
@csrf_exempt
async def command(request: HttpRequest, method: str) -> HttpResponse:
    """Carry out one method and answer."""
    if method == BATCH:
        return await _respond(request, method, _answer_batch)
    if method not in METHODS:
        return HttpResponse(status=404)

    async def answer(body: bytes, caller: Caller) -> HttpResponse:
        request_type, perform = METHODS[method]
        return _response({"result": await perform(schemas.decode(body, request_type), caller)})

    return await _respond(request, method, answer)


@csrf_exempt
async def lines(request: HttpRequest) -> HttpResponse:
    """Carry out the commands of all lines, one after another, and answer with a line for each."""
    return await _respond(request, "a body of lines", _answer_lines)


async def _respond(request: HttpRequest, name: str, answer: Answer) -> HttpResponse:
    if request.method != "POST":
        return HttpResponse(status=405, headers={"Allow": "POST"})
    try:
        caller = await caller_of(request)
        if caller is None:
            return HttpResponse(status=401)
        return await answer(request.body, caller)
    except MalformedBody:
        return HttpResponse("Bad Request", status=400, content_type="text/plain")
    except RequestDataTooBig:
        return HttpResponse("Payload Too Large", status=413, content_type="text/plain")
    except PermissionDenied:
        return HttpResponse(status=403)
    except ProtocolError as error:
        return _error_response(request, error)
    except Exception:
        logger.exception("server API: %s failed", name)
        return _error_response(request, InternalError())


def _response(content: object, status: int = 200) -> HttpResponse:
    return HttpResponse(_encode(content), status=status, content_type="application/json")


def _error_response(request: HttpRequest, error: ProtocolError) -> HttpResponse:
    body = error_body(error)
    asked = request.headers.get("X-Centrifugo-Error-Mode", "").lower()
    if asked == "transport" or conf.current().api_errors_as_statuses:
        return _response(body, _STATUSES.get(error.code, 500))
    return _response({"error": body})


async def _answer_batch(body: bytes, caller: Caller) -> HttpResponse:
    batch = schemas.decode(body, BatchRequest)
    done = await replies(batch.commands or (), caller, is_parallel=bool(batch.parallel))
    return _response({"replies": done})


# Lines ----------------------------------------------------------------------------------------


async def _answer_lines(body: bytes, caller: Caller) -> HttpResponse:
    given = [line for line in body.split(b"\n") if line.strip()]
    if not 0 < len(given) <= COMMANDS_MAX:
        raise MalformedBody(f"{len(given)} lines")
    answers = [
        _encode({"error" if name == "error" else "result": content})
        for reply in await replies(list(map(_command_of, given)), caller)
        for name, content in reply.items()
    ]
    return HttpResponse(b"".join(line + b"\n" for line in answers), content_type="application/json")


def _command_of(line: bytes) -> BatchCommand | None:
    """Return the command of a line: none where it cannot be read, an empty one for no method.

    Source: Centrifugo server API, the address without a method.
    """
    try:
        asked = schemas.decode(line, LegacyCommand)
        method = asked.method or ""
        if method not in METHODS:
            return BatchCommand()
        params = b"{}" if is_absent(asked.params) else bytes(asked.params)
        return schemas.decode(b'{"%s":%s}' % (method.encode(), params), BatchCommand)
    except MalformedBody:
        return None
