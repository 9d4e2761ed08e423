"""What resources answer when they refuse: problem details.

Called by ``resources.py`` with what was raised. Source: RFC 9457; ``errors`` and ``code`` are its
extension members.
"""

import logging
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from msgspec import Struct, field
from ninja.errors import AuthenticationError, ValidationError

from api.schemas import MalformedBody
from realtime.protocol.errors import BadRequest, InternalError, PermissionDenied, ProtocolError

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 1
_TYPE: Final = "urn:heliograph:problem:"
# Which part of a request holds a field that a BadRequest begins with; others are in the body.
_PLACES: Final = {"channel": "path", "client": "path", "code": "query", "reason": "query"}
_encode = msgspec.json.Encoder().encode


class FieldError(Struct):
    """What is wrong with one field; ``in`` is ``path``, ``query``, ``header`` or ``body``.

    The field is empty for the body as a whole.
    """

    place: str = field(name="in")
    field: str
    detail: str


class Problem(Struct, omit_defaults=True):
    """Why there is no answer; ``code`` is the error's number in the server API, if it has one."""

    type: str
    title: str
    status: int
    detail: str = ""
    code: int = 0
    errors: list[FieldError] = []


class Kind(NamedTuple):
    """The end of a problem's type, its title, and its status."""

    name: str
    title: str
    status: HTTPStatus


MALFORMED: Final = Kind("malformed-body", "The body is not JSON", HTTPStatus.BAD_REQUEST)
UNAUTHORIZED: Final = Kind("unauthorized", "No accepted key", HTTPStatus.UNAUTHORIZED)
FORBIDDEN: Final = Kind("permission-denied", "Outside the key's scopes", HTTPStatus.FORBIDDEN)
NOT_FOUND: Final = Kind("not-found", "No such resource", HTTPStatus.NOT_FOUND)
NOT_ALLOWED: Final = Kind(
    "method-not-allowed", "Not a method of the resource", HTTPStatus.METHOD_NOT_ALLOWED
)
PRECONDITION: Final = Kind(
    "precondition-failed", "The resource is another now", HTTPStatus.PRECONDITION_FAILED
)
TOO_LARGE: Final = Kind(
    "body-too-large", "The body is too large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE
)
NOT_JSON: Final = Kind("not-json", "Send JSON", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
INVALID: Final = Kind("invalid-input", "A field is not acceptable", HTTPStatus.UNPROCESSABLE_ENTITY)
FAILED: Final = Kind("failed", "The server failed", HTTPStatus.INTERNAL_SERVER_ERROR)
UNAVAILABLE: Final = Kind("unavailable", "Not now, try again", HTTPStatus.SERVICE_UNAVAILABLE)
OF_CODE: Final = {
    102: Kind("unknown-channel", "The namespace is not configured", HTTPStatus.NOT_FOUND),
    103: FORBIDDEN,
    107: INVALID,
    108: Kind("not-available", "Switched off for the channel", HTTPStatus.CONFLICT),
    112: Kind("unrecoverable-position", "The cursor's place is gone", HTTPStatus.GONE),
}


class Refused(Exception):
    """A request is refused, for a reason that the caller is told."""

    def __init__(self, kind: Kind, detail: str = "", *errors: FieldError) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = list(errors)


def invalid(place: str, name: str, detail: str) -> Refused:
    """Return the refusal of one field."""
    return Refused(INVALID, detail, FieldError(place, name, detail))


def response(
    kind: Kind, detail: str = "", *, code: int = 0, errors: list[FieldError] | None = None
) -> HttpResponse:
    """Return a problem as an answer."""
    problem = Problem(_TYPE + kind.name, kind.title, kind.status, detail, code, errors or [])
    headers = {"Cache-Control": "no-store"}
    if kind is UNAUTHORIZED:
        headers["WWW-Authenticate"] = "apikey"
    elif kind is UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return HttpResponse(
        _encode(problem), status=kind.status, content_type=CONTENT_TYPE, headers=headers
    )


def of_failure(request: HttpRequest, error: Exception) -> HttpResponse:
    """Return the answer to a failure; what is ours is logged, and not told."""
    if isinstance(error, Refused):
        return response(error.kind, error.detail, errors=error.errors)
    if isinstance(error, MalformedBody):
        return _of_body(error)
    if isinstance(error, ValidationError):
        return _of_parameters(error)
    if isinstance(error, ProtocolError):
        return _of_protocol(error)
    if isinstance(error, AuthenticationError):
        return response(UNAUTHORIZED, "send an API key in the header X-API-Key")
    if isinstance(error, RequestDataTooBig):
        return response(TOO_LARGE)
    logger.error("%s %s failed", request.method, request.path, exc_info=error)
    return response(FAILED)


def _of_body(error: MalformedBody) -> HttpResponse:
    if error.field is None:
        return response(MALFORMED, str(error))
    return response(INVALID, str(error), errors=[FieldError("body", error.field, str(error))])


def _of_parameters(error: ValidationError) -> HttpResponse:
    errors = [
        FieldError(str(found["loc"][0]), ".".join(map(str, found["loc"][1:])), found["msg"])
        for found in error.errors
    ]
    detail = f"{errors[0].field}: {errors[0].detail}"
    return response(INVALID, detail, errors=errors)


def _of_protocol(error: ProtocolError) -> HttpResponse:
    if isinstance(error, InternalError):
        return response(UNAVAILABLE, error.message, code=error.code)
    kind = OF_CODE.get(error.code)
    if kind is None:
        logger.error("error %d has no place among the problems", error.code, exc_info=error)
        return response(FAILED)
    if isinstance(error, PermissionDenied):
        return response(kind, str(error), code=error.code)
    if isinstance(error, BadRequest) and str(error):
        # Such an error begins with the name of what it complains of.
        name = str(error).partition(" ")[0]
        found = FieldError(_PLACES.get(name, "body"), name, str(error))
        return response(kind, str(error), code=error.code, errors=[found])
    return response(kind, error.message, code=error.code)
