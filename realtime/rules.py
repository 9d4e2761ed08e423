"""Channel rules: functions of other apps that say what a user may do with a channel.

Written in ``realtime_handlers.py``, with the decorator here::

    @channel_rule("orders:{pk:int}", watches=[Order])
    def may_see_order(user: User, pk: int) -> bool:
        return user.has_perm("shop.view_order") and Order.objects.filter(pk=pk).exists()

Nothing is asked here: see ``decisions.py``.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Model

from realtime import decision_signals
from realtime.channel_patterns import ChannelPattern, Field
from realtime.snapshot import ChannelOptions

EXPIRES_SECONDS: Final = 60.0
_OF_ENGINE: Final = ("user", "channel")
_APPLIED_KEPT: Final = 512

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """What a user may do with a channel; what is not said is not allowed.

    Attributes:
        subscribe: Subscribe to it, and get subscription tokens for it.
        publish: Publish, whether subscribed or not.
        presence, history: Read them, whether subscribed or not.
    """

    subscribe: bool = False
    publish: bool = False
    presence: bool = False
    history: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            # What is merely true may be a mistake, such as a query that nobody has evaluated.
            if not isinstance(getattr(self, field.name), bool):
                raise TypeError(f"{field.name} is neither True nor False")


NOTHING: Final = Allow()
READING: Final = Allow(subscribe=True, presence=True, history=True)


class Rule(NamedTuple):
    """A function that answers for the channels of a pattern.

    Attributes:
        is_async: Whether it is to be called on the event loop.
        wanted: The names of what it is called with.
        expires_seconds: For how long its answer is good.
        watched: The names of the models that its answer depends on.
    """

    pattern: ChannelPattern
    function: Callable[..., Any]
    is_async: bool
    wanted: tuple[str, ...]
    expires_seconds: float
    watched: frozenset[str]

    @property
    def label(self) -> str:
        """What logs call it."""
        return f"channel_rule {self.pattern.text}"


class Match(NamedTuple):
    """The rule of a channel, and what its pattern found in the name."""

    rule: Rule
    fields: dict[str, Field]


_rules: list[Rule] = []


def channel_rule(
    pattern: str,
    *,
    expires_seconds: float = EXPIRES_SECONDS,
    watches: Sequence[type[Model]] = (),
) -> Callable[[Function], Function]:
    """Have a function say what a user may do with the channels of a pattern.

    It replaces what the namespace allows clients, for this user. It is called with what its
    parameters name: ``user``, Django's, ``AnonymousUser`` for the anonymous one; the pattern's
    fields; ``channel``. Who has an id that no active user has is refused without asking it. It
    returns True for all that reads, False for nothing, or an ``Allow``; Django's
    ``PermissionDenied``, ``Http404`` or an object that does not exist is False, and so, with an
    error in the log, is everything else. Without ``async`` it runs in a thread, and may ask the
    database.

    Args:
        pattern: Such as ``orders:{pk:int}``; see ``ChannelPattern``. The first one registered that
            matches a channel decides.
        expires_seconds: For how long an answer is kept; live subscriptions are judged anew then.
        watches: Models whose objects the answer depends on. When one is saved or deleted it is
            asked again; what ``QuerySet.update()`` changes is told with ``forget_decisions``.
    Raises:
        ImproperlyConfigured: The pattern is not one or has a rule already, or the function wants
            what there is not.
    """

    def register(function: Function) -> Function:
        compiled = ChannelPattern(pattern)
        for rule in _rules:
            if rule.pattern.shape == compiled.shape:
                raise ImproperlyConfigured(f"two channel rules for {pattern!r}: {_place(function)}")
        if expires_seconds <= 0:
            raise ImproperlyConfigured(f"{_place(function)}: expires_seconds is not above 0")
        wanted = _wanted(function, compiled)
        is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            type(function).__call__
        )
        for model in watches:
            decision_signals.watch(model)
        watched = frozenset(map(decision_signals.name_of, watches))
        _rules.append(Rule(compiled, function, is_async, wanted, expires_seconds, watched))
        return function

    return register


def _wanted(function: Callable[..., Any], pattern: ChannelPattern) -> tuple[str, ...]:
    known = (*_OF_ENGINE, *pattern.fields)
    if len(set(known)) < len(known):
        raise ImproperlyConfigured(f"{_place(function)}: no field may be called user or channel")
    wanted = []
    for parameter in inspect.signature(function).parameters.values():
        is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if is_named and parameter.name in known:
            wanted.append(parameter.name)
        elif parameter.default is parameter.empty:
            raise ImproperlyConfigured(
                f"{_place(function)}: nothing is given for {parameter.name!r}, only for "
                f"{', '.join(known)}"
            )
    return tuple(wanted)


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"


def find(channel: str) -> Match | None:
    """Return the rule of a channel, None if there is none."""
    for rule in _rules:
        found = rule.pattern.match(channel)
        if found is not None:
            return Match(rule, found)
    return None


def expires_soonest_seconds() -> float | None:
    """Return for how long the least lasting answer is good; None where there are no rules."""
    return min((rule.expires_seconds for rule in _rules), default=None)


@lru_cache(maxsize=_APPLIED_KEPT)
def applied(allow: Allow, options: ChannelOptions) -> ChannelOptions:
    """Return a channel's options with what a rule allows instead of what its namespace does.

    Who may not read the history recovers nothing either, which is the same publications. Private
    and user-limited channels keep their own rules, as ``permissions.py`` has them.
    """
    return replace(
        options,
        allow_subscribe_for_client=allow.subscribe,
        allow_subscribe_for_anonymous=allow.subscribe,
        allow_publish_for_client=allow.publish,
        allow_publish_for_subscriber=allow.publish,
        allow_publish_for_anonymous=allow.publish,
        allow_history_for_client=allow.history,
        allow_history_for_subscriber=allow.history,
        allow_history_for_anonymous=allow.history,
        allow_presence_for_client=allow.presence,
        allow_presence_for_subscriber=allow.presence,
        allow_presence_for_anonymous=allow.presence,
        allow_recovery=options.allow_recovery and allow.history,
        force_recovery=options.force_recovery and allow.history,
    )
