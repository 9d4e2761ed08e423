"""Upstreams as answerers: the engine asks, an HTTP service answers.

Registered when the app is ready. The client is imported at the first question: its library costs
megabytes, which who has no upstream need not pay.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from realtime.hooks import Answer, Answerer, CallFailed, Kind, Request
from realtime.snapshot import namespace_of
from upstreams import bodies, configuration, metrics
from upstreams.configuration import RouteConfig

if TYPE_CHECKING:
    from upstreams import client

logger = logging.getLogger(__name__)

COMPLAINT_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 0.5  # the client has its own deadline, and says what was waited for
_REPEATABLE: Final = frozenset({Kind.CONNECT, Kind.REFRESH, Kind.SUBSCRIBE, Kind.SUB_REFRESH})
_OF_CHANNELS: Final = frozenset({Kind.SUBSCRIBE, Kind.PUBLISH, Kind.SUB_REFRESH})

Key = tuple[object, ...]


class UpstreamProvider:
    """Finds the route of a question."""

    def __init__(self) -> None:
        self._asked: dict[Key, asyncio.Task[Answer]] = {}
        self._complained_at: dict[Key, float] = {}

    def find(self, kind: Kind, name: str, parts: Mapping[str, Any]) -> Answerer | None:
        """Return who answers for a method or channel."""
        if kind in _OF_CHANNELS:
            name = namespace_of(name) or ""
        route = configuration.of(parts).route(kind, name)
        if route is None:
            return None
        label = f"{kind} of upstream {route.upstream.name}"
        return Answerer(label, partial(self._ask, route), route.timeout_seconds + _PATIENCE_SECONDS)

    def offers(self, kind: Kind, parts: Mapping[str, Any]) -> bool:
        """Tell whether anything of a kind is routed."""
        known = configuration.of(parts)
        if kind is Kind.RPC:
            return known.has_rpc
        return any(each is kind for each, _ in known.routes)

    def headers(self, parts: Mapping[str, Any]) -> frozenset[str]:
        """Return the headers of a handshake that some upstream is shown."""
        return configuration.of(parts).header_names

    async def _ask(self, route: RouteConfig, request: Request) -> Answer:
        if not route.is_safe:
            return await self._answered(route, request)
        # Everybody who asks the same meanwhile waits for one request.
        key = _key(route, request)
        task = self._asked.get(key)
        if task is None:
            name = f"{route.kind} of upstream {route.upstream.name}"
            task = asyncio.create_task(self._answered(route, request), name=name)
            self._asked[key] = task
            task.add_done_callback(partial(self._forget, key))
        # Who goes away must not end it for the others; it has its own deadline.
        return await asyncio.shield(task)

    async def _answered(self, route: RouteConfig, request: Request) -> Answer:
        try:
            return await _answered(route, request)
        except CallFailed as error:
            self._complain(route, error)
            raise

    def _complain(self, route: RouteConfig, error: CallFailed) -> None:
        """Say in the log what the client is not told, of each route now and then."""
        key, now = (route.upstream.id, route.kind, route.match), time.monotonic()
        if now - self._complained_at.get(key, -COMPLAINT_SECONDS) >= COMPLAINT_SECONDS:
            self._complained_at[key] = now
            logger.warning(
                "%s of upstream %s%s gave no answer of use: %.200s",
                route.kind,
                route.upstream.name,
                f" ({route.match})" if route.match else "",
                error,
            )

    def _forget(self, key: Key, task: asyncio.Task[Answer]) -> None:
        self._asked.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it


def _key(route: RouteConfig, request: Request) -> Key:
    upstream = route.upstream
    body = bodies.encoded(
        route.kind, request, has_meta=upstream.include_connection_meta, has_client=False
    )
    where = (upstream.id, upstream.url, route.path)
    shown = tuple(sorted(_headers(route, request).items()))
    return asyncio.get_running_loop(), where, body, shown


def _headers(route: RouteConfig, request: Request) -> dict[str, str]:
    upstream = route.upstream
    return bodies.headers(
        request, emulated=upstream.emulated_headers, of_handshake=upstream.http_headers
    )


async def _answered(route: RouteConfig, request: Request) -> Answer:
    upstream, kind = route.upstream, route.kind
    answer = await _client().request(
        upstream,
        "POST",
        route.path,
        kind=kind,
        headers=_headers(route, request),
        body=bodies.encoded(kind, request, has_meta=upstream.include_connection_meta),
        user=request.peer.user or request.peer.client,
        timeout_seconds=route.timeout_seconds,
        may_repeat=kind in _REPEATABLE or route.is_safe,
    )
    if answer.status == 200:
        try:
            return bodies.decoded(kind, answer.body)
        except CallFailed:
            metrics.BAD_ANSWERS.labels(upstream.name, kind).inc()
            raise
    transform = upstream.status_transforms.get(answer.status)
    if transform is None or kind in (Kind.REFRESH, Kind.SUB_REFRESH):
        raise CallFailed(f"status {answer.status}")
    if transform.to_disconnect is not None:
        raise bodies.disconnected(transform.to_disconnect.code, transform.to_disconnect.reason)
    assert transform.to_error is not None, "one of them is given"
    to_error = transform.to_error
    raise bodies.application_error(to_error.code, to_error.message, temporary=to_error.temporary)


def _client() -> "client.Client":
    from upstreams import client

    return client.of_this_loop()


async def close_client() -> None:
    """Wait until cancelled, and close then what was opened meanwhile: a job of the instance."""
    try:
        await asyncio.Event().wait()
    finally:
        from upstreams import client, states

        await client.close_of_this_loop()
        await states.forget()
