"""The server API before Django, for who publishes much: the same answers for a fraction of it.

An ASGI application, to be put round Django's. Django's handler and middleware cost several times
what a publish does, so a call that can be carried out goes round them. All else is handed on as it
came: other addresses and HTTP methods, hosts that are not ours, and every call that is refused, so
that Django refuses it in its own words and its own log. The answers are made by ``commands.py``,
those of Django's views as well.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.utils.log import log_response
from django.utils.module_loading import import_string

from api.auth import keys_in
from api.commands import BATCH, CONTENT_TYPE, LINES, REFUSALS, Answer, carry_out
from api.methods import METHODS
from realtime import services

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Coroutine[Any, Any, None]]

# As urls.py mounts them.
NAMES: Final = {"/api": LINES, **{f"/api/{name}": name for name in (*METHODS, BATCH)}}
_LONG: Final = (BATCH, LINES)
_HEADERS: Final = frozenset(
    (b"host", b"x-api-key", b"authorization", b"cookie", b"content-length")
) | {b"x-centrifugo-error-mode"}
# Where one of these is on, what Django answers depends on more than is looked at here.
_SITE_RULES: Final = (
    "DISALLOWED_USER_AGENTS",
    "FORCE_SCRIPT_NAME",
    "PREPEND_WWW",
    "SECURE_HSTS_SECONDS",
    "SECURE_SSL_REDIRECT",
    "USE_X_FORWARDED_HOST",
)
# The middleware that adds the same to every answer.
_ADDING: Final = (
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django.middleware.security.SecurityMiddleware",
)


class _Body(NamedTuple):
    """What came of a request: its messages, and the body if that is all of it."""

    messages: list[Message]
    content: bytes | None


class ServerApi:
    """Answers ``POST /api/<method>`` and ``POST /api``; hands what is not for it to Django."""

    def __init__(self, django: Application) -> None:
        self._django = django
        self._added = _added_headers()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Carry out a call of the server API, or let Django answer."""
        name = NAMES.get(scope["path"]) if scope["method"] == "POST" else None
        headers = _headers_of(scope) if name is not None else {}
        if name is None or not _is_for_us(scope, headers):
            await self._django(scope, receive, send)
            return
        body = await _read(receive)
        if body.content is None:
            await self._django(scope, _again(body.messages, receive), send)
            return
        work = _carry_out(name, scope, headers, body.content)
        try:
            answer = await (_while_there(receive, work) if name in _LONG else work)
        except REFUSALS:
            await self._django(scope, _again(body.messages, receive), send)
            return
        if answer is not None:
            await self._send(answer, scope["path"], send)

    async def _send(self, answer: Answer, path: str, send: Send) -> None:
        status, body = answer
        if status >= 400:
            response = HttpResponse(status=status)
            log_response("%s: %s", response.reason_phrase, path, response=response)
        length = (b"Content-Length", b"%d" % len(body))
        headers = [(b"Content-Type", CONTENT_TYPE.encode()), length, *self._added]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _added_headers() -> Sequence[tuple[bytes, bytes]]:
    """Return what the site's middleware adds to every answer."""
    response = HttpResponse()
    del response.headers["Content-Type"]
    for path in reversed(settings.MIDDLEWARE):
        if path in _ADDING:
            import_string(path)(lambda _: response).process_response(HttpRequest(), response)
    return [(name.encode(), value.encode()) for name, value in response.items()]


def _headers_of(scope: dict[str, Any]) -> dict[str, str]:
    """Return the headers that matter, repeated ones joined as Django joins them."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name in _HEADERS:
            text, known = value.decode("latin-1"), found.get(name.decode())
            found[name.decode()] = text if known is None else f"{known},{text}"
    return found


def _is_for_us(scope: dict[str, Any], headers: dict[str, str]) -> bool:
    """Tell whether Django, too, would carry out such a call, with nothing else to say to it."""
    length, limit_bytes = headers.get("content-length", ""), settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    return (
        # Without an instance the database may be asked, and Django looks after its connections.
        services.is_served_here()
        and not scope.get("root_path")
        and "cookie" not in headers  # sessions and forms have theirs renewed by any request
        and scope["query_string"].isascii()
        and (limit_bytes is None or not length.isdecimal() or int(length) <= limit_bytes)
        and not any(getattr(settings, rule) for rule in _SITE_RULES)
        and _is_allowed_host(headers.get("host", ""))
    )


def _is_allowed_host(host: str) -> bool:
    request = HttpRequest()
    request.META["HTTP_HOST"] = host
    try:
        request.get_host()
    except DisallowedHost:
        return False
    return True


async def _read(receive: Receive) -> _Body:
    messages: list[Message] = []
    limit_bytes, size_bytes, has_more = settings.DATA_UPLOAD_MAX_MEMORY_SIZE, 0, True
    while has_more:
        message = await receive()
        messages.append(message)
        size_bytes += len(message.get("body", b""))
        if message["type"] != "http.request" or (limit_bytes or size_bytes) < size_bytes:
            return _Body(messages, None)
        has_more = message.get("more_body", False)
    return _Body(messages, b"".join(message.get("body", b"") for message in messages))


def _again(messages: list[Message], receive: Receive) -> Receive:
    """Return what gives the messages that were read already, and then those that follow."""
    read = iter(messages)

    async def again() -> Message:
        for message in read:
            return message
        return await receive()

    return again


def _carry_out(
    name: str, scope: dict[str, Any], headers: dict[str, str], body: bytes
) -> Coroutine[Any, Any, Answer]:
    return carry_out(
        name,
        keys=keys_in(headers, query=lambda: scope["query_string"].decode()),
        body=lambda: body,
        error_mode=headers.get("x-centrifugo-error-mode", ""),
    )


async def _while_there(
    receive: Receive, carrying_out: Coroutine[Any, Any, Answer]
) -> Answer | None:
    """Carry out many commands as long as the caller waits for the answer; None if it left."""
    work = asyncio.create_task(carrying_out, name="server API")
    left = asyncio.ensure_future(receive())  # after the body nothing else can come
    try:
        await asyncio.wait([work, left], return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        work.cancel()
        left.cancel()
