"""Who lost what: the log of changes is read, and live subscriptions are judged anew.

Run by the instance. What a channel rule allowed ends within two seconds of the change that takes it
away, on every instance; what it allowed for a time is asked again after that time.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from typing import Final, NamedTuple, Protocol, cast

from django.db import Error as DatabaseError

from realtime import conf, rules, threads
from realtime.access_triggers import make_missing_triggers
from realtime.change_log import Change, ChangeLog, prune
from realtime.connections import ConnectionTable
from realtime.decisions import Decisions, Key
from realtime.permissions import may_subscribe
from realtime.protocol.disconnects import (
    UNSUBSCRIBED_BY_SERVER,
    UNSUBSCRIBED_EXPIRED,
    Unsubscribe,
)
from realtime.protocol.errors import InternalError, UnknownChannel
from realtime.slices import sliced
from realtime.snapshot import ChannelOptions
from realtime.subscription import Holder, Subscription
from realtime.tasks import TaskOwner

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
READ_SECONDS: Final = 5.0
# After a change: for so long a rule may give no answer until what it allowed before is ended. Who
# still may comes back at once, or as soon as there is an answer.
UNANSWERED_SECONDS: Final = 10.0
PRUNE_SECONDS: Final = 60.0
JUDGED_AT_ONCE: Final = 20
# Between questions that nobody waits for, so that the database and the loop have their rest.
PAUSE_SECONDS: Final = 0.005
WALK_MIN_SECONDS: Final = 1.0


class Engine(Protocol):
    """What is used of the instance."""

    connections: ConnectionTable
    rules: Decisions
    tasks: TaskOwner

    def options_of(self, channel: str) -> ChannelOptions:
        """Return the options that hold for a channel."""


class _Subscriber(Protocol):
    """What is used of a connection."""

    subscriptions: "_Subscriptions"


class _Subscriptions(Holder, Protocol):
    def __iter__(self) -> Iterator[Subscription]: ...


class Live(NamedTuple):
    """A live subscription that a rule allowed, and whose it is."""

    user: str
    subscription: Subscription
    holder: Holder

    @property
    def key(self) -> Key:
        """What the rule is asked about."""
        return self.user, self.subscription.channel


class AccessWatch:
    """Reads the changes of access for one instance, and does what follows from them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._log = ChangeLog()
        self._reading: asyncio.Future[list[Change]] | None = None
        # Of whom no answer was had, and since when: infinite if nothing had changed.
        self._again: dict[Key, float] = {}
        self._waiting: list[Change] = []  # for the walk over everybody that is under way
        self._walk: asyncio.Task[None] | None = None
        self._next_walk_at = 0.0
        self._next_prune_at = time.monotonic() + PRUNE_SECONDS

    async def run(self) -> None:
        """Watch until cancelled. Without any rule there is nothing to do but to tidy up."""
        was_failing = False
        while True:
            has_rules = rules.expires_soonest_seconds() is not None
            await asyncio.sleep(POLL_SECONDS if has_rules else PRUNE_SECONDS)
            try:
                if has_rules:
                    await self.look()
                await self._prune()
                was_failing = False
            except (DatabaseError, TimeoutError) as error:
                if not was_failing:
                    logger.error("changes of access cannot be read: %s", error or "no answer")
                was_failing = True

    async def look(self) -> None:
        """Read what has changed since the last look, and begin what follows from it.

        Raises:
            django.db.Error, TimeoutError: The database did not answer; nothing is lost by it.
        """
        self._begin_walk_of_expired()
        self._begin(await self._read())

    async def _read(self) -> list[Change]:
        # A reading that takes too long goes on, and what it brings is not read again: it is waited
        # for at the next look.
        if self._reading is None:
            self._reading = await _threads().begin("read", self._log.read)
        done, _ = await asyncio.wait([self._reading], timeout=READ_SECONDS)
        if not done:
            raise TimeoutError
        reading, self._reading = self._reading, None
        changes: list[Change] = reading.result()
        return changes

    async def _prune(self) -> None:
        now = time.monotonic()
        if now >= self._next_prune_at:
            self._next_prune_at = now + PRUNE_SECONDS
            async with asyncio.timeout(READ_SECONDS):
                await _threads().run("prune", prune)
            if rules.expires_soonest_seconds() is not None:
                await _mend_triggers()

    def _begin(self, changes: Collection[Change]) -> None:
        if self._again:
            again, self._again = self._again, {}
            self._engine.tasks.spawn(self._judge_again(again), "judge again")
        for change in changes:
            self._engine.rules.forget(change.users, change.models)
            if change.users is not None:
                self._engine.tasks.spawn(self.judge(change), "judge after a change")
                continue
            self._waiting.append(change)
            if self._walk is None or self._walk.done():
                self._walk = self._engine.tasks.spawn(self._judge_waiting(), "judge everybody")

    async def _judge_waiting(self) -> None:
        while self._waiting:
            changes, self._waiting = self._waiting, []
            models = [change.models for change in changes]
            every = None in models
            await self.judge(
                Change(None, None if every else frozenset().union(*(each or () for each in models)))
            )

    # Judging ---------------------------------------------------------------------------------

    async def judge(self, change: Change) -> None:
        """Ask anew about the live subscriptions that a change concerns, and end some."""
        async for some in self._batches(change):
            await asyncio.gather(*(self._judge(live, has_changed=True) for live in some))

    async def _judge_again(self, again: Mapping[Key, float]) -> None:
        """Ask once more where there was no answer, of nothing else."""
        async for some in self._batches(Change(frozenset(user for user, _ in again))):
            await asyncio.gather(
                *(self._judge(live, since=again[live.key]) for live in some if live.key in again)
            )

    async def _batches(self, change: Change) -> AsyncIterator[list[Live]]:
        at_once: list[Live] = []
        async for live in self._live(change):
            at_once.append(live)
            if len(at_once) == JUDGED_AT_ONCE:
                yield at_once
                at_once = []
        yield at_once

    async def _live(self, change: Change) -> AsyncIterator[Live]:
        decisions = self._engine.rules
        users = decisions.users if change.users is None else change.users & decisions.users
        for user in list(users):
            is_there = False
            async for connection in sliced(list(self._engine.connections.find(user))):
                holder = cast(_Subscriber, connection).subscriptions  # as the session has them
                for subscription in holder:
                    if subscription.is_by_rule:
                        is_there = True
                        if _is_meant(subscription.channel, change.models):
                            yield Live(user, subscription, holder)
            if not is_there:
                # Who subscribes just now asks once more when it is done, and is in again.
                decisions.users.discard(user)

    async def _judge(
        self, live: Live, *, has_changed: bool = False, since: float = math.inf
    ) -> None:
        """Ask, and end what may not stay.

        Args:
            has_changed: Whether something has since the answer that it was allowed by.
            since: From when on an answer has been missing, in vain.
        """
        channel = live.subscription.channel
        try:
            plain = self._engine.options_of(channel)
            options = await self._engine.rules.options_for(live.user, channel, plain)
        except InternalError:  # which the rules have logged
            now = time.monotonic()
            if now - since >= UNANSWERED_SECONDS:
                logger.warning("whether user %s may stay in %s is not known", live.user, channel)
                self._end(live, UNSUBSCRIBED_EXPIRED)
            else:
                since = min(since, now if has_changed else math.inf)
                self._again[live.key] = min(since, self._again.get(live.key, since))
            return
        except UnknownChannel:  # its namespace is gone, which ends no subscription
            return
        insecure = conf.current().insecure
        may_stay = may_subscribe(channel, options, live.user, insecure=insecure)
        if not may_stay:
            logger.info("user %s may subscribe to %s no more", live.user, channel)
            self._end(live, UNSUBSCRIBED_BY_SERVER)

    @staticmethod
    def _end(live: Live, unsubscribe: Unsubscribe) -> None:
        if live.subscription.has_joined:  # still
            live.holder.end(live.subscription, unsubscribe)

    # Time ------------------------------------------------------------------------------------

    def _begin_walk_of_expired(self) -> None:
        lasts_seconds = rules.expires_soonest_seconds()
        now = time.monotonic()
        if lasts_seconds is None or now < self._next_walk_at:
            return
        self._next_walk_at = float("inf")  # until this one is over
        self._engine.tasks.spawn(self._judge_expired(lasts_seconds / 2), "judge what has expired")

    async def _judge_expired(self, pause_seconds: float) -> None:
        try:
            async for some in self._batches(Change(None)):
                # Also those whose answer is known: somebody else's question may have brought a no.
                asked = [each for each in some if not self._is_known(each)]
                await asyncio.gather(*(self._judge(live) for live in some))
                if asked:
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._next_walk_at = time.monotonic() + max(WALK_MIN_SECONDS, pause_seconds)

    def _is_known(self, live: Live) -> bool:
        return self._engine.rules.is_known(live.user, live.subscription.channel)


async def _mend_triggers() -> None:
    try:
        async with asyncio.timeout(READ_SECONDS):
            made = await _threads().run("triggers", make_missing_triggers)
    except (DatabaseError, TimeoutError) as error:
        why = error or "no answer"
        logger.error("triggers that note changes of access cannot be looked after: %s", why)
        return
    if made:
        logger.error(
            "triggers that note changes of access were missing, and are made again: %s. "
            "Did a migration fail?",
            ", ".join(made),
        )


def _threads() -> threads.Threads:
    """Return threads that no slow view nor handler keeps busy."""
    return threads.threads("access", 3)


def _is_meant(channel: str, models: Collection[str] | None) -> bool:
    if models is None:
        return True
    match = rules.find(channel)
    return match is not None and not match.rule.watched.isdisjoint(models)
