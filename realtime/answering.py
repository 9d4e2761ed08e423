"""What handlers there are, and whom they are called for.

``handlers.py`` fills the registry with what the apps declare; the engine asks here. RPC methods are
found through ``hooks.find``, like those of other apps. The hooks on what clients do are asked
apart: they come after whoever decides, and add to what is allowed already.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules
from msgspec import Raw

from realtime import accounts, hooks, threads
from realtime.channel_patterns import ChannelPattern
from realtime.hooks import Answerer, Kind
from realtime.protocol.messages import ABSENT

logger = logging.getLogger(__name__)

ACCOUNT_THREADS: Final = 4
MODULE: Final = "realtime_handlers"


@dataclass
class Connection:
    """On whose behalf a handler is called.

    Attributes:
        client: The connection's id.
        user: Who it is; empty for an anonymous one.
        info: What others see of it, as JSON.
        meta: What its token said for the server alone, as JSON.
        headers: Those of its handshake that ``show_headers`` asked for, names in lower case.
    """

    client: str
    user: str
    info: Raw = field(default_factory=lambda: ABSENT)
    meta: Raw = field(default_factory=lambda: ABSENT)
    headers: Mapping[str, str] = field(default_factory=dict)
    _django_user: Any = field(default=None, repr=False, compare=False)

    async def auser(self) -> Any:
        """Return the Django user, an ``AnonymousUser`` where there is no such active one."""
        if self._django_user is None:
            # Not those of handlers without async: whoever asks from there would wait for itself.
            pool = threads.threads("account", ACCOUNT_THREADS)
            found = await pool.run(self.user or self.client, partial(_account, self.user))
            self._django_user = found
        return self._django_user


def _account(user: str) -> Any:
    # Here, because importing this module comes before the models.
    from django.contrib.auth.models import AnonymousUser

    return accounts.find(user) or AnonymousUser()


# What there is -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChannelHook:
    """A handler that is asked about the channels of a pattern."""

    pattern: ChannelPattern
    answerer: Answerer


@dataclass(slots=True)
class Registry:
    """Every handler of every app, in the order in which the apps are installed.

    Attributes:
        headers: What they want to see of a handshake.
        blocking: Those that are no coroutine functions.
        problem: Why the rest of them was not read; empty if all were.
    """

    rpcs: dict[str, Answerer] = field(default_factory=dict)
    connects: list[Answerer] = field(default_factory=list)
    disconnects: list[Answerer] = field(default_factory=list)
    subscribes: list[ChannelHook] = field(default_factory=list)
    publishes: list[ChannelHook] = field(default_factory=list)
    headers: frozenset[str] = frozenset()
    blocking: list[str] = field(default_factory=list)
    problem: str = ""

    def find(self, kind: Kind, name: str, parts: Mapping[str, Any]) -> Answerer | None:
        """Return who answers an RPC; the hooks here add to what decides, and are asked apart."""
        return self.rpcs.get(name) if kind is Kind.RPC else None

    def offers(self, kind: Kind, parts: Mapping[str, Any]) -> bool:
        """Tell whether there is any method."""
        return kind is Kind.RPC and bool(self.rpcs)

    def on_subscribe(self, channel: str) -> list[Answerer]:
        """Return whom a subscribe to a channel is told to, before it is done."""
        return _about(self.subscribes, channel)

    def on_publish(self, channel: str) -> list[Answerer]:
        """Return whom a publication of a client is shown to, before it is published."""
        return _about(self.publishes, channel)


def _about(found: list[ChannelHook], channel: str) -> list[Answerer]:
    return [each.answerer for each in found if each.pattern.match(channel) is not None]


class _Provider:
    """The handlers as answerers of ``hooks.find``."""

    def find(self, kind: Kind, name: str, parts: Mapping[str, Any]) -> Answerer | None:
        return registry.find(kind, name, parts)

    def offers(self, kind: Kind, parts: Mapping[str, Any]) -> bool:
        return registry.offers(kind, parts)

    def headers(self, parts: Mapping[str, Any]) -> frozenset[str]:
        return registry.headers


registry = Registry()
_provider: Final = _Provider()


def discover() -> None:
    """Import ``realtime_handlers`` of every app; what they register is asked from now on."""
    hooks.provide(_provider)
    try:
        autodiscover_modules(MODULE)
    except ImproperlyConfigured as error:
        # Commands such as migrate go on; a system check names it, and no instance starts.
        registry.problem = str(error)


def check() -> None:
    """Name the handlers that block; called when an instance starts.

    Raises:
        ImproperlyConfigured: Not all handlers could be read.
    """
    if registry.problem:
        raise ImproperlyConfigured(registry.problem)
    if registry.blocking:
        logger.warning(
            "handlers without async, each of which takes a thread while it runs: %s",
            ", ".join(registry.blocking),
        )
