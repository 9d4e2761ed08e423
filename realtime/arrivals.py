"""What arrives for a channel: in order, without gaps, or the subscribers are told.

Called by the hub with every message of the channel layer. Holds no subscriptions of its own; the
channel says where it is, and the fan-out writes.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from realtime.fan_out import FanOut
from realtime.hub_channel import HubChannel, delivery_of, publication_delivery
from realtime.layers import decode_message
from realtime.protocol.disconnects import UNSUBSCRIBED_INSUFFICIENT_STATE
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import StreamPosition
from realtime.recovery import History
from realtime.slices import sliced
from realtime.subscription import Delivery, Subscription

logger = logging.getLogger(__name__)

REPAIR_PAGE: Final = 300
RETRY_SECONDS: Final = 0.25
HELD_MAX_BYTES: Final = 1024 * 1024
SPREAD_SECONDS: Final = 5.0
SPREAD_SLICES: Final = 250  # of ten thousand, 40 are ended at once
SPREAD_AT_ONCE: Final = 100  # so few ask for their history in one moment without harm

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Streams(Protocol):
    """How the hub reads the streams; the broker does it."""

    async def history(
        self, channel: str, *, since: StreamPosition | None, limit: int, reverse: bool
    ) -> History:
        """Return the publications after ``since``, oldest first, and the top."""

    async def tops(
        self, positions: Sequence[tuple[str, StreamPosition]]
    ) -> Sequence[History | BrokerUnavailable]:
        """Return the tops of several channels, each shown the position held here."""


class Arrivals:
    """The incoming side of all channels of one process."""

    def __init__(self, streams: Streams, *, spawn: Spawn) -> None:
        self._streams = streams
        self._spawn = spawn
        self._fan_out = FanOut()

    def receive(self, channel: HubChannel, data: bytes) -> None:
        """Take a message of a channel's group, as the layer carried it."""
        try:
            message = decode_message(data)
            delivery = delivery_of(channel.name, message)
        except msgspec.DecodeError as error:
            logger.error("undecodable message on the layer for %s: %s", channel.name, error)
            return
        if delivery is not None:
            self._accept(channel, delivery)

    def _accept(self, channel: HubChannel, delivery: Delivery) -> None:
        if delivery.offset == 0:
            self._queue(channel, delivery)
        elif channel.repair is not None:
            self._hold(channel, delivery)
        elif self._is_next(channel, delivery):
            self._advance(channel, delivery)
        elif not self._is_known(channel, delivery):
            self._hold(channel, delivery)
            self.start_repair(channel)

    def _is_next(self, channel: HubChannel, delivery: Delivery) -> bool:
        position = channel.position
        if position is None:
            return True
        return delivery.epoch == position.epoch and delivery.offset == position.offset + 1

    def _is_known(self, channel: HubChannel, delivery: Delivery) -> bool:
        position = channel.position
        return (
            position is not None
            and delivery.epoch == position.epoch
            and delivery.offset <= position.offset
        )

    def _advance(self, channel: HubChannel, delivery: Delivery) -> None:
        channel.position = StreamPosition(delivery.offset, delivery.epoch)
        channel.active_at = asyncio.get_running_loop().time()
        self._queue(channel, delivery)

    def _queue(self, channel: HubChannel, delivery: Delivery) -> None:
        now = asyncio.get_running_loop().time()
        if channel.queue.is_full(delivery, now):
            dropped = channel.queue.drop()
            logger.error("%s is overloaded: dropped %d messages", channel.name, dropped)
            self._tell(channel)
        self._fan_out.put(channel.queue, delivery, now)

    def _hold(self, channel: HubChannel, delivery: Delivery) -> None:
        channel.held_bytes += len(delivery.frame)
        if channel.held_bytes > HELD_MAX_BYTES:
            # The stream has them as well: the repair reads on until it meets what is held.
            channel.held.clear()
            channel.held_bytes = len(delivery.frame)
        channel.held.append(delivery)

    # Gaps ------------------------------------------------------------------------------------

    def start_repair(self, channel: HubChannel) -> None:
        """Read what follows the channel's position, until it meets what arrives."""
        if channel.repair is None:
            channel.repair = self._spawn(self._repair(channel), f"repair {channel.group}")

    async def _repair(self, channel: HubChannel) -> None:
        page = REPAIR_PAGE
        try:
            while True:
                channel.must_look_again = False
                is_filled = await self._fill(channel, page)
                if is_filled is None:
                    # A page of large publications may take longer than the deadline.
                    page = max(1, page // 2)
                    await asyncio.sleep(RETRY_SECONDS)
                elif is_filled and not channel.must_look_again:
                    return
                else:
                    page = min(2 * page, REPAIR_PAGE)
        finally:
            channel.repair = None
            channel.held.clear()
            channel.held_bytes = 0

    async def _fill(self, channel: HubChannel, page: int) -> bool | None:
        """Read what follows the position once; tell whether the gap is closed, None if unread."""
        position = channel.position
        assert position is not None
        waiting = list(channel.held)
        try:
            history = await self._streams.history(
                channel.name, since=position, limit=page, reverse=False
            )
        except BrokerUnavailable:
            return None
        first_offset = history.publications[0].offset if history.publications else 0
        is_behind = history.position.offset > position.offset
        if history.position.epoch != position.epoch or history.position.offset < position.offset:
            await self._renounce(channel, history)
        elif is_behind and first_offset != position.offset + 1:
            self._lose(channel, _before_what_is_left(channel, history))
        for publication in history.publications:
            epoch = history.position.epoch
            delivery = publication_delivery(channel.name, publication.offset, epoch, publication)
            if self._is_next(channel, delivery):
                await self._advance_with_room(channel, delivery)
        _forget_what_is_not_there(channel, waiting, history.position)
        is_met = await self._drain_held(channel)
        return is_met and not self._is_below(channel, history.position)

    async def _advance_with_room(self, channel: HubChannel, delivery: Delivery) -> None:
        """Queue a delivery no faster than they are written: a long gap is no overload."""
        if channel.queue.is_full(delivery, asyncio.get_running_loop().time()):
            await self._fan_out.drained(channel.queue)
        if self._is_next(channel, delivery):  # the position may have jumped meanwhile
            self._advance(channel, delivery)

    @staticmethod
    def _is_below(channel: HubChannel, top: StreamPosition) -> bool:
        position = channel.position
        assert position is not None
        return position.epoch == top.epoch and position.offset < top.offset

    async def _drain_held(self, channel: HubChannel) -> bool:
        while channel.held:
            delivery = channel.held[0]
            if not (self._is_next(channel, delivery) or self._is_known(channel, delivery)):
                return False
            # Out of it first: while there is no room more may come, and the bound may clear it.
            channel.held.popleft()
            channel.held_bytes -= len(delivery.frame)
            if self._is_next(channel, delivery):
                await self._advance_with_room(channel, delivery)
        return True

    async def _renounce(self, channel: HubChannel, history: History) -> None:
        """Go over to another epoch, after the stream was shown the position held until now."""
        position = channel.position
        assert position is not None
        while True:
            (top,) = await self._streams.tops([(channel.name, position)])
            if isinstance(top, History):
                break
            await asyncio.sleep(RETRY_SECONDS)
        if top.continues(position):
            # The stream goes on where it was, under another name: who has no position gets all.
            self._lose(channel, StreamPosition(position.offset, top.position.epoch))
        elif top.position.epoch == history.position.epoch:
            self._lose(channel, _before_what_is_left(channel, history))
        else:
            self._lose(channel, top.position)

    async def until_repaired(self, channel: HubChannel, *, seconds: float) -> None:
        """Repair a channel, and wait for it so long at most."""
        self.start_repair(channel)
        if channel.repair is not None:
            await asyncio.wait([channel.repair], timeout=seconds)

    def _lose(self, channel: HubChannel, position: StreamPosition) -> None:
        """Go on from ``position``; whoever was promised to miss nothing is told."""
        logger.warning(
            "%s went from %s to %s: positioned subscriptions recover",
            channel.name,
            channel.position,
            position,
        )
        # What is queued stays: those who are told hear nothing more, the others get it.
        channel.position = position
        channel.is_proven = False
        channel.queue.delivered = position
        self._tell(channel)

    def _tell(self, channel: HubChannel) -> None:
        """End the positioned subscriptions that are past joining, spread over seconds.

        They hear nothing more from now on. Joining ones read their history again by themselves.
        """
        told = [each for each in channel.subscriptions if each.is_positioned and each.has_joined]
        for subscription in told:
            subscription.end()
        if len(told) <= SPREAD_AT_ONCE:
            for subscription in told:
                subscription.end_by_server(UNSUBSCRIBED_INSUFFICIENT_STATE)
        else:
            self._spawn(_end_spread(told), f"tell {channel.group}")


async def _end_spread(subscriptions: Sequence[Subscription]) -> None:
    size = -(-len(subscriptions) // SPREAD_SLICES)
    for start in range(0, len(subscriptions), size):
        async for subscription in sliced(subscriptions[start : start + size]):
            subscription.end_by_server(UNSUBSCRIBED_INSUFFICIENT_STATE)
        await asyncio.sleep(SPREAD_SECONDS / SPREAD_SLICES)


def _before_what_is_left(channel: HubChannel, history: History) -> StreamPosition:
    """Return the position from which on everything is at hand: read, held, or else to come."""
    epoch = history.position.epoch
    at_hand = [publication.offset for publication in history.publications[:1]]
    at_hand += [delivery.offset for delivery in channel.held if delivery.epoch == epoch][:1]
    if not at_hand:
        return history.position
    return StreamPosition(min(at_hand) - 1, epoch)


def _forget_what_is_not_there(
    channel: HubChannel, waiting: Iterable[Delivery], top: StreamPosition
) -> None:
    """Drop what was held before a read and is not in the stream that the read has shown.

    It is of an older epoch, or was sent past the stream by somebody else's hand.
    """
    foreign = {each for each in waiting if each.epoch != top.epoch or each.offset > top.offset}
    if foreign:
        channel.held = deque(delivery for delivery in channel.held if delivery not in foreign)
        channel.held_bytes = sum(len(delivery.frame) for delivery in channel.held)
