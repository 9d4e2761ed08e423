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

``carry_out`` is all of it. The views here bring it what Django read, ``asgi.py`` what came before
Django.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple

import msgspec
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from api import schemas
from api.auth import Caller, caller_of, keys_in
from api.batch import replies
from api.methods import METHODS
from api.results import error_body
from api.schemas import COMMANDS_MAX, BatchCommand, BatchRequest, LegacyCommand, MalformedBody
from realtime import conf
from realtime.protocol.errors import InternalError, PermissionDenied, ProtocolError
from realtime.protocol.messages import is_absent

logger = logging.getLogger(__name__)

BATCH: Final = "batch"
LINES: Final = ""  # the name of no method: a body of lines
CONTENT_TYPE: Final = "application/json"
_STATUSES: Final = {102: 404, 104: 404, 107: 400, 108: 400, 112: 416, 113: 409}
_encode = msgspec.json.Encoder().encode


class Unauthorized(Exception):
    """No accepted key came with the call."""


# Whatever of these is raised, nothing has been done: who is told may as well ask again.
REFUSALS: Final = (Unauthorized, MalformedBody, RequestDataTooBig, PermissionDenied)


class Answer(NamedTuple):
    """An answer to who may ask: JSON, or lines of it."""

    status: int
    body: bytes


async def carry_out(
    name: str, *, keys: Iterable[str], body: Callable[[], bytes], error_mode: str = ""
) -> Answer:
    """Carry out one call and return the answer, of a failure too.

    Args:
        name: A method, ``BATCH`` or ``LINES``.
        keys: What came for a key, the first one first.
        body: Gives the body; asked once, and only for who has a key.
        error_mode: ``X-Centrifugo-Error-Mode``.
    Raises:
        Unauthorized, MalformedBody, RequestDataTooBig, PermissionDenied: It is refused, and
            nothing was done.
    """
    try:
        caller = await caller_of(keys)
        if caller is None:
            raise Unauthorized
        return Answer(200, await _answers(name)(_bounded(body()), caller))
    except REFUSALS:
        raise
    except ProtocolError as error:
        return _error_answer(error, error_mode)
    except Exception:
        logger.exception("server API: %s failed", name or "a body of lines")
        return _error_answer(InternalError(), error_mode)


def _bounded(body: bytes) -> bytes:
    limit_bytes = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    # Django looks at Content-Length alone, which a body in chunks does not have.
    if limit_bytes is not None and len(body) > limit_bytes:
        raise RequestDataTooBig
    return body


def _error_answer(error: ProtocolError, error_mode: str) -> Answer:
    body = error_body(error)
    if error_mode.lower() == "transport" or conf.current().api_errors_as_statuses:
        return Answer(_STATUSES.get(error.code, 500), _encode(body))
    return Answer(200, _encode({"error": body}))


def _answers(name: str) -> Callable[[bytes, Caller], Awaitable[bytes]]:
    if name == BATCH:
        return _answer_batch
    if name == LINES:
        return _answer_lines
    request_type, perform = METHODS[name]

    async def answer(body: bytes, caller: Caller) -> bytes:
        return _encode({"result": await perform(schemas.decode(body, request_type), caller)})

    return answer


async def _answer_batch(body: bytes, caller: Caller) -> bytes:
    batch = schemas.decode(body, BatchRequest)
    done = await replies(batch.commands or (), caller, is_parallel=bool(batch.parallel))
    return _encode({"replies": done})


# Views ----------------------------------------------------------------------------------------


# Not a browser's page but a holder of an API key calls this: no cookie counts here, so that there
# is nothing for a forged request to borrow.
@csrf_exempt
async def command(request: HttpRequest, method: str) -> HttpResponse:
    """Carry out one method and answer."""
    if method != BATCH and method not in METHODS:
        return HttpResponse(status=404)
    return await _respond(request, method)


@csrf_exempt
async def lines(request: HttpRequest) -> HttpResponse:
    """Carry out the commands of all lines, one after another, and answer with a line for each."""
    return await _respond(request, LINES)


async def _respond(request: HttpRequest, name: str) -> HttpResponse:
    if request.method != "POST":
        return HttpResponse(status=405, headers={"Allow": "POST"})
    try:
        status, body = await carry_out(
            name,
            keys=keys_in(request.headers, query=lambda: request.META.get("QUERY_STRING", "")),
            body=lambda: request.body,
            error_mode=request.headers.get("X-Centrifugo-Error-Mode", ""),
        )
    except Unauthorized:
        return HttpResponse(status=401)
    except MalformedBody:
        return HttpResponse("Bad Request", status=400, content_type="text/plain")
    except RequestDataTooBig:
        return HttpResponse("Payload Too Large", status=413, content_type="text/plain")
    except PermissionDenied:
        return HttpResponse(status=403)
    return HttpResponse(body, status=status, content_type=CONTENT_TYPE)


# Lines ----------------------------------------------------------------------------------------


async def _answer_lines(body: bytes, caller: Caller) -> bytes:
    given = [line for line in body.split(b"\n") if line.strip()]
    if not 0 < len(given) <= COMMANDS_MAX:
        raise MalformedBody(f"{len(given)} lines")
    answers = [
        _encode({"error" if name == "error" else "result": content})
        for reply in await replies(list(map(_command_of, given)), caller)
        for name, content in reply.items()
    ]
    return b"".join(line + b"\n" for line in answers)


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
