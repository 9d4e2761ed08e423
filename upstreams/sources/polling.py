"""One source on this instance: takes its lease while it is wanted, and polls while it holds it.

Run by ``poller.py``. Each poll takes the lease again before it asks, so that a process that was
frozen asks nothing it should not; what it publishes all the same has a version that is too old.
"""

import asyncio
import logging
import math
import random
import secrets
import time
from collections.abc import Container
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from msgspec import Raw

from realtime import services
from realtime.hooks import CallFailed
from realtime.protocol.errors import BrokerUnavailable
from realtime.services import Lease
from upstreams.configuration import UpstreamConfig
from upstreams.sources import mapping
from upstreams.sources.configuration import SourceConfig
from upstreams.sources.records import Record, Records
from upstreams.sources.telling import Outcome, State, Teller

logger = logging.getLogger(__name__)

LEASE_INTERVALS: Final = 1.5
LEASE_MAX_SECONDS: Final = 15.0  # nobody waits longer for a long interval's poller that died
VERSION_BITS: Final = 20
# A wish may come in the same snapshot as the source itself, but not much later.
WISH_SECONDS: Final = 10.0
# Until then all instances know that a source is gone: nobody polls it once more.
RETIRED_SECONDS: Final = 3.0
STALE_LATE_MAX_SECONDS: Final = 1.0
STALE_LATE_PART: Final = 0.1  # so much of the time that a value stays fresh, at most
UNWATCHED_MAX: Final = 2  # so many looks in vain until nobody is believed to be there any more
_WORST_FIRST: Final = (State.STALE, State.FAILING, State.OK)


class Polling:
    """A source as this instance polls it, or waits to.

    Args:
        source: What is polled; another configuration needs another ``Polling``.
        upstream: Where; may be replaced.
        records: Told how each poll went.
    """

    def __init__(self, source: SourceConfig, upstream: UpstreamConfig, records: Records) -> None:
        self.source = source
        self.upstream = upstream
        self.owner = secrets.token_hex(8)
        self.is_leading = False
        self._records = records
        self._tellers = [
            Teller(channel, pointer, stale_after_seconds=source.stale_after_seconds)
            for channel, pointer in source.mappings
        ]
        self._poll_asked_at = source.poll_asked_at
        self._is_asked = _seconds_since(source.poll_asked_at) < WISH_SECONDS
        self._unwatched_count = UNWATCHED_MAX  # nobody has been seen yet
        self._news = asyncio.Event()
        self._due_at = 0.0
        self._version_count = 0
        self._record: Record | None = None  # of the last poll
        self._has_polled = asyncio.Event()  # since the lease was taken
        self._telling = asyncio.Lock()  # or what is told would not be in the order of versions

    # Whether it is wanted --------------------------------------------------------------------

    @property
    def is_wanted(self) -> bool:
        """Whether anybody needs a poll, now or again and again."""
        is_watched = self._unwatched_count < UNWATCHED_MAX
        return self._is_asked or is_watched or not self.source.only_while_watched

    def see_watched(self, is_watched: bool | None) -> None:
        """Note whether somebody watches; None is no news."""
        if is_watched is not None:
            self._unwatched_count = 0 if is_watched else self._unwatched_count + 1
            self._news.set()

    def see_asked(self, poll_asked_at: datetime | None) -> None:
        """Poll at once if this is another wish than the last."""
        if poll_asked_at != self._poll_asked_at:
            self._poll_asked_at = poll_asked_at
            self._is_asked = True
            self._news.set()

    async def run(self) -> None:
        """Poll whenever it is wanted and nobody else does, until cancelled.

        The lease of one that is cancelled is for the caller to give back.
        """
        while True:
            while not self.is_wanted:
                await self._until_news(seconds=None)
            lease = await self._take()
            if lease is not None:
                self._begin(lease)
                await self._lead()
            else:
                await asyncio.sleep(self.lease_seconds / LEASE_INTERVALS / 4)

    async def retire(self, *, but: Container[str]) -> None:
        """Tell viewers, after the end of ``run``, that this is not polled any more.

        Whoever polls it again, later, does so at once.

        Args:
            but: Channels that another ``Polling`` looks after.
        """
        # Not given back: an instance that does not know yet would poll once more.
        lease = await self._take(ttl_seconds=RETIRED_SECONDS, forgets=True)
        if lease is not None:
            version = self._next_version(lease.fence)
            for teller in self._tellers:
                if teller.channel not in but:
                    await teller.retire("it is not polled any more", version=version)

    async def _until_news(self, *, seconds: float | None) -> None:
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    # The lease -------------------------------------------------------------------------------

    @property
    def lease_name(self) -> str:
        """What its lease is called, on every instance.

        Another question, or other channels for the answer, are work that nobody has done yet.
        """
        source = self.source
        work = (source.upstream_id, source.path, sorted(source.headers.items()), source.mappings)
        return f"data source {source.id}: {work}"

    @property
    def lease_seconds(self) -> float:
        """How long a lease holds that is not kept."""
        return min(LEASE_INTERVALS * self.source.interval_seconds, LEASE_MAX_SECONDS)

    async def _take(
        self, *, marks: bool = False, forgets: bool = False, ttl_seconds: float | None = None
    ) -> Lease | None:
        """Take or keep the lease; None if another has it, or Redis does not answer."""
        try:
            lease = await services.atake_lease(
                self.lease_name,
                self.owner,
                ttl_seconds=ttl_seconds or self.lease_seconds,
                marks=marks,
                forgets=forgets,
            )
        except BrokerUnavailable:
            return None
        return lease if lease.is_held else None

    def _begin(self, lease: Lease) -> None:
        """Go on where the one before has stopped."""
        self.is_leading = True
        self._due_at = time.monotonic()
        ago = lease.marked_seconds_ago
        if ago is not None:
            self._due_at += max(self.source.interval_seconds - ago, 0.0)
            # A poll that was begun after the wish has fulfilled it, whoever polled.
            self._is_asked = self._is_asked and ago > _seconds_since(self._poll_asked_at)
        self._has_polled.clear()
        for teller in self._tellers:
            teller.begin(ago)

    async def _lead(self) -> None:
        """Poll until it is not wanted any more or the lease is lost; give it back."""
        name = self.source.name
        tasks = (
            asyncio.create_task(self._poll_on(), name=f"polls of {name}"),
            asyncio.create_task(self._keep(), name=f"lease of {name}"),
            asyncio.create_task(self._watch_age(), name=f"age of {name}"),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()
        await services.agive_back_leases([(self.lease_name, self.owner)])
        self.is_leading = False

    async def _keep(self) -> None:
        """Return once the lease is lost, or may be."""
        while True:
            await asyncio.sleep(self.lease_seconds / LEASE_INTERVALS / 2)
            if await self._take() is None:
                return

    # Polls -----------------------------------------------------------------------------------

    async def _poll_on(self) -> None:
        while self.is_wanted:
            wait_seconds = self._due_at - time.monotonic()
            if wait_seconds > 0 and not self._is_asked:
                await self._until_news(seconds=wait_seconds)
                continue
            lease = await self._take(marks=True)
            if lease is None:
                return
            jitter_seconds = random.uniform(0.0, self.source.jitter_seconds)
            self._due_at = time.monotonic() + self.source.interval_seconds + jitter_seconds
            is_asked, self._is_asked = self._is_asked, False
            try:
                await self._poll(lease.fence, is_asked=is_asked)
            except Exception:
                # An answer that surprises must not end the polling, nor the instance with it.
                logger.exception("a poll of data source %s has failed", self.source.name)
            self._has_polled.set()

    async def _poll(self, fence: int, *, is_asked: bool) -> None:
        polled_at, started_at = datetime.now(UTC), time.monotonic()
        answer = await self._ask()
        latency_seconds = time.monotonic() - started_at
        async with self._telling:
            version = self._next_version(fence)
            outcomes = [await teller.tell(answer, version=version) for teller in self._tellers]
        worst = min(outcomes, key=_badness)
        read_at = max((each.read_at for each in self._tellers if each.read_at), default=None)
        self._record = Record(*worst, polled_at, latency_seconds, read_at, is_asked=is_asked)
        self._records.note(self.source.id, self._record)

    def _next_version(self, fence: int) -> int:
        self._version_count += 1
        # Fences are seconds at least: who holds the next one is far above any count.
        return (fence << VERSION_BITS) + self._version_count

    async def _ask(self) -> Raw | str:
        """Return what the API answers, or why that is nothing."""
        source = self.source
        try:
            from upstreams import client  # with all of aiohttp, at the first poll

            # What takes longer than a value stays fresh is not worth waiting for.
            async with asyncio.timeout(source.stale_after_seconds):
                body = await client.fetch(self.upstream, source.path, headers=source.headers)
            return mapping.checked(body)
        except TimeoutError:
            return "timeout"
        except (CallFailed, mapping.NoValue) as error:
            return str(error)

    # Values that grow old --------------------------------------------------------------------

    async def _watch_age(self) -> None:
        """Tell what becomes stale between polls, or while one takes long.

        Until the first poll has ended it is not known how old a value is: others may have read it.
        """
        spacing = min(STALE_LATE_PART * self.source.stale_after_seconds, STALE_LATE_MAX_SECONDS)
        await self._has_polled.wait()
        while True:
            soonest = min(teller.seconds_left for teller in self._tellers)
            await asyncio.sleep(max(soonest, spacing))
            if all(teller.seconds_left > 0 for teller in self._tellers):
                continue
            lease = await self._take()
            if lease is None:
                return
            try:
                await self._tell_stale(lease.fence)
            except Exception:
                logger.exception("data source %s cannot be called stale", self.source.name)

    async def _tell_stale(self, fence: int) -> None:
        async with self._telling:
            version = self._next_version(fence)
            for teller in self._tellers:
                outcome = await teller.tell_stale(version=version)
                if outcome is not None and self._record is not None:
                    self._record = replace(self._record, state=outcome.state, error=outcome.error)
                    self._records.note(self.source.id, self._record)


def _seconds_since(moment: datetime | None) -> float:
    if moment is None:
        return math.inf
    return (datetime.now(UTC) - moment).total_seconds()


def _badness(outcome: Outcome) -> int:
    return _WORST_FIRST.index(outcome.state)
