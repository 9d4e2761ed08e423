"""What channel rules have decided: asked when a command wants to know, kept for a while.

Owned by the instance. ``access.py`` says what is to be forgotten and judges what is live. A rule
that fails allows nothing; one that gives no answer is an error that the client may try again after,
and nothing of it is kept.
"""

import asyncio
import inspect
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final, NamedTuple

from django.core.exceptions import (
    ObjectDoesNotExist,
    PermissionDenied,
)
from django.db import InterfaceError, OperationalError
from django.http import Http404

from realtime import accounts, conf, rules, threads
from realtime.protocol import errors
from realtime.protocol.errors import InternalError
from realtime.rules import NOTHING, READING, Allow, Match, Rule
from realtime.snapshot import ChannelOptions
from realtime.tasks import is_cancelled

logger = logging.getLogger(__name__)

DECISIONS_MAX: Final = 50_000
RULE_SECONDS: Final = 2.0
# So that a burst of subscribes is answered late rather than not; those that wait are no work.
TURN_SECONDS: Final = 10.0
# Its own, and not those of handlers: these may be slow, and access is lost all the same.
THREADS_MAX: Final = 4
_NO = (PermissionDenied, errors.PermissionDenied, ObjectDoesNotExist, Http404)
_NOT_AT_ALL = (OperationalError, InterfaceError, TimeoutError)

Key = tuple[str, str]  # user, channel


class _Decision(NamedTuple):
    allow: Allow
    rule: Rule
    expires_at: float


class Decisions:
    """The answers of channel rules, for the connections of one process.

    Attributes:
        users: Whose channels were asked about; ``access.py`` takes out who has left.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[Key, _Decision] = OrderedDict()
        self._asking: dict[Key, asyncio.Task[Allow]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.users: set[str] = set()

    async def options_for(self, user: str, channel: str, options: ChannelOptions) -> ChannelOptions:
        """Return a channel's options as its rule changes them for a user.

        Returns ``options`` itself where there is no rule for the channel, and in insecure mode.

        Raises:
            InternalError: The rule gave no answer.
        """
        if conf.current().insecure:
            return options
        allow = await self.ask(user, channel)
        return options if allow is None else rules.applied(allow, options)

    async def ask(self, user: str, channel: str) -> Allow | None:
        """Return what a user may do with a channel, None where there is no rule for it.

        Who asks the same at the same time shares an answer.

        Raises:
            InternalError: The rule gave no answer.
        """
        known = self._known(user, channel)
        if known is not None:
            self.users.add(user)
            return known.allow
        match = rules.find(channel)
        if match is None:
            return None
        self.users.add(user)
        task = self._asking.get((user, channel)) or self._begin(user, channel, match)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Of the rule's own making, it must not look like a connection's end.
            if task.cancelled() and not is_cancelled():
                raise InternalError from None
            raise

    def is_known(self, user: str, channel: str) -> bool:
        """Tell whether there is an answer that is still good."""
        return self._known(user, channel) is not None

    def forget(
        self, users: Collection[str] | None = None, models: Collection[str] | None = None
    ) -> None:
        """Forget the answers for users, None for all; or only of rules that watch these models."""
        for key, decision in list(self._kept.items()):
            if _is_meant(key[0], decision.rule, users, models):
                del self._kept[key]
        # What is being asked now may have looked too early; who asks next asks anew.
        for key in list(self._asking):
            if users is None or key[0] in users:
                del self._asking[key]

    async def close(self) -> None:
        """Ask nothing more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # Asking ----------------------------------------------------------------------------------

    def _known(self, user: str, channel: str) -> _Decision | None:
        decision = self._kept.get((user, channel))
        if decision is None:
            return None
        if decision.expires_at <= self._clock():
            del self._kept[user, channel]
            return None
        self._kept.move_to_end((user, channel))
        return decision

    def _begin(self, user: str, channel: str, match: Match) -> asyncio.Task[Allow]:
        task = self._spawn(self._decide(user, channel, match), match.rule.label)
        self._asking[user, channel] = task
        expires_at = self._clock() + match.rule.expires_seconds
        task.add_done_callback(partial(self._keep, (user, channel), match.rule, expires_at))
        return task

    def _spawn(self, coroutine: Any, name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _keep(self, key: Key, rule: Rule, expires_at: float, task: asyncio.Task[Allow]) -> None:
        is_current = self._asking.get(key) is task
        if is_current:
            del self._asking[key]
        if task.cancelled() or task.exception() is not None or not is_current:
            return
        self._kept[key] = _Decision(task.result(), rule, expires_at)
        if len(self._kept) > DECISIONS_MAX:
            self._kept.popitem(last=False)

    async def _decide(self, user: str, channel: str, match: Match) -> Allow:
        rule = match.rule
        if "\0" in channel:  # which PostgreSQL takes in no text
            return NOTHING
        try:
            return _allow(await self._verdict(user, channel, match))
        except _NO as error:
            logger.debug("%s refuses: %s", rule.label, error)
        except _NOT_AT_ALL as error:
            logger.warning("%s gave no answer: %s", rule.label, error or "not in time")
            raise InternalError("a channel rule gave no answer") from error
        except (Exception, SystemExit, KeyboardInterrupt):  # the last two would end the event loop
            logger.exception("%s failed", rule.label)
        return NOTHING

    async def _verdict(self, user: str, channel: str, match: Match) -> object:
        share = user or channel  # anonymous ones are many
        if not match.rule.is_async:
            verdict = await self._in_thread(share, partial(_ask, user, channel, match))
        elif (found := await self._in_thread(share, partial(accounts.find, user))) is None:
            verdict = False
        else:
            verdict = _call(match, found, channel)
        if inspect.isawaitable(verdict):
            async with (
                asyncio.timeout(RULE_SECONDS),
                threads.lanes("rule orm", THREADS_MAX).chosen(),
            ):
                verdict = await verdict
        return verdict

    async def _in_thread(self, share: str, function: Callable[[], Any]) -> Any:
        pool = threads.threads("rule", THREADS_MAX)
        async with asyncio.timeout(TURN_SECONDS):
            job = await pool.begin(share, function)
        done, _ = await asyncio.wait([job], timeout=RULE_SECONDS)
        if not done:
            job.add_done_callback(_ignore)
            raise TimeoutError
        return job.result()


def _is_meant(
    user: str, rule: Rule, users: Collection[str] | None, models: Collection[str] | None
) -> bool:
    return (users is None or user in users) and (models is None or bool(rule.watched & {*models}))


def _ignore(job: "asyncio.Future[Any]") -> None:
    if not job.cancelled():
        job.exception()  # seen, and of no use any more


def _allow(verdict: object) -> Allow:
    if isinstance(verdict, Allow):
        return verdict
    if not isinstance(verdict, bool):
        raise TypeError(f"it answered {verdict!r:.100}, which is neither a bool nor an Allow")
    return READING if verdict else NOTHING


# In a thread -------------------------------------------------------------------------------------


def _ask(user: str, channel: str, match: Match) -> object:
    found = accounts.find(user)
    return found is not None and _call(match, found, channel)


def _call(match: Match, user: object, channel: str) -> object:
    given = {**match.fields, "user": user, "channel": channel}
    return match.rule.function(**{name: given[name] for name in match.rule.wanted})
