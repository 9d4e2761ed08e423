"""Upstreams and their routes as one immutable value: the part ``upstreams`` of every snapshot.

Read by the provider for each question, so that the database is not on the way of one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

import msgspec

from realtime.hooks import Kind
from upstreams import addresses

logger = logging.getLogger(__name__)

PART: Final = "upstreams"


class UnusableTransforms(ValueError):
    """The texts say what is wrong with a list of transforms."""


class ToError(msgspec.Struct, frozen=True):
    """The error that a status stands for."""

    code: int
    message: str
    temporary: bool = False


class ToDisconnect(msgspec.Struct, frozen=True):
    """The close that a status stands for."""

    code: int
    reason: str


class Transform(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one HTTP status means. Source: Centrifugo, ``status_to_code_transforms``."""

    status_code: int
    to_error: ToError | None = None
    to_disconnect: ToDisconnect | None = None


def transforms_of(listed: object) -> dict[int, Transform]:
    """Return transforms by status.

    Raises:
        UnusableTransforms: The list is not of the form, or a code is not an application's.
    """
    try:
        transforms = msgspec.convert(listed, list[Transform])
    except msgspec.ValidationError as error:
        raise UnusableTransforms(str(error)) from error
    for each in transforms:
        if (each.to_error is None) == (each.to_disconnect is None):
            raise UnusableTransforms("give to_error or to_disconnect")
        if each.status_code == 200 or not 100 <= each.status_code <= 599:
            raise UnusableTransforms(f"{each.status_code} is no status of a failure")
        if each.to_error is not None and not 400 <= each.to_error.code <= 1999:
            raise UnusableTransforms("codes of errors are 400 to 1999")
        if each.to_disconnect is not None and not 4000 <= each.to_disconnect.code <= 4999:
            raise UnusableTransforms("codes of disconnects are 4000 to 4999")
    return {each.status_code: each for each in transforms}


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """An upstream as it is used; the fields are those of the model.

    Attributes:
        url: The base URL, without a slash at its end.
        host: The host in it.
    """

    id: int
    name: str
    url: str
    host: str
    timeout_seconds: float = 1.0
    concurrency: int = 64
    queue_max: int = 1000
    body_max_bytes: int = 1024 * 1024
    allow_private_addresses: bool = False
    static_headers: Mapping[str, str] = field(default_factory=dict)
    emulated_headers: tuple[str, ...] = ()
    http_headers: tuple[str, ...] = ()
    include_connection_meta: bool = False
    signing_secret: str = field(default="", repr=False)
    retries: int = 0
    breaker_failures: int = 5
    breaker_seconds: float = 10.0
    status_transforms: Mapping[int, Transform] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """What an upstream is asked, and where."""

    upstream: UpstreamConfig
    kind: Kind
    match: str
    path: str
    is_safe: bool
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Configuration:
    """All of it.

    Attributes:
        upstreams: Every enabled upstream by its id.
        routes: By kind and match; RPC only those with a whole method.
        prefixes: Beginnings of RPC methods with their routes, the longest first.
        header_names: The headers of a handshake that some upstream is shown.
    """

    upstreams: Mapping[int, UpstreamConfig] = field(default_factory=dict)
    routes: Mapping[tuple[Kind, str], RouteConfig] = field(default_factory=dict)
    prefixes: Sequence[tuple[str, RouteConfig]] = ()
    header_names: frozenset[str] = frozenset()

    @property
    def has_rpc(self) -> bool:
        """Whether any method is routed."""
        return bool(self.prefixes) or any(kind is Kind.RPC for kind, _ in self.routes)

    def route(self, kind: Kind, name: str) -> RouteConfig | None:
        """Return the route of a method or namespace; a whole method goes before a beginning."""
        found = self.routes.get((kind, name))
        if found is None and kind is Kind.RPC:
            found = next((r for prefix, r in self.prefixes if name.startswith(prefix)), None)
        return found


NOTHING: Final = Configuration()


def of(parts: Mapping[str, Any]) -> Configuration:
    """Return the configuration in a snapshot's parts."""
    found: Configuration = parts.get(PART, NOTHING)
    return found


def load() -> Configuration:
    """Read it; what was written past the models and cannot be used is logged and left out.

    Raises:
        django.db.Error: The database did not answer.
    """
    from upstreams.models import Route, Upstream  # after the apps: this module registers a part

    upstreams = {}
    for row in Upstream.objects.filter(is_enabled=True):
        try:
            upstreams[row.pk] = _upstream(row)
        except (ValueError, TypeError, AttributeError) as error:
            logger.error("upstream %s cannot be used: %s", row.name, error)
    if upstreams:
        # Here, in a thread: at the first question it would block the loop for 100 ms and more.
        import_module("upstreams.client")
    routes: dict[tuple[Kind, str], RouteConfig] = {}
    prefixes: list[tuple[str, RouteConfig]] = []
    for route in Route.objects.filter(upstream__in=list(upstreams)):
        upstream = upstreams[route.upstream_id]
        kind = Kind(route.kind)
        timeout_seconds = route.timeout_seconds or upstream.timeout_seconds
        made = RouteConfig(
            upstream, kind, route.match, route.path, route.is_safe, float(timeout_seconds)
        )
        if kind is Kind.RPC and route.match.endswith("*"):
            prefixes.append((route.match[:-1], made))
        else:
            routes[kind, route.match] = made
    prefixes.sort(key=lambda each: -len(each[0]))
    names = frozenset(name for each in upstreams.values() for name in each.http_headers)
    return Configuration(upstreams, routes, tuple(prefixes), names)


def _upstream(row: Any) -> UpstreamConfig:
    url = addresses.parsed(row.base_url)
    return UpstreamConfig(
        id=row.pk,
        name=row.name,
        url=row.base_url.rstrip("/"),
        host=url.host,
        timeout_seconds=float(row.timeout_seconds),
        concurrency=row.concurrency,
        queue_max=row.queue_max,
        body_max_bytes=row.body_max_bytes,
        allow_private_addresses=row.allow_private_addresses,
        static_headers={name.lower(): value for name, value in (row.static_headers or {}).items()},
        emulated_headers=tuple(name.lower() for name in row.emulated_headers),
        http_headers=tuple(name.lower() for name in row.http_headers),
        include_connection_meta=row.include_connection_meta,
        signing_secret=row.signing_secret,
        retries=row.retries,
        breaker_failures=row.breaker_failures,
        breaker_seconds=float(row.breaker_seconds),
        status_transforms=transforms_of(row.status_transforms or []),
    )
