"""What resources share: who asks, and how they are answered."""

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_args, get_origin

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.encoding import escape_uri_path
from msgspec import Struct
from ninja.params.models import Query
from ninja.security import APIKeyHeader

from api.auth import Caller, caller_of, keys_in
from api.problems import invalid

_P = ParamSpec("_P")
_Answer = TypeVar("_Answer", bound=HttpResponseBase)
_encode = msgspec.json.Encoder().encode


class ApiRequest(HttpRequest):
    """A request whose key was accepted."""

    auth: Caller


class ApiKey(APIKeyHeader):
    """The key of the server API; not in the address, which ends up in logs."""

    param_name = "X-API-Key"

    async def authenticate(self, request: HttpRequest, key: str | None) -> Any:
        """Return the holder of the key; ``Authorization: apikey`` will do as well."""
        return await caller_of(keys_in(request.headers))


def knows_its_query(
    operation: Callable[Concatenate[ApiRequest, _P], Awaitable[_Answer]],
) -> Callable[..., Awaitable[_Answer]]:
    """Refuse query parameters that an operation does not know: a slip is no wish for all."""
    known = {
        name
        for name, parameter in inspect.signature(operation).parameters.items()
        if get_origin(parameter.annotation) is Annotated
        and any(isinstance(note, Query) for note in get_args(parameter.annotation))
    }

    @wraps(operation)
    async def strict(request: ApiRequest, *args: _P.args, **kwargs: _P.kwargs) -> _Answer:
        for name in request.GET:
            if name not in known:
                raise invalid("query", name, f"there is no parameter {name!r:.60}")
        return await operation(request, *args, **kwargs)

    return strict


def answer(content: Struct, *, status: int = 200) -> HttpResponse:
    """Return a struct as JSON."""
    # What a key shows is for its holder; an ETag makes asking again cheap.
    return HttpResponse(
        _encode(content),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "private, no-cache"},
    )


def conditional_answer(
    request: HttpRequest, content: Struct, *, version: str, next_cursor: str = ""
) -> HttpResponseBase:
    """Return a struct as JSON with its ``ETag``, or 304 for who has it already.

    Args:
        request: Its ``If-None-Match`` and ``If-Match`` count.
        content: The answer.
        version: Another for every other answer at this address.
        next_cursor: Named by ``Link``, if there is one.
    """
    response = answer(content)
    tag = response.headers["ETag"] = f'"{version}"'
    if next_cursor:
        response.headers["Link"] = f'<{_with_cursor(request, next_cursor)}>; rel="next"'
    return get_conditional_response(request, etag=tag, response=response) or response


def _with_cursor(request: HttpRequest, cursor: str) -> str:
    query = request.GET.copy()
    query["cursor"] = cursor
    return f"{escape_uri_path(request.path)}?{query.urlencode()}"
