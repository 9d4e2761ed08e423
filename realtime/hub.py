"""Channel to subscriptions on this instance, with one position per channel.

Called by a subscribe under way and by the session. Joins a group of the channel layer once per
channel, compares positions with the streams when the layer may have lost something, and leaves.
What arrives is the business of ``arrivals.py``. Knows nothing of sockets.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from realtime import conf
from realtime.arrivals import RETRY_SECONDS, Arrivals, Streams
from realtime.hub_channel import HubChannel
from realtime.layers import LoopLayer
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import StreamPosition
from realtime.slices import sliced
from realtime.subscription import Subscription
from realtime.tasks import TaskOwner
from realtime.wheel import Wheel

COMPARE_CHUNK: Final = 50  # packing and reading more would hold the loop for too long
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
        self._cuts: Counter[int] = Counter()  # by shard; also counts when a link is taken up again
        self.channels: dict[str, HubChannel] = {}
        layer.watchers.append(self._on_link)

    def client_counts(
        self, pattern: str, channels: Iterable[HubChannel] | None = None
    ) -> dict[str, int]:
        """Return how many clients each channel that matches a glob has here; empty matches all.

        Args:
            pattern: The glob.
            channels: Only these; None for all, where there are not too many for one look.
        """
        looked_at = self.channels.values() if channels is None else channels
        return {
            channel.name: len(channel.subscriptions)
            for channel in looked_at
            if channel.subscriptions and (not pattern or fnmatchcase(channel.name, pattern))
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
            channel = self._make(subscription.channel)
        channel.subscriptions[subscription] = None
        self._stay(channel)
        try:
            await self._prepare(channel)
        except BaseException:
            self.remove(subscription)
            raise

    def _make(self, name: str) -> HubChannel:
        channel = self.channels[name] = HubChannel(name)
        channel.shard = self._layer.shard_index(channel.group)
        channel.compared_at_cut = self._cuts[channel.shard]
        channel.check_slot = self._checks.add(channel)
        return channel

    async def _prepare(self, channel: HubChannel) -> None:
        if channel.is_listening and not self._is_suspect(channel):
            return
        try:
            # Those who came before may fail one after another, each after its own deadline.
            async with asyncio.timeout(conf.current().broker_timeout_seconds):
                await channel.lock.acquire()
        except TimeoutError as error:
            raise BrokerUnavailable("the channel could not be joined in time") from error
        try:
            if not channel.is_listening:
                await self._listen(channel)
            if self._is_suspect(channel):
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

    def known_position(self, subscription: Subscription) -> StreamPosition | None:
        """Return from where a joining subscription may begin without a read of the stream.

        The hub's own position, if it is known to be the stream's: nothing behind it has been
        handed to anybody here, and this subscription will be handed all of it. None if not.
        """
        channel = self.channels[subscription.channel]
        is_known = channel.is_proven and not self._is_suspect(channel) and channel.repair is None
        if not is_known or channel.position is None:
            return None
        return channel.position if self.is_current(subscription, channel.position) else None

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
            channel.is_proven = True

    def go_live(self, subscription: Subscription, position: StreamPosition | None) -> None:
        """Release a subscription from ``position``, right after its reply was written."""
        channel = self.channels[subscription.channel]
        reached = subscription.release(position)
        if position is None:
            return
        if channel.position is None:
            channel.position = StreamPosition(reached, position.epoch)
        # A read that was ahead shows that something is on its way here, or was lost.
        if position.offset <= channel.position.offset:
            channel.is_proven = True

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
            self._checks.discard(channel, channel.check_slot)
            if channel.repair is not None:
                channel.repair.cancel()
            if channel.is_listening:
                await self._layer.ignore(channel.group)

    # Comparing with the streams --------------------------------------------------------------

    def _on_link(self, shard_index: int, is_up: bool) -> None:
        # A number in place of a mark on each: there may be many channels, and all are suspect now.
        self._cuts[shard_index] += 1
        if is_up:
            self._tasks.spawn(self._compare_until_done(shard_index), "compare after a lost link")

    def _is_suspect(self, channel: HubChannel) -> bool:
        """Tell whether the link was down since the channel's position was last compared."""
        return channel.compared_at_cut != self._cuts[channel.shard]

    async def _compare_until_done(self, shard: int) -> None:
        while left := [
            channel
            async for channel in sliced(list(self.channels.values()))
            if channel.shard == shard and self._is_suspect(channel)
        ]:
            await self._compare_all(left)
            if any(map(self._is_suspect, left)):
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
        await self._compare_all(quiet)

    async def _compare_all(self, channels: Sequence[HubChannel]) -> None:
        for start in range(0, len(channels), COMPARE_CHUNK):
            await self._compare(channels[start : start + COMPARE_CHUNK], must_answer=False)

    async def _compare(self, channels: Sequence[HubChannel], *, must_answer: bool) -> None:
        asked = [(each, each.position or StreamPosition()) for each in channels]
        cuts = self._cuts.copy()
        tops = await self._streams.tops([(each.name, position) for each, position in asked])
        for (channel, position), top in zip(asked, tops, strict=True):
            if isinstance(top, BrokerUnavailable):
                if must_answer:
                    raise top
                continue
            # While the link is down something may be lost at any moment.
            if self._layer.is_up_for(channel.group):
                channel.compared_at_cut = cuts[channel.shard]
            self._judge(channel, position, top.position)

    def _judge(self, channel: HubChannel, asked: StreamPosition, top: StreamPosition) -> None:
        position = channel.position
        if channel.repair is not None:
            channel.must_look_again = True
            return
        if position is None or position.epoch != asked.epoch:
            return
        # An offset below the one asked with proves loss; below the present one, only haste.
        is_lost = top.epoch != position.epoch or top.offset < asked.offset
        if not is_lost and top.offset <= position.offset:
            return
        if channel.has_positioned:
            self._arrivals.start_repair(channel)
        else:
            channel.is_proven = False  # nobody is to be told; who comes next reads the stream

    async def close(self) -> None:
        """End every task; the subscriptions are the sessions' to end."""
        self._layer.watchers.remove(self._on_link)
        for channel in self.channels.values():
            self._stay(channel)
        await self._tasks.close()
