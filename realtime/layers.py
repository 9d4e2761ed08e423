"""The channel layer: channels_redis' pub/sub layer, made one that a hub can rely on.

Named in ``CHANNEL_LAYERS``. Stock consumers' ``group_add`` and ``group_send`` work as on the
parent. Added: ``listen`` takes a group's raw messages for a whole process and returns once the
server has acknowledged it; a silent or lost link is noticed, reported, and taken up again with
everything that was subscribed. Publishing together with a stream is the broker's script.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from channels_redis.utils import _wrap_close

from realtime.layer_link import ShardLink

logger = logging.getLogger(__name__)

PUBLICATION: Final = "realtime.publication"
JOIN: Final = "realtime.join"
LEAVE: Final = "realtime.leave"

Receiver = Callable[[bytes], None]
LinkWatcher = Callable[[int, bool], None]

CONSUMER_QUEUE_MAX: Final = 1000


class LayerMessage(msgspec.Struct):
    """What the project sends on the layer: an ordinary message with a ``type``.

    ``offset`` is 0 for what no stream keeps; ``body`` is JSON, in its stored form. The broker's
    scripts write it, so that it leaves in the same step as the stream's entry.
    """

    type: str
    offset: int
    epoch: str
    body: str


decode_message = msgspec.msgpack.Decoder(LayerMessage).decode


class HeliographChannelLayer(RedisPubSubChannelLayer):
    """One layer for all event loops of a process, as the parent."""

    def on_this_loop(self) -> "LoopLayer":
        """Return the layer of the running event loop."""
        layer: LoopLayer = self._get_layer()
        return layer

    def _get_layer(self) -> "LoopLayer":
        loop = asyncio.get_running_loop()
        layer: LoopLayer | None = self._layers.get(loop)
        if layer is None:
            layer = LoopLayer(*self._args, **self._kwargs, channel_layer=self)
            self._layers[loop] = layer
            _wrap_close(self, loop)  # flushes the layer before its loop is closed
        return layer


class LoopLayer(RedisPubSubLoopLayer):
    """The layer of one event loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.receivers: dict[str, Receiver] = {}
        self.watchers: list[LinkWatcher] = []
        self._shards: list[ShardLink] = [
            ShardLink(index, parent.host, deliver=self.dispatch, report=self.report)
            for index, parent in enumerate(self._shards)
        ]

    @property
    def is_linked(self) -> bool:
        """Whether a server's subscription link is up, or not needed yet: its channels go on."""
        return any(shard.is_up or not shard.is_wanted for shard in self._shards)

    async def listen(self, group: str, receive: Receiver) -> None:
        """Hand every message of a group to ``receive``, undecoded, from now on.

        Returns when the server has acknowledged the subscription: what is published after that
        is received, as long as the link holds.

        Raises:
            BrokerUnavailable: No acknowledgement within ``broker_timeout_seconds``.
        """
        address = self._get_group_channel_name(group)
        self.receivers[address] = receive
        try:
            await self._get_shard(address).subscribe(address)
        except BaseException:
            if self.receivers.get(address) is receive:
                await self.ignore(group)
            raise

    async def ignore(self, group: str) -> None:
        """End ``listen``; the group's stock members keep getting its messages."""
        address = self._get_group_channel_name(group)
        self.receivers.pop(address, None)
        await self._release(address)

    def is_up_for(self, group: str) -> bool:
        """Tell whether the link that carries a group is up."""
        shard: ShardLink = self._get_shard(self._get_group_channel_name(group))
        return shard.is_up

    def shard_index(self, group: str) -> int:
        """Return which server's link carries a group."""
        shard: ShardLink = self._get_shard(self._get_group_channel_name(group))
        return shard.index

    async def flush(self) -> None:
        """Forget every member and listener, and close the connections, as the parent."""
        self.receivers.clear()
        await super().flush()

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group, as the parent; a listening hub stays subscribed."""
        address = self._get_group_channel_name(group)
        members = self.groups.get(address, set())
        members.discard(channel)
        if not members:
            self.groups.pop(address, None)
            await self._release(address)

    async def _release(self, address: str) -> None:
        if address not in self.receivers and address not in self.groups:
            await self._get_shard(address).unsubscribe(address)

    async def _subscribe_to_channel(self, channel: str) -> None:
        self.channels[channel] = asyncio.Queue(CONSUMER_QUEUE_MAX)
        await self._get_shard(channel).subscribe(channel)

    def dispatch(self, address: str, data: bytes) -> None:
        """Hand a message to the hub's receiver and to the stock consumers it is for."""
        receive = self.receivers.get(address)
        if receive is not None:
            try:
                receive(data)
            except Exception:
                # What comes in here was written by anybody. One message that surprises must not
                # cost the process its hearing.
                logger.exception("a message on %s was not understood", address)
        if address in self.channels:
            self._enqueue(address, data)
        for channel in self.groups.get(address, ()):
            if channel in self.channels:
                self._enqueue(channel, data)

    def _enqueue(self, channel: str, data: bytes) -> None:
        try:
            self.channels[channel].put_nowait(data)
        except asyncio.QueueFull:
            # The parent's queue has no bound: a consumer that hangs would take all memory.
            logger.warning("a stock consumer is %d messages behind; dropped", CONSUMER_QUEUE_MAX)

    def report(self, shard_index: int, is_up: bool) -> None:
        """Tell the watchers that a link was lost or taken up again."""
        for watch in self.watchers:
            watch(shard_index, is_up)
