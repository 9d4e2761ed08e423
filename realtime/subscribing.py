"""The steps of one subscribe: listen, read, reply, go live.

Called by ``subscriptions.py``, which holds the result, and by the handlers of ``connect`` and
``subscribe``. What is subscribed was granted before, in ``granting.py``.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, NamedTuple

from realtime import conf
from realtime.granting import Caller, Grant, info_of, ttl_seconds
from realtime.instance import Instance
from realtime.presence import Member
from realtime.protocol import codec
from realtime.protocol.disconnects import INSUFFICIENT_STATE, Disconnected
from realtime.protocol.errors import UnrecoverablePosition
from realtime.protocol.messages import (
    ABSENT,
    StreamPosition,
    SubscribePush,
    SubscribeRequest,
    SubscribeResult,
)
from realtime.recovery import FAILED, History, Recovery, recover, recover_newest
from realtime.subscription import Subscription

FLAG_REJECT_UNRECOVERED: Final = 2
READS_MAX: Final = 4  # a stream that still does not fit then has lost something


class Start(NamedTuple):
    """From where a subscription is to begin.

    Attributes:
        recovers: Whether what follows ``since`` is asked for.
        since: Neither offset nor epoch means "since 0, any epoch": SDKs omit both when empty.
        rejects_unrecovered: Whether to be refused rather than to start anew.
    """

    recovers: bool = False
    since: StreamPosition = StreamPosition()
    rejects_unrecovered: bool = False

    @classmethod
    def of(cls, request: SubscribeRequest) -> "Start":
        """Return what a client asked for."""
        since = StreamPosition(request.offset or 0, request.epoch or "")
        rejects = bool((request.flag or 0) & FLAG_REJECT_UNRECOVERED)
        return cls(bool(request.recover), since, rejects)


class Allowance:
    """How many bytes of recovered publications a reply may still carry.

    Half of a connection's queue for all of its channels together: a reply that filled the queue
    would have the next frame close the connection as slow.
    """

    def __init__(self) -> None:
        self._left_bytes = conf.current().queue_max_bytes // 2

    def judge(self, since: StreamPosition, history: History, grant: Grant) -> Recovery:
        """Return what a reply carries, or that it cannot."""
        if grant.options.recovers_newest:
            outcome = recover_newest(since, history)
        else:
            outcome = recover(since, history, limit=conf.current().recovery_max_publications)
        size_bytes = sum(map(codec.encoded_size, outcome.publications))
        if size_bytes > self._left_bytes:
            return FAILED
        self._left_bytes -= size_bytes
        return outcome


class Opening:
    """One subscribe under way, from the first step to going live.

    ``undo`` takes back what was done, wherever it stopped.
    """

    def __init__(
        self,
        instance: Instance,
        caller: Caller,
        granted: Grant,
        subscription: Subscription,
        start: Start,
        allowance: Allowance,
    ) -> None:
        self._instance = instance
        self._caller = caller
        self._grant = granted
        self.subscription = subscription
        self._start = start
        self._allowance = allowance
        self._history: History | None = None

    async def run(self) -> SubscribeResult:
        """Take all steps of this one subscribe, as ``run_all`` does for several."""
        await self.begin()
        # Nothing was awaited since the read was found to fit.
        return self.result()

    async def begin(self) -> None:
        """Listen, be present, and read where the stream is.

        Raises:
            BrokerUnavailable: Redis did not answer in time.
            Disconnected: 3010; the stream and what arrived do not fit together.
        """
        await self._instance.hub.join(self.subscription)
        if self._grant.options.presence:
            # Marked first: an add that got no answer may have been done all the same.
            self.subscription.has_presence = True
            await self._instance.presence.add(self.member())
        if self._grant.is_positioned:
            await self.read()
        else:
            await self._place_channel()

    async def read(self) -> None:
        """Find out where the stream is, so that what has arrived since fits; raises as above.

        By reading it, unless nothing is to be recovered and the hub knows.
        """
        since = self._since()
        name = self.subscription.channel
        hub = self._instance.hub
        if since is None and (known := hub.known_position(self.subscription)) is not None:
            self._history = History((), known)
            return
        for attempt in range(READS_MAX):
            history = await self._read(since)
            if hub.is_current(self.subscription, history.position):
                self._history = history
                return
            if attempt:
                # Read twice, so this is newer than what the hub holds.
                await hub.catch_up(name, history.position)
        raise Disconnected(INSUFFICIENT_STATE, f"the history of {name} does not fit")

    def fits(self) -> bool:
        """Tell whether what was read fits what has arrived until now; else ``read`` again."""
        if self._history is None:
            return True
        return self._instance.hub.is_current(self.subscription, self._history.position)

    def go_live(self) -> None:
        """Let deliveries through; the reply was just written."""
        position = self._history.position if self._history is not None else None
        self._instance.hub.go_live(self.subscription, position)

    async def undo(self) -> None:
        """Leave no trace of a subscribe that failed."""
        self._instance.hub.remove(self.subscription)
        if self.subscription.has_presence:
            await self._instance.presence.remove(self.subscription.channel, self._caller.client)

    def member(self) -> Member:
        """Return the caller's presence entry."""
        return Member(self.subscription.channel, info_of(self._caller, self.subscription))

    async def _place_channel(self) -> None:
        """Give the hub a position of a channel that has a stream, if it has none yet.

        The first subscriber who has one brings it. Coming later, it would pass over what is on
        the way to those who have none.
        """
        name = self.subscription.channel
        if self._grant.options.has_history and self._instance.hub.lacks_position(name):
            history = await self._instance.reads.read(name, after_offset=None)
            self._instance.hub.place(name, history.position)

    async def _read(self, since: StreamPosition | None) -> History:
        name = self.subscription.channel
        if since is not None and self._grant.options.recovers_newest:
            return await self._instance.reads.read(name, after_offset=0, limit=1)
        after_offset = since.offset if since is not None else None
        return await self._instance.reads.read(name, after_offset=after_offset)

    def _since(self) -> StreamPosition | None:
        if not self._grant.is_recoverable:
            return None
        if self._start.recovers:
            return self._start.since
        return StreamPosition() if self._grant.options.auto_cache_recover else None

    def _judge(self) -> Recovery:
        since = self._since()
        if since is None or self._history is None:
            return FAILED
        recovery = self._allowance.judge(since, self._history, self._grant)
        # Of a cache there is nothing that a client could make up for by another way.
        may_reject = self._start.recovers and not self._grant.options.recovers_newest
        if not recovery.is_recovered and may_reject and self._start.rejects_unrecovered:
            raise UnrecoverablePosition
        return recovery

    def result(self) -> SubscribeResult:
        """Return what the client is to be sent, all steps being taken.

        Raises:
            UnrecoverablePosition: The client asked to be refused rather than to start anew.
        """
        granted, outcome = self._grant, self._judge()
        position = self._history.position if self._history is not None else StreamPosition()
        # A recovered client goes on from what it asked for, by the publications it is given.
        offset = position.offset
        if outcome.is_recovered:
            offset = self._start.since.offset if self._start.recovers else 0
        expire_at = 0 if self.subscription.is_server_refreshed else granted.expire_at
        return SubscribeResult(
            expires=expire_at > 0,
            ttl=ttl_seconds(expire_at),
            recoverable=granted.is_recoverable,
            positioned=granted.is_positioned,
            epoch=position.epoch,
            offset=offset,
            recovered=outcome.is_recovered,
            was_recovering=self._start.recovers,
            publications=list(outcome.publications),
            data=granted.data or ABSENT,
        )


async def run_all(openings: Sequence[Opening]) -> list[SubscribeResult]:
    """Take the steps of all at once; return the results, in the order of the openings.

    The reply must be written and ``go_live`` called for each without an await after this returns,
    or what arrives in between would overtake the reply. If it raises, all are to be undone.

    Raises:
        ProtocolError: Of the first that failed; 112 if it is to be refused rather than start anew.
        Disconnected: 3010; a stream and what arrived do not fit together.
    """
    if not openings:
        return []
    await _at_once([each.begin() for each in openings])
    for _ in range(READS_MAX):
        # While one waited for another, its own channel went on.
        stale = [each for each in openings if not each.fits()]
        if not stale:
            return [each.result() for each in openings]
        await _at_once([each.read() for each in stale])
    raise Disconnected(INSUFFICIENT_STATE, "the histories do not fit")


async def _at_once(steps: Sequence[Awaitable[None]]) -> None:
    if len(steps) == 1:
        await steps[0]
        return
    # To the end of each, whichever fails: what is undone then is not done a moment later.
    for outcome in await asyncio.gather(*steps, return_exceptions=True):
        if outcome is not None:
            raise outcome


def push_of(result: SubscribeResult) -> SubscribePush:
    """Return what a client is told of a subscription that the server made while it lives."""
    return SubscribePush(
        recoverable=result.recoverable,
        positioned=result.positioned,
        epoch=result.epoch,
        offset=result.offset,
        data=result.data,
    )
