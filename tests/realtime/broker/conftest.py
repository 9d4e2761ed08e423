"""Short ways to act on a stream."""

from typing import Any

import pytest
from msgspec import Raw

from realtime.broker import acts
from realtime.broker.acts import Retention
from realtime.broker.broker import Broker
from realtime.protocol import codec
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import Publication, StreamPosition
from realtime.recovery import History

KEPT = Retention(size=100, ttl_seconds=60)


class Stream:
    """One channel's stream as a publisher and a reader see it."""

    def __init__(self, broker: Broker, name: str = "news") -> None:
        self.broker = broker
        self.name = name

    async def publish(
        self, data: object = 0, *, retention: Retention = KEPT, **options: Any
    ) -> acts.Published:
        body = codec.encode_publication(Publication(data=Raw(str(data).encode())))
        return await self.broker.publish(
            acts.publish(self.name, body, retention=retention, **options)
        )

    async def fill(self, count: int) -> StreamPosition:
        """Publish 1 to ``count`` and return the last position."""
        for number in range(1, count + 1):
            published = await self.publish(number)
        return published.position

    async def history(
        self, *, since: StreamPosition | None = None, limit: int = -1, reverse: bool = False
    ) -> History:
        return await self.broker.history(self.name, since=since, limit=limit, reverse=reverse)

    async def offsets(self, **how: Any) -> list[int]:
        return [publication.offset for publication in (await self.history(**how)).publications]

    async def top(self, *, witness: StreamPosition | None = None) -> History:
        (top,) = await self.broker.tops([(self.name, witness or StreamPosition())])
        if isinstance(top, BrokerUnavailable):
            raise top
        return top


@pytest.fixture
def stream(broker: Broker) -> Stream:
    return Stream(broker)
