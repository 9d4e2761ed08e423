"""Write each message of a channel to its subscriptions, in slices, every channel in its turn.

Fed by the hub. One scheduler serves all channels of a process: a turn lasts about two
milliseconds, channels take turns, and a channel's messages follow one another strictly. Messages
that wait for their turn together are joined, and cost each socket one write.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from itertools import islice
from operator import length_hint
from typing import Final

from realtime.protocol.messages import StreamPosition
from realtime.subscription import Delivery, Subscription

TURN_SECONDS: Final = 0.002
CLOCK_EVERY: Final = 32  # writes between two looks at the clock; about 0.2 ms
QUEUE_MAX_BYTES: Final = 1024 * 1024
QUEUE_MAX_SECONDS: Final = 5.0
JOINED_MAX_BYTES: Final = 32 * 1024  # much less than any outbox may hold


class ChannelQueue:
    """What one channel has still to deliver here, and to whom.

    Attributes:
        subscriptions: Whom to deliver to, in the order they came.
        delivered: The last position whose delivery has begun for everybody.
    """

    __slots__ = (
        "_bytes",
        "_current",
        "_joined",
        "_waiting",
        "_walk",
        "delivered",
        "idle_waiter",
        "subscriptions",
    )

    def __init__(self) -> None:
        self.subscriptions: dict[Subscription, None] = {}
        self.delivered: StreamPosition | None = None
        self.idle_waiter: asyncio.Future[None] | None = None
        self._waiting: deque[tuple[float, Delivery]] = deque()
        self._bytes = 0
        self._current: list[Delivery] = []
        self._joined = b""
        self._walk: Iterator[Subscription] = iter(())

    @property
    def is_idle(self) -> bool:
        """Whether everything was delivered."""
        return not self._current and not self._waiting

    def is_full(self, delivery: Delivery, now: float) -> bool:
        """Tell whether one more delivery would pass the bound in bytes or in time."""
        if not self._waiting:
            return False
        too_much = self._bytes + len(delivery.frame) > QUEUE_MAX_BYTES
        return too_much or now - self._waiting[0][0] > QUEUE_MAX_SECONDS

    def append(self, delivery: Delivery, now: float) -> None:
        """Queue a delivery; the caller has looked at ``is_full``."""
        self._waiting.append((now, delivery))
        self._bytes += len(delivery.frame)

    def drop(self) -> int:
        """Forget what waits, except what is being written; return how many were dropped."""
        count = len(self._waiting)
        for _, delivery in self._waiting:
            self._note(delivery)
        self._waiting.clear()
        self._bytes = 0
        return count

    def advance(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Deliver what was joined, or the part of it for which there is time until ``deadline``."""
        if not self._current:
            self._begin()
        frames = self._joined
        while length_hint(self._walk):
            for subscription in islice(self._walk, CLOCK_EVERY):
                # Tested at the moment of writing: nothing may follow an unsubscribe reply.
                if subscription.is_live:
                    subscription.outbox.write(frames)
                else:
                    for delivery in self._current:
                        subscription.hand(delivery)
            if loop.time() >= deadline:
                return
        for delivery in self._current:
            self._note(delivery)
        self._current = []
        self._joined = b""

    def _begin(self) -> None:
        first = self._take()
        self._current = [first]
        # A snapshot, because writing to a slow reader ends its subscription.
        snapshot = list(self.subscriptions)
        if first.is_presence_event:
            snapshot = [each for each in snapshot if each.wants_join_leave]
        else:
            self._join_what_follows(first)
        self._joined = b"".join([delivery.frame for delivery in self._current])
        self._walk = iter(snapshot)

    def _join_what_follows(self, first: Delivery) -> None:
        room_bytes = JOINED_MAX_BYTES - len(first.frame)
        while self._waiting:
            _, delivery = self._waiting[0]
            room_bytes -= len(delivery.frame)
            if room_bytes < 0 or delivery.is_presence_event:
                return
            self._current.append(self._take())

    def _take(self) -> Delivery:
        _, delivery = self._waiting.popleft()
        self._bytes -= len(delivery.frame)
        return delivery

    def _note(self, delivery: Delivery) -> None:
        # Never back: a drop or a jump may have moved it past what was being written. Another epoch
        # begins with a jump, which sets it.
        known = self.delivered
        is_ahead = known is None or (
            delivery.epoch == known.epoch and delivery.offset > known.offset
        )
        if delivery.offset and is_ahead:
            self.delivered = StreamPosition(delivery.offset, delivery.epoch)


class FanOut:
    """The scheduler of one process."""

    def __init__(self) -> None:
        self._ready: deque[ChannelQueue] = deque()
        self._is_scheduled = False

    def put(self, queue: ChannelQueue, delivery: Delivery, now: float) -> None:
        """Queue a delivery and see that it is written soon."""
        if queue.is_idle:
            self._ready.append(queue)
        queue.append(delivery, now)
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    async def drained(self, queue: ChannelQueue) -> None:
        """Wait until everything queued so far, and what came meanwhile, is delivered."""
        if queue.is_idle:
            return
        if queue.idle_waiter is None:
            queue.idle_waiter = asyncio.get_running_loop().create_future()
        await asyncio.shield(queue.idle_waiter)

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TURN_SECONDS
        try:
            while self._ready and loop.time() < deadline:
                self._advance(self._ready.popleft(), loop, deadline)
        finally:
            # Whatever fails in one turn, the next one comes.
            self._is_scheduled = bool(self._ready)
            if self._ready:
                loop.call_soon(self._turn)

    def _advance(
        self, queue: ChannelQueue, loop: asyncio.AbstractEventLoop, deadline: float
    ) -> None:
        try:
            if not queue.is_idle:  # what it held may have been dropped
                queue.advance(loop, deadline)
        finally:
            if not queue.is_idle:
                self._ready.append(queue)
            elif queue.idle_waiter is not None:
                queue.idle_waiter.set_result(None)
                queue.idle_waiter = None
