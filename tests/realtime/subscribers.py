"""Subscribers of a hub on a real layer and broker, and ways to disturb what reaches them."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from msgspec import Raw

from realtime.broker import acts
from realtime.broker.acts import Published, Retention
from realtime.broker.broker import Broker
from realtime.broker.reads import SharedReads
from realtime.granting import Caller, Grant
from realtime.hub import Hub
from realtime.layers import LoopLayer
from realtime.presence import Presence
from realtime.protocol import codec
from realtime.protocol.disconnects import Unsubscribe
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import (
    ABSENT,
    Publication,
    StreamPosition,
    SubscribeRequest,
    SubscribeResult,
)
from realtime.recovery import History
from realtime.redis_client import RedisServers
from realtime.snapshot import ChannelOptions
from realtime.subscribing import Allowance, Opening, Start
from realtime.subscription import Subscription
from tests.realtime.conftest import until
from tests.realtime.frames import messages_of

KEPT = Retention(size=1000, ttl_seconds=60)


class PausedBroker(Broker):
    """A broker whose reads can be held back after Redis has answered, and its tops hidden."""

    def __init__(self, servers: RedisServers) -> None:
        super().__init__(servers)
        self.gate = asyncio.Event()
        self.gate.set()
        self.read_count = 0
        self.hides_tops = False

    async def tops(self, positions: Any) -> Any:
        if self.hides_tops:
            return [BrokerUnavailable("hidden") for _ in positions]
        return await super().tops(positions)

    async def newest(self, *args: Any, **options: Any) -> History:
        answer = await super().newest(*args, **options)
        self.read_count += 1
        await self.gate.wait()
        return answer

    async def history(self, *args: Any, **options: Any) -> History:
        answer = await super().history(*args, **options)
        self.read_count += 1
        await self.gate.wait()
        return answer


@dataclass
class Parts:
    """The parts of an instance that a subscribe needs."""

    layer: LoopLayer
    broker: PausedBroker
    presence: Presence
    hub: Hub
    reads: SharedReads

    def use(self, hub: Hub) -> None:
        """Put another hub in the place of one that has no channel yet."""
        self.layer.watchers.remove(self.hub._on_link)
        self.hub = hub

    async def check(self) -> None:
        """Give every channel its turn of the check for quiet ones."""
        for _ in range(self.hub._checks.slot_count):
            await self.hub.check_quiet()

    def doubt(self, channel: str = "news") -> None:
        """Let the next one who joins read the stream, as after a check that found it elsewhere."""
        self.hub.channels[channel].is_proven = False

    async def publish(
        self, data: object = 0, *, channel: str = "news", retention: Retention = KEPT
    ) -> Published:
        body = codec.encode_publication(Publication(data=Raw(json.dumps(data).encode())))
        return await self.broker.publish(acts.publish(channel, body, retention=retention))

    async def publish_range(self, first: int, last: int, **options: Any) -> None:
        for number in range(first, last + 1):
            await self.publish(number, **options)


class Link:
    """What the layer brings for one channel, held back, lost or let through as the test says."""

    def __init__(self, layer: LoopLayer, group: str) -> None:
        self._layer = layer
        self._address = layer._get_group_channel_name(group)
        self._receive = layer.receivers[self._address]
        self.held: list[bytes] = []

    def hold(self) -> None:
        """Hold back what comes."""
        self._layer.receivers[self._address] = self.held.append

    async def holds(self, count: int) -> None:
        await until(lambda: len(self.held) >= count)

    def release(self) -> None:
        """Let through what was held, all at once, and what comes from now on."""
        held, self.held = self.held, []
        self._layer.receivers[self._address] = self._receive
        for data in held:
            self._receive(data)

    def lose(self) -> None:
        """Forget what was held; let through what comes from now on."""
        self.held = []
        self._layer.receivers[self._address] = self._receive


class Subscriber:
    """One client's tie to a channel, made as a subscribe command makes it.

    Attributes:
        offsets: What it was sent, replies included, in order.
        told: The codes of the unsubscribe pushes.
    """

    def __init__(
        self, parts: Parts, channel: str = "news", *, is_positioned: bool = True, number: int = 1
    ) -> None:
        self.parts = parts
        self.channel = channel
        self.client = f"c{number}"
        self.is_positioned = is_positioned
        self.offsets: list[int] = []
        self.data: list[Any] = []
        self.told: list[int] = []
        self.result: SubscribeResult | None = None
        self.subscription: Subscription | None = None

    async def subscribe(
        self, *, since: StreamPosition | None = None, presence: bool = False, flag: int = 0
    ) -> "Subscriber":
        request = SubscribeRequest(self.channel, flag=flag)
        if since is not None:
            request.recover, request.offset, request.epoch = True, since.offset, since.epoch
        options = ChannelOptions(history_size=1000, history_ttl=60, presence=presence)
        granted = Grant(
            options, is_positioned=self.is_positioned, is_recoverable=self.is_positioned
        )
        self.subscription = Subscription(
            self.channel, outbox=self, holder=self, is_positioned=self.is_positioned
        )
        caller = Caller("42", self.client, ABSENT)
        opening = Opening(
            self.parts, caller, granted, self.subscription, Start.of(request), Allowance()
        )
        try:
            result = await opening.run()
        except BaseException:
            await opening.undo()
            raise
        self.result = result
        for publication in result.publications:
            self._take(publication.offset, json.loads(bytes(publication.data)))
        opening.go_live()
        return self

    def leave(self) -> None:
        assert self.subscription is not None
        self.parts.hub.remove(self.subscription)

    async def has(self, *offsets: int, timeout_seconds: float = 5) -> None:
        """Wait for exactly these offsets."""
        try:
            await until(lambda: self.offsets == list(offsets), timeout_seconds=timeout_seconds)
        except TimeoutError:
            raise AssertionError(
                f"{self.client}: {self.offsets} in place of {list(offsets)}, told {self.told}"
            ) from None

    @property
    def position(self) -> StreamPosition:
        assert self.result is not None
        last = self.offsets[-1] if self.offsets else self.result.offset
        return StreamPosition(last, self.result.epoch)

    def _take(self, offset: int, data: Any) -> None:
        self.offsets.append(offset)
        self.data.append(data)

    def write(self, frame: bytes) -> None:
        assert self.result is not None, "a push before the reply"
        for message in messages_of(frame):
            publication = message["push"]["pub"]
            self._take(publication.get("offset", 0), publication["data"])

    def end(self, subscription: Subscription, unsubscribe: Unsubscribe) -> None:
        self.told.append(unsubscribe.code)
        self.parts.hub.remove(subscription)
