"""What other apps answer: RPC methods, and hooks on what clients do.

Written in ``realtime_handlers.py`` of any installed app, with the decorators here::

    @rpc("orders.total")
    async def total(connection: Connection, customer: int, since: date | None = None) -> dict: ...

The parameters are what the client gives, checked as they are annotated; one annotated
``Connection`` gets who asks. A handler refuses with ``hooks.ApplicationError``, with any of
``protocol.errors`` or Django's ``PermissionDenied``, and ends a connection with ``Disconnected``.
A function without ``async`` runs in a thread of a small pool, and so does the ORM of one with it.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from msgspec import Raw

from realtime import answering, conf, threads
from realtime.answering import ChannelHook
from realtime.answering import Connection as Connection  # part of what handlers are written with
from realtime.arguments import Parameters
from realtime.calls import FAREWELL_SECONDS
from realtime.channel_patterns import ChannelPattern, Field
from realtime.hooks import Answerer, Peer, Request
from realtime.protocol import codec, errors
from realtime.protocol.errors import BadRequest
from realtime.protocol.messages import ABSENT
from realtime.rules import Allow as Allow
from realtime.rules import channel_rule as channel_rule

TIMEOUT_SECONDS: Final = 3.0

Function = TypeVar("Function", bound=Callable[..., Any])
_FROM_ENGINE: Final = ("channel", "data")


# Decorators ----------------------------------------------------------------------------------


def rpc(method: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Callable[[Function], Function]:
    """Answer a method. What the function returns is sent as JSON."""

    def register(function: Function) -> Function:
        if not method or method in answering.registry.rpcs:
            raise ImproperlyConfigured(f"{_place(function)}: the method {method!r} is taken")
        parameters = Parameters(function, own=Connection)
        read = parameters.reader()
        call = _caller(function, f"rpc {method}")

        async def ask(request: Request) -> Raw:
            return await call(parameters, request.peer, read(request.data))

        answering.registry.rpcs[method] = Answerer(f"rpc {method}", ask, timeout_seconds)
        return function

    return register


def on_connect(function: Function) -> Function:
    """Hear of each connection before it is let in; what is returned goes into the reply's data.

    It has shown who it is. Of several handlers the last one that returns something counts.
    """
    answering.registry.connects.append(_plain(function, "on_connect", TIMEOUT_SECONDS))
    return function


def on_disconnect(function: Function) -> Function:
    """Hear of each connection that was let in, once it has ended; three seconds at most."""
    answering.registry.disconnects.append(_plain(function, "on_disconnect", FAREWELL_SECONDS))
    return function


def on_subscribe(pattern: str) -> Callable[[Function], Function]:
    """Hear of each client that is about to subscribe to channels of a pattern, and may.

    Parameters may be called ``channel``, ``data`` (the client's) and as the pattern's fields.
    Nothing that is returned counts.
    """

    def register(function: Function) -> Function:
        answering.registry.subscribes.append(_hook(function, "on_subscribe", pattern))
        return function

    return register


def on_publish(pattern: str) -> Callable[[Function], Function]:
    """See what a client is about to publish, and may; what is returned is published instead.

    Parameters as those of ``on_subscribe``. None leaves the data as it is.
    """

    def register(function: Function) -> Function:
        answering.registry.publishes.append(_hook(function, "on_publish", pattern))
        return function

    return register


def show_headers(*names: str) -> None:
    """Have these headers of the handshake kept for the handlers; no others are."""
    answering.registry.headers |= frozenset(name.lower() for name in names)


# How they are called -------------------------------------------------------------------------

_Call = Callable[[Parameters, Peer, dict[str, Any]], Awaitable[Raw]]


def _caller(function: Callable[..., Any], label: str) -> _Call:
    is_async = inspect.iscoroutinefunction(function)
    if not is_async:
        answering.registry.blocking.append(f"{label} ({_place(function)})")

    async def call(parameters: Parameters, peer: Peer, arguments: dict[str, Any]) -> Raw:
        connection = Connection(peer.client, peer.user, peer.info, peer.meta, peer.headers)
        arguments.update(dict.fromkeys(parameters.own, connection))
        count = conf.current().sync_handler_threads
        lanes = threads.lanes("handler orm", count)
        try:
            if is_async:
                async with lanes.chosen():
                    result = await function(**arguments)
            else:
                whole = partial(function, **arguments)
                result = await threads.threads("handler", count).run(
                    peer.user or peer.client, whole
                )
                if inspect.isawaitable(result):  # what an async function is behind a decorator
                    async with lanes.chosen():
                        result = await result
        except PermissionDenied as error:
            raise errors.PermissionDenied(str(error)) from error
        return _encoded(result)

    return call


def _encoded(result: object) -> Raw:
    """Return a result as a payload, absent for None."""
    if result is None:
        return ABSENT
    content = result if isinstance(result, Raw) else msgspec.json.encode(result)
    try:
        return Raw(codec.payload(content))
    except BadRequest as error:  # of the handler's making, not of the client's
        raise ValueError(f"no result for a client: {error}") from error


def _plain(function: Callable[..., Any], kind: str, timeout_seconds: float) -> Answerer:
    parameters = Parameters(function, own=Connection)
    _check_names(function, parameters, ())
    call = _caller(function, f"{kind} {_place(function)}")

    async def ask(request: Request) -> Raw:
        return await call(parameters, request.peer, {})

    return Answerer(f"{kind} {_place(function)}", ask, timeout_seconds)


def _hook(function: Callable[..., Any], kind: str, text: str) -> ChannelHook:
    pattern = ChannelPattern(text)
    parameters = Parameters(function, own=Connection)
    _check_names(function, parameters, (*_FROM_ENGINE, *pattern.fields))
    call = _caller(function, f"{kind} {text}")

    async def ask(request: Request) -> Raw:
        given = _given(request, pattern.match(request.channel) or {})
        wanted = {name: value for name, value in given if name in parameters.names}
        return await call(parameters, request.peer, wanted)

    return ChannelHook(pattern, Answerer(f"{kind} {text}", ask, TIMEOUT_SECONDS))


def _given(request: Request, fields: Mapping[str, Field]) -> Iterator[tuple[str, Any]]:
    yield "channel", request.channel
    yield "data", msgspec.json.decode(request.data) if bytes(request.data) else None
    yield from fields.items()


def _check_names(
    function: Callable[..., Any], parameters: Parameters, known: tuple[str, ...]
) -> None:
    for name in parameters.names:
        if name not in parameters.own and name not in known:
            raise ImproperlyConfigured(f"{_place(function)}: nothing is given for {name!r}")


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
