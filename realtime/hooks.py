"""Who answers what the server cannot know by itself: RPC methods, and hooks on what clients do.

A provider finds the answerer of a request: the Python handlers of ``handlers.py`` are one, other
apps register theirs with ``provide``. ``calls.py`` runs what was found. Nothing is run here.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from msgspec import Raw, Struct

from realtime.protocol.errors import InternalError, ProtocolError
from realtime.protocol.messages import ABSENT
from realtime.tokens import SubscribeOptions

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Kind(StrEnum):
    """What is asked. Source: Centrifugo proxy hooks."""

    CONNECT = "connect"
    REFRESH = "refresh"
    RPC = "rpc"
    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    SUB_REFRESH = "sub_refresh"


class CallFailed(InternalError):
    """Whoever was asked gave no answer that can be used; the client may try again."""


class ApplicationError(ProtocolError):
    """An error reply with a code of the application's own, 400-1999."""

    def __init__(self, code: int, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message or "application error"  # centrifuge-python reads it
        self.temporary = temporary


class Peer(Struct, frozen=True):
    """The connection on whose behalf something is asked.

    Attributes:
        client: Its id.
        user: Who it is; empty is anonymous, and everybody's before ``connect``.
        info: What others see of it.
        meta: What its token or hook gave for the server alone.
        headers: Those of the handshake that a provider wants, names in lower case.
        emulated_headers: Those that its ``connect`` claims; not to be trusted.
    """

    client: str
    user: str = ""
    info: Raw = ABSENT
    meta: Raw = ABSENT
    headers: Mapping[str, str] = NOTHING
    emulated_headers: Mapping[str, str] = NOTHING
    transport: str = "websocket"
    protocol: str = "json"
    encoding: str = "json"


class Request(Struct, frozen=True):
    """One question; what a kind does not have is empty.

    Attributes:
        method: Of an RPC.
        channel: Of a subscribe, publish or sub_refresh.
        data: The client's payload, checked as one.
        token: Of a subscribe, where the server did not take it for its own.
        name, version: The SDK's, of a connect.
        channels: What a connect asks to recover.
    """

    peer: Peer
    method: str = ""
    channel: str = ""
    data: Raw = ABSENT
    token: str = ""
    name: str = ""
    version: str = ""
    channels: tuple[str, ...] = ()


# Answers, one type for each kind -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectAnswer:
    """Who a connection without a token is. ``subs`` are as those of a connection token."""

    user: str = ""
    expire_at: int = 0
    info: Raw | None = None
    data: Raw | None = None
    meta: Raw | None = None
    subs: Mapping[str, SubscribeOptions] = field(default_factory=dict)


class RefreshAnswer(NamedTuple):
    """How long a connection or subscription lives on; ``info`` and ``meta`` replace if given."""

    is_expired: bool
    expire_at: int = 0
    info: Raw | None = None
    meta: Raw | None = None


@dataclass(frozen=True, slots=True)
class PublishAnswer:
    """What is to be published instead: ``data`` None leaves the client's."""

    data: Raw | None = None
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    version: int = 0
    version_epoch: str = ""


# CONNECT: ConnectAnswer, or None as if nobody had been asked. REFRESH and SUB_REFRESH:
# RefreshAnswer. RPC: Raw. SUBSCRIBE: SubscribeOptions. PUBLISH: PublishAnswer.
Answer = ConnectAnswer | RefreshAnswer | PublishAnswer | SubscribeOptions | Raw | None


@dataclass(frozen=True, slots=True)
class Answerer:
    """Somebody who answers requests of one kind.

    Attributes:
        label: What logs and metrics call it, such as ``rpc orders.total``.
        ask: Returns the answer of its kind. May raise ProtocolError or Disconnected, which the
            client is told; whatever else it raises is logged and told as an internal error.
        timeout_seconds: How long it may take before it is cancelled.
    """

    label: str
    ask: Callable[[Request], Awaitable[Answer]]
    timeout_seconds: float


class Provider(Protocol):
    """Who knows answerers. ``parts`` is the snapshot's, as the app's loader made it."""

    def find(self, kind: Kind, name: str, parts: Mapping[str, Any]) -> Answerer | None:
        """Return who answers for a method or channel (empty for connect and refresh), or None."""

    def offers(self, kind: Kind, parts: Mapping[str, Any]) -> bool:
        """Tell whether there is any answerer of a kind: an unknown method is 104 then, else 108."""

    def headers(self, parts: Mapping[str, Any]) -> frozenset[str]:
        """Return the names, in lower case, of handshake headers that its answerers are shown."""


_providers: list[Provider] = []


def provide(provider: Provider) -> None:
    """Ask this provider too, after those that came before; called by an app when it is ready."""
    if provider not in _providers:
        _providers.append(provider)


def find(kind: Kind, name: str, parts: Mapping[str, Any]) -> Answerer | None:
    """Return who answers, of the first provider that knows somebody."""
    for provider in _providers:
        answerer = provider.find(kind, name, parts)
        if answerer is not None:
            return answerer
    return None


def offers(kind: Kind, parts: Mapping[str, Any]) -> bool:
    """Tell whether anybody answers requests of a kind."""
    return any(provider.offers(kind, parts) for provider in _providers)


def headers(parts: Mapping[str, Any]) -> frozenset[str]:
    """Return the handshake headers that somebody is shown; the others are forgotten."""
    return frozenset().union(*(provider.headers(parts) for provider in _providers))


# Background jobs ---------------------------------------------------------------------------------

Job = Callable[[], Awaitable[None]]
jobs: dict[str, Job] = {}


def background(name: str) -> Callable[[Job], Job]:
    """Have each instance run a coroutine function for as long as it lives.

    It is cancelled at the end; an exception ends the instance, so a job catches what may happen.
    """

    def register(job: Job) -> Job:
        jobs[name] = job
        return job

    return register
