"""The channel layer: channels_redis' pub/sub layer, made one that a hub can rely on.

Named in ``CHANNEL_LAYERS``. Stock consumers' ``group_add`` and ``group_send`` work as on the
parent. Added: ``listen`` takes a group's raw messages for a whole process and returns once the
server has acknowledged it; a silent or lost link is noticed, reported, and taken up again with
everything that was subscribed. Publishing together with a stream is the broker's script.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgspec
import redis.asyncio as aioredis
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from channels_redis.utils import _wrap_close
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from realtime import conf
from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_client import async_pool_options

logger = logging.getLogger(__name__)

PUBLICATION: Final = "realtime.publication"
JOIN: Final = "realtime.join"
LEAVE: Final = "realtime.leave"

Receiver = Callable[[bytes], None]
LinkWatcher = Callable[[int, bool], None]

PROBE_SECONDS: Final = 1.5
SILENCE_SECONDS: Final = 4.0
RECONNECT_MIN_SECONDS: Final = 0.05
RECONNECT_MAX_SECONDS: Final = 1.0
SUBSCRIBE_CHUNK: Final = 500
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
            ShardLink(index, parent.host, self) for index, parent in enumerate(self._shards)
        ]

    @property
    def is_linked(self) -> bool:
        """Whether every server's subscription link is up, or not needed yet."""
        return all(shard.is_up or not shard.is_wanted for shard in self._shards)

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
            receive(data)
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

    def report(self, shard_index: int, *, is_up: bool) -> None:
        """Tell the watchers that a link was lost or taken up again."""
        for watch in self.watchers:
            watch(shard_index, is_up)


class ShardLink:
    """The subscription link to one server, and its publishing side.

    Takes the place of the parent's shard connection, which polls ten times a second, holds one
    lock across all publishes, and does not tell when it loses messages.
    """

    def __init__(self, index: int, host: dict[str, Any], layer: LoopLayer) -> None:
        self.index = index
        self.host = host
        self.is_up = False
        self._layer = layer
        self._timeout_seconds = conf.current().broker_timeout_seconds
        self._wanted: set[str] = set()
        self._acknowledged: set[str] = set()
        self._in_flight: Counter[str] = Counter()
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._connection: AbstractConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._publisher: aioredis.Redis | None = None
        self._heard_at = 0.0
        self._resuming: set[str] | None = None  # what the new link has not acknowledged yet

    @property
    def is_wanted(self) -> bool:
        """Whether anything is to be heard on this link."""
        return bool(self._wanted)

    async def publish(self, address: str, message: bytes) -> None:
        """Publish for ``send`` and ``group_send``; at most once."""
        if self._publisher is None:
            options = async_pool_options(self.host, timeout_seconds=self._timeout_seconds)
            pool = aioredis.BlockingConnectionPool.from_url(
                self.host["address"], max_connections=4, timeout=self._timeout_seconds, **options
            )
            self._publisher = aioredis.Redis.from_pool(pool)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._publisher.publish(address, message)
        except (RedisError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(str(error)) from error

    async def subscribe(self, address: str) -> None:
        """Return once the server has acknowledged that it sends ``address`` on this link.

        Raises:
            BrokerUnavailable: It did not in time. The wish stays: it is repeated when the link is
                taken up again, until ``unsubscribe``.
        """
        self._wanted.add(address)
        if self._task is None:
            self._task = asyncio.create_task(self._keep_link(), name=f"layer link {self.index}")
        if address in self._acknowledged:
            return
        waiter = self._waiters.get(address)
        if waiter is None or waiter.done():
            waiter = self._waiters[address] = asyncio.get_running_loop().create_future()
            if self.is_up:
                await self._send("SUBSCRIBE", [address])
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await asyncio.shield(waiter)
        except TimeoutError as error:
            raise BrokerUnavailable("the layer did not acknowledge a subscription") from error

    async def unsubscribe(self, address: str) -> None:
        """Hear no more of ``address``; not acknowledged."""
        self._wanted.discard(address)
        self._acknowledged.discard(address)
        self._waiters.pop(address, None)  # whoever still waits meets the deadline
        self._resumed(address)
        if self.is_up:
            await self._send("UNSUBSCRIBE", [address])

    async def flush(self) -> None:
        """Close both sides; the layer can be used again afterwards."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._wanted.clear()
        if self._publisher is not None:
            await self._publisher.aclose(close_connection_pool=True)
            self._publisher = None

    async def _keep_link(self) -> None:
        delay_seconds = RECONNECT_MIN_SECONDS
        while True:
            try:
                await self._open()
                delay_seconds = RECONNECT_MIN_SECONDS
                await self._listen()
            except (RedisError, OSError, TimeoutError) as error:
                logger.warning("layer link %d lost: %s", self.index, error or "silent")
            finally:
                await self._close()
            await asyncio.sleep(delay_seconds * random.uniform(0.5, 1.0))
            delay_seconds = min(delay_seconds * 2, RECONNECT_MAX_SECONDS)

    async def _open(self) -> None:
        # No socket timeout: the link is quiet for as long as nobody publishes.
        options = async_pool_options(self.host, timeout_seconds=None)
        pool = aioredis.ConnectionPool.from_url(self.host["address"], **options)
        connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        self._connection = connection
        async with asyncio.timeout(self._timeout_seconds):
            await connection.connect()  # type: ignore[no-untyped-call]
        self._heard_at = asyncio.get_running_loop().time()
        self.is_up = True
        self._resuming = set(self._wanted)
        wanted = sorted(self._wanted)
        for start in range(0, len(wanted), SUBSCRIBE_CHUNK):
            await self._send("SUBSCRIBE", wanted[start : start + SUBSCRIBE_CHUNK])

    async def _listen(self) -> None:
        assert self._connection is not None
        connection = self._connection
        self._report_if_resumed()
        async with asyncio.timeout(None) as silence:
            probe = asyncio.create_task(self._probe(silence), name=f"layer probe {self.index}")
            try:
                while True:
                    self._handle(await connection.read_response(disconnect_on_error=False))
            finally:
                probe.cancel()

    async def _probe(self, silence: asyncio.Timeout) -> None:
        """Break a link that has fallen silent: a frozen server sends no error."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            silent_seconds = loop.time() - self._heard_at
            if silent_seconds > SILENCE_SECONDS:
                silence.reschedule(loop.time())
                return
            if silent_seconds > PROBE_SECONDS / 2:
                await self._send("PING", [])

    def _report_if_resumed(self) -> None:
        if self._resuming is not None and not self._resuming:
            self._resuming = None
            self._layer.report(self.index, is_up=True)

    def _handle(self, response: Any) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if not isinstance(response, list):
            return  # the answer to a PING on a link with no subscription
        kind = response[0]
        if kind == b"message":
            self._layer.dispatch(response[1].decode(), response[2])
        elif kind == b"subscribe":
            self._acknowledge(response[1].decode())

    def _acknowledge(self, address: str) -> None:
        self._in_flight[address] -= 1
        # An UNSUBSCRIBE and another SUBSCRIBE may have followed: only the last one counts.
        if self._in_flight[address] > 0:
            return
        del self._in_flight[address]
        self._resumed(address)
        if address not in self._wanted:
            return
        self._acknowledged.add(address)
        waiter = self._waiters.pop(address, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _resumed(self, address: str) -> None:
        if self._resuming is not None:
            self._resuming.discard(address)
            self._report_if_resumed()

    async def _send(self, command: str, addresses: list[str]) -> None:
        if command == "SUBSCRIBE":
            self._in_flight.update(addresses)
        connection = self._connection
        if connection is None:
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await connection.send_command(command, *addresses)
        except (RedisError, OSError, TimeoutError) as error:
            # The reading side will see the same and open the link anew.
            logger.debug("layer link %d: %s not sent: %s", self.index, command, error)

    async def _close(self) -> None:
        was_up, self.is_up = self.is_up, False
        self._acknowledged.clear()
        self._in_flight.clear()
        self._resuming = None
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
        if was_up:
            self._layer.report(self.index, is_up=False)
