"""What resources share: who asks, and how they are answered."""

from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.encoding import escape_uri_path
from msgspec import Struct
from ninja.security import APIKeyHeader

from api.auth import Caller, caller_of

_encode = msgspec.json.Encoder().encode


class ApiRequest(HttpRequest):
    """A request whose key was accepted."""

    auth: Caller


class ApiKey(APIKeyHeader):
    """The key of the server API; not in the address, which ends up in logs."""

    param_name = "X-API-Key"

    async def authenticate(self, request: HttpRequest, key: str | None) -> Any:
        """Return the holder of the key; ``Authorization: apikey`` will do as well."""
        return await caller_of(request, takes_query=False)


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
