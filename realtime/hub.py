"""Channel to subscriptions on this instance, with one position per channel.

The channel layer hands every message here. A publication is compared with the channel's position
once, framed once, and queued for the fan-out. What the layer lost is read from the stream, through
what the instance gives. Where even that cannot fill a gap, exactly the positioned subscriptions are
told. Keeps no history and knows nothing of sockets.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, Protocol

import msgspec

from realtime.fan_out import ChannelQueue, FanOut
from realtime.layers import JOIN, LEAVE, PUBLICATION, LayerMessage, LoopLayer, decode_message
from realtime.protocol import codec
from realtime.protocol.disconnects import UNSUBSCRIBED_INSUFFICIENT_STATE
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import Publication, StreamPosition
from realtime.recovery import History
from realtime.redis_keys import of_channel
from realtime.subscription import Delivery, Subscription

logger = logging.getLogger(__name__)

LEAVE_AFTER_SECONDS: Final = 1.0  # quick resubscribe loops do not reach Redis
REPAIR_PAGE: Final = 300
REPAIR_RETRY_SECONDS: Final = 0.25
HELD_MAX_BYTES: Final = 1024 * 1024
SPREAD_SECONDS: Final = 5.0
SPREAD_SLICES: Final = 50
SPREAD_AT_ONCE: Final = 100  # so few ask for their history in one moment without harm


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


class HubChannel:
    """A channel that this instance has subscriptions to.

    Attributes:
        position: The last publication queued for delivery; None before the first is known.
        is_listening: Whether the layer has acknowledged the group.
        is_suspect: Whether the link was down since the position was last compared.
        held: What arrives while a gap is filled.
    """

    __slots__ = (
        "active_at",
        "group",
        "held",
        "held_bytes",
        "is_listening",
        "is_suspect",
        "leave_timer",
        "lock",
        "name",
        "position",
        "queue",
        "repair",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.group = of_channel(name).group
        self.queue = ChannelQueue()
        self.position: StreamPosition | None = None
        self.is_listening = False
        self.is_suspect = False
        self.lock = asyncio.Lock()
        self.leave_timer: asyncio.TimerHandle | None = None
        self.repair: asyncio.Task[None] | None = None
        self.held: deque[Delivery] = deque()
        self.held_bytes = 0
        self.active_at = asyncio.get_running_loop().time()

    @property
    def subscriptions(self) -> dict[Subscription, None]:
        """Everyone subscribed here."""
        return self.queue.subscriptions

    @property
    def has_positioned(self) -> bool:
        """Whether somebody was promised to miss nothing."""
        return any(each.is_positioned for each in self.subscriptions)


class Hub:
    """The channels of one process."""

    def __init__(self, layer: LoopLayer, streams: Streams) -> None:
        self._layer = layer
        self._streams = streams
        self._fan_out = FanOut()
        self._tasks: set[asyncio.Task[None]] = set()
        self.channels: dict[str, HubChannel] = {}
        self.dropped_count = 0
        self.repaired_count = 0
        layer.watchers.append(self._on_link)

    def client_counts(self, pattern: str) -> dict[str, int]:
        """Return how many clients each channel that matches a glob has here; empty matches all."""
        return {
            name: len(channel.subscriptions)
            for name, channel in self.channels.items()
            if channel.subscriptions and (not pattern or fnmatchcase(name, pattern))
        }

    # Joining and leaving ---------------------------------------------------------------------

    async def join(self, subscription: Subscription) -> None:
        """Begin to hand a channel's messages to a subscription.

        Returns once the layer has acknowledged the group, so that a history read begun afterwards
        and what is handed over leave no gap between them.

        Raises:
            BrokerUnavailable: The layer, or after a lost link the stream, did not answer in time.
        """
        channel = self.channels.get(subscription.channel)
        if channel is None:
            channel = self.channels[subscription.channel] = HubChannel(subscription.channel)
        channel.subscriptions[subscription] = None
        self._stay(channel)
        try:
            async with channel.lock:
                if not channel.is_listening:
                    await self._listen(channel)
                if channel.is_suspect:
                    # Not before this instance's own position was compared: it may be the proof
                    # that Redis lost something which the client would not be told of.
                    await self._compare([channel], must_answer=True)
        except BaseException:
            self.remove(subscription)
            raise

    async def _listen(self, channel: HubChannel) -> None:
        def receive(data: bytes) -> None:
            self._receive(channel, data)

        await self._layer.listen(channel.group, receive)
        channel.is_listening = True

    def is_current(self, subscription: Subscription, position: StreamPosition) -> bool:
        """Tell whether a joining subscription may go live from ``position``.

        It may not if it kept less than what was delivered since, or if the hub is in another
        epoch: then the history is to be read again.
        """
        channel = self.channels[subscription.channel]
        delivered = channel.queue.delivered
        if channel.position is not None and channel.position.epoch != position.epoch:
            return False
        if not subscription.follows(position):
            return False
        return (
            delivered is None
            or delivered.epoch != position.epoch
            or delivered.offset <= position.offset
            or subscription.keeps(delivered.offset)
        )

    def adopt(self, name: str, position: StreamPosition) -> None:
        """Take over a freshly read position of another epoch than the hub's own."""
        channel = self.channels[name]
        if channel.position is not None and channel.position.epoch != position.epoch:
            self._lose(channel, position)

    def go_live(self, subscription: Subscription, position: StreamPosition | None) -> None:
        """Release a subscription from ``position``, right after its reply was written."""
        channel = self.channels[subscription.channel]
        reached = subscription.release(position)
        if position is not None and channel.position is None:
            channel.position = StreamPosition(reached, position.epoch)

    def remove(self, subscription: Subscription) -> None:
        """Hand nothing more to a subscription; the last one's channel is left a second later."""
        subscription.end()
        channel = self.channels.get(subscription.channel)
        if channel is None:
            return
        channel.subscriptions.pop(subscription, None)
        if not channel.subscriptions and channel.leave_timer is None:
            loop = asyncio.get_running_loop()
            channel.leave_timer = loop.call_later(LEAVE_AFTER_SECONDS, self._leave_soon, channel)

    def _stay(self, channel: HubChannel) -> None:
        if channel.leave_timer is not None:
            channel.leave_timer.cancel()
            channel.leave_timer = None

    def _leave_soon(self, channel: HubChannel) -> None:
        self._spawn(self._leave(channel), f"leave {channel.group}")

    async def _leave(self, channel: HubChannel) -> None:
        async with channel.lock:
            channel.leave_timer = None
            if channel.subscriptions or self.channels.get(channel.name) is not channel:
                return
            # Forgotten first: whoever joins while the layer is told makes a new channel.
            del self.channels[channel.name]
            if channel.repair is not None:
                channel.repair.cancel()
            if channel.is_listening:
                await self._layer.ignore(channel.group)

    # What arrives ----------------------------------------------------------------------------

    def _receive(self, channel: HubChannel, data: bytes) -> None:
        try:
            message = decode_message(data)
            delivery = _delivery(channel.name, message)
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
            self._start_repair(channel)

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
        self._queue(channel, delivery)

    def _queue(self, channel: HubChannel, delivery: Delivery) -> None:
        now = channel.active_at = asyncio.get_running_loop().time()
        if channel.queue.is_full(delivery, now):
            dropped = channel.queue.drop()
            self.dropped_count += dropped
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

    def _start_repair(self, channel: HubChannel) -> None:
        if channel.repair is None:
            channel.repair = self._spawn(self._repair(channel), f"repair {channel.group}")

    async def _repair(self, channel: HubChannel) -> None:
        try:
            while not await self._fill(channel):
                pass
        finally:
            channel.repair = None
            channel.held.clear()
            channel.held_bytes = 0

    async def _fill(self, channel: HubChannel) -> bool:
        """Read what follows the position once; tell whether the gap is closed."""
        position = channel.position
        assert position is not None
        waiting = list(channel.held)
        try:
            history = await self._streams.history(
                channel.name, since=position, limit=REPAIR_PAGE, reverse=False
            )
        except BrokerUnavailable:
            await asyncio.sleep(REPAIR_RETRY_SECONDS)
            return False
        first_offset = history.publications[0].offset if history.publications else 0
        is_behind = history.position.offset > position.offset
        if history.position.epoch != position.epoch or history.position.offset < position.offset:
            await self._renounce(channel)
        elif is_behind and first_offset != position.offset + 1:
            self._lose(channel, history.position)
        for publication in history.publications:
            epoch = history.position.epoch
            delivery = _publication_delivery(channel.name, publication.offset, epoch, publication)
            if self._is_next(channel, delivery):
                self.repaired_count += 1
                self._advance(channel, delivery)
        _forget_other_epochs(channel, waiting, history.position.epoch)
        if len(history.publications) == REPAIR_PAGE:
            # A long gap is paged in no faster than it is delivered.
            await self._fan_out.drained(channel.queue)
        return self._drain_held(channel)

    def _drain_held(self, channel: HubChannel) -> bool:
        while channel.held:
            delivery = channel.held[0]
            if self._is_next(channel, delivery):
                self._advance(channel, delivery)
            elif not self._is_known(channel, delivery):
                return False
            channel.held.popleft()
            channel.held_bytes -= len(delivery.frame)
        return True

    async def _renounce(self, channel: HubChannel) -> None:
        """Go over to another epoch, after the stream was shown the position held until now."""
        while True:
            assert channel.position is not None
            (top,) = await self._streams.tops([(channel.name, channel.position)])
            if isinstance(top, History):
                self._lose(channel, top.position)
                return
            await asyncio.sleep(REPAIR_RETRY_SECONDS)

    def _lose(self, channel: HubChannel, position: StreamPosition) -> None:
        """Jump to ``position``; whoever was promised to miss nothing is told."""
        logger.warning(
            "%s went from %s to %s: positioned subscriptions recover",
            channel.name,
            channel.position,
            position,
        )
        channel.queue.drop()
        channel.position = position
        channel.queue.delivered = position
        self._tell(channel)

    def _tell(self, channel: HubChannel) -> None:
        """End the positioned subscriptions that are past joining, spread over seconds.

        They hear nothing more from now on. Joining ones read their history again by themselves.
        """
        told = [each for each in channel.subscriptions if each.is_positioned and each.has_joined]
        for subscription in told:
            subscription.end()
        random.shuffle(told)
        if len(told) <= SPREAD_AT_ONCE:
            _end_all(told)
            return
        loop = asyncio.get_running_loop()
        size = -(-len(told) // SPREAD_SLICES)
        for index in range(0, len(told), size):
            delay_seconds = SPREAD_SECONDS * index / len(told)
            loop.call_later(delay_seconds, _end_all, told[index : index + size])

    # Comparing with the streams --------------------------------------------------------------

    def _on_link(self, shard_index: int, is_up: bool) -> None:
        affected = [
            channel
            for channel in self.channels.values()
            if self._layer.shard_index(channel.group) == shard_index
        ]
        for channel in affected:
            channel.is_suspect = True
        if is_up and affected:
            self._spawn(self._compare_until_done(affected), "compare after a lost link")

    async def _compare_until_done(self, channels: Iterable[HubChannel]) -> None:
        left = [channel for channel in channels if channel.is_suspect]
        while left:
            await self._compare(left, must_answer=False)
            left = [channel for channel in left if channel.is_suspect]
            if left:
                await asyncio.sleep(REPAIR_RETRY_SECONDS)

    async def check_quiet(self, *, quiet_seconds: float, limit: int) -> None:
        """Compare up to ``limit`` channels that delivered nothing for ``quiet_seconds``.

        The layer may lose the last publication of a channel, and nothing that follows would show.
        """
        now = asyncio.get_running_loop().time()
        quiet = [
            channel
            for channel in self.channels.values()
            if channel.position is not None and now - channel.active_at >= quiet_seconds
        ][:limit]
        if quiet:
            await self._compare(quiet, must_answer=False)
            for channel in quiet:
                channel.active_at = now

    async def _compare(self, channels: Sequence[HubChannel], *, must_answer: bool) -> None:
        asked = [(each, each.position or StreamPosition()) for each in channels]
        tops = await self._streams.tops([(each.name, position) for each, position in asked])
        for (channel, position), top in zip(asked, tops, strict=True):
            if isinstance(top, BrokerUnavailable):
                if must_answer:
                    raise top
                continue
            # While the link is down something may be lost at any moment.
            channel.is_suspect = not self._layer.is_up_for(channel.group)
            self._judge(channel, position, top.position)

    def _judge(self, channel: HubChannel, asked: StreamPosition, top: StreamPosition) -> None:
        position = channel.position
        if position is None or channel.repair is not None or not channel.has_positioned:
            return
        if position.epoch != asked.epoch:
            return  # moved on meanwhile
        # An offset below the one asked with proves loss; below the present one, only haste.
        if top.epoch != position.epoch or top.offset < asked.offset:
            self._lose(channel, top)
        elif top.offset > position.offset:
            self._start_repair(channel)

    # Tasks -----------------------------------------------------------------------------------

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("hub task %s failed", task.get_name(), exc_info=task.exception())

    async def close(self) -> None:
        """End every task; the subscriptions are the sessions' to end."""
        self._layer.watchers.remove(self._on_link)
        for channel in self.channels.values():
            self._stay(channel)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _end_all(subscriptions: Iterable[Subscription]) -> None:
    for subscription in subscriptions:
        subscription.end_by_server(UNSUBSCRIBED_INSUFFICIENT_STATE)


def _forget_other_epochs(channel: HubChannel, waiting: Iterable[Delivery], epoch: str) -> None:
    """Drop what was held before a read that has shown another epoch: it is of an older one."""
    older = {delivery for delivery in waiting if delivery.epoch != epoch}
    if older:
        channel.held = deque(delivery for delivery in channel.held if delivery not in older)
        channel.held_bytes = sum(len(delivery.frame) for delivery in channel.held)


def _delivery(channel: str, message: LayerMessage) -> Delivery | None:
    if message.type == PUBLICATION:
        publication = codec.decode_publication(message.body)
        return _publication_delivery(channel, message.offset, message.epoch, publication)
    info = codec.decode_info(message.body)
    if message.type == JOIN:
        return Delivery(codec.join_frame(channel, info), is_presence_event=True)
    if message.type == LEAVE:
        return Delivery(codec.leave_frame(channel, info), is_presence_event=True)
    return None


def _publication_delivery(
    channel: str, offset: int, epoch: str, publication: Publication
) -> Delivery:
    publication.offset = offset
    if offset == 1:
        # Source: Centrifugo client protocol, pushes: the epoch goes with the first publication.
        publication.epoch = epoch
    return Delivery(codec.publication_frame(channel, publication), offset, epoch)
