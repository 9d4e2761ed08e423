"""Channel to subscriptions on this instance, with one position per channel.

Called by a subscribe under way and by the session. Joins a group of the channel layer once per
channel, compares positions with the streams when the layer may have lost something, and leaves.
What arrives is the business of ``arrivals.py``. Knows nothing of sockets.
"""

import asyncio
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from realtime import conf
from realtime.arrivals import RETRY_SECONDS, Arrivals, Streams
from realtime.hub_channel import HubChannel
from realtime.layers import LoopLayer
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import StreamPosition
from realtime.subscription import Subscription
from realtime.tasks import TaskOwner
from realtime.wheel import Wheel

COMPARE_CHUNK: Final = 500  # so many answer well within the deadline
CHECK_TICK_SECONDS: Final = 1.0
CATCH_UP_SECONDS: Final = 1.5
LEAVE_AFTER_SECONDS: Final = 1.0  # quick resubscribe loops do not reach Redis


class Hub:
    """The channels of one process."""

    def __init__(self, layer: LoopLayer, streams: Streams, *, check_seconds: float = 40.0) -> None:
        """Set up an empty hub.

        Args:
            layer: Carries what the streams' publishers announce.
            streams: How to read what the layer lost.
            check_seconds: How often the position of a quiet channel is compared.
        """
        self._layer = layer
        self._streams = streams
        self._tasks = TaskOwner()
        self._arrivals = Arrivals(streams, spawn=self._tasks.spawn)
        self._checks: Wheel[HubChannel] = Wheel(
            interval_seconds=check_seconds, tick_seconds=CHECK_TICK_SECONDS
        )
        self._recent_seconds = check_seconds / 8
        self.channels: dict[str, HubChannel] = {}
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
            self._checks.add(channel)
        channel.subscriptions[subscription] = None
        self._stay(channel)
        try:
            await self._prepare(channel)
        except BaseException:
            self.remove(subscription)
            raise

    async def _prepare(self, channel: HubChannel) -> None:
        try:
            # Those who came before may fail one after another, each after its own deadline.
            async with asyncio.timeout(conf.current().broker_timeout_seconds):
                await channel.lock.acquire()
        except TimeoutError as error:
            raise BrokerUnavailable("the channel could not be joined in time") from error
        try:
            if not channel.is_listening:
                await self._listen(channel)
            if channel.is_suspect:
                # Not before this instance's own position was compared: it may be the proof that
                # Redis lost something which the client would not be told of.
                await self._compare([channel], must_answer=True)
        finally:
            channel.lock.release()

    async def _listen(self, channel: HubChannel) -> None:
        def receive(data: bytes) -> None:
            self._arrivals.receive(channel, data)

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

    async def catch_up(self, name: str, position: StreamPosition) -> None:
        """Follow a freshly read position of another epoch than the hub's own.

        By a repair, which shows the stream the position held here before it gives it up: it may
        be the only proof that Redis lost something.
        """
        channel = self.channels[name]
        if channel.position is not None and channel.position.epoch != position.epoch:
            await self._arrivals.until_repaired(channel, seconds=CATCH_UP_SECONDS)

    def lacks_position(self, name: str) -> bool:
        """Tell whether nothing is known yet of where a channel's stream is."""
        return self.channels[name].position is None

    def place(self, name: str, position: StreamPosition) -> None:
        """Let a channel begin at a position that was read, unless something arrived meanwhile."""
        channel = self.channels[name]
        if channel.position is None:
            channel.position = position

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
        self._tasks.spawn(self._leave(channel), f"leave {channel.group}")

    async def _leave(self, channel: HubChannel) -> None:
        async with channel.lock:
            channel.leave_timer = None
            if channel.subscriptions or self.channels.get(channel.name) is not channel:
                return
            # Forgotten first: whoever joins while the layer is told makes a new channel.
            del self.channels[channel.name]
            self._checks.discard(channel)
            if channel.repair is not None:
                channel.repair.cancel()
            if channel.is_listening:
                await self._layer.ignore(channel.group)

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
            self._tasks.spawn(self._compare_until_done(affected), "compare after a lost link")

    async def _compare_until_done(self, channels: Iterable[HubChannel]) -> None:
        left = [channel for channel in channels if channel.is_suspect]
        while left:
            for start in range(0, len(left), COMPARE_CHUNK):
                await self._compare(left[start : start + COMPARE_CHUNK], must_answer=False)
            left = [channel for channel in left if channel.is_suspect]
            if left:
                await asyncio.sleep(RETRY_SECONDS)

    async def check_quiet(self) -> None:
        """Compare the channels whose turn it is, unless a publication came just now.

        Called each ``CHECK_TICK_SECONDS``. The layer may lose the last publication of a channel,
        and nothing that follows would show.
        """
        now = asyncio.get_running_loop().time()
        quiet = [
            channel
            for channel in self._checks.turn()
            if channel.position is not None and now - channel.active_at >= self._recent_seconds
        ]
        for start in range(0, len(quiet), COMPARE_CHUNK):
            await self._compare(quiet[start : start + COMPARE_CHUNK], must_answer=False)

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
        if channel.repair is not None:
            channel.must_look_again = True
            return
        if position is None or not channel.has_positioned or position.epoch != asked.epoch:
            return
        # An offset below the one asked with proves loss; below the present one, only haste.
        is_lost = top.epoch != position.epoch or top.offset < asked.offset
        if is_lost or top.offset > position.offset:
            self._arrivals.start_repair(channel)

    async def close(self) -> None:
        """End every task; the subscriptions are the sessions' to end."""
        self._layer.watchers.remove(self._on_link)
        for channel in self.channels.values():
            self._stay(channel)
        await self._tasks.close()
