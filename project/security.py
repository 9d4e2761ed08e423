"""What every answer of the site says to the browser about itself.

Middleware, named in ``settings.py``.
"""

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

Answer = HttpResponseBase
Next = Callable[[HttpRequest], Any]  # the answer, or a coroutine of it

_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src {connect}; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def _after(get_response: Next, change: Callable[[HttpRequest, Answer], None]) -> Next:
    """Return a middleware that changes the answer, with or without ``await`` as Django asks."""
    if iscoroutinefunction(get_response):

        async def answer_async(request: HttpRequest) -> Answer:
            response: Answer = await get_response(request)
            change(request, response)
            return response

        return answer_async

    def answer(request: HttpRequest) -> Answer:
        response: Answer = get_response(request)
        change(request, response)
        return response

    return answer


@sync_and_async_middleware
def content_security_policy(get_response: Next) -> Next:
    """Let a page load and reach nothing but its own host; no inline script or style."""
    return _after(get_response, _add_policy)


@sync_and_async_middleware
def secure_cookies(get_response: Next) -> Next:
    """Keep cookies that were given over TLS away from plain HTTP."""
    return _after(get_response, _secure_cookies)


def _add_policy(request: HttpRequest, response: Answer) -> None:
    if response.get("Content-Type", "").startswith("text/html"):
        response["Content-Security-Policy"] = _POLICY.format(connect=_connect_sources(request))


def _connect_sources(request: HttpRequest) -> str:
    try:
        host = request.get_host()
    except DisallowedHost:  # answered with 400 already
        return "'self'"
    # Named as well, because older browsers do not count ws: and wss: as 'self'.
    return f"'self' ws://{host} wss://{host}"


def _secure_cookies(request: HttpRequest, response: Answer) -> None:
    if request.is_secure():
        for cookie in response.cookies.values():
            cookie["secure"] = True
