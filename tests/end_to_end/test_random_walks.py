"""Publish, disconnect and recover at random: every publication arrives exactly once, in order."""

import asyncio
import contextlib
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Pair
from tests.support.oracle import check
from tests.support.publisher import Api, Publisher
from tests.support.raw_client import Closed, RawClient
from tests.support.servers import token

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(180), pytest.mark.on_the_ends]

CLIENTS = 3
# At most 20 x 12 publications are missed, fewer than one recovery holds.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 12)),
        st.tuples(
            st.sampled_from(["drop", "close", "fumble", "unsubscribe", "return_a", "return_b"]),
            st.integers(0, CLIENTS - 1),
        ),
        st.tuples(st.just("settle"), st.just(0)),
    ),
    min_size=3,
    max_size=20,
)


class Walk:
    """One channel, a publisher that runs beside, and clients that come and go."""

    def __init__(self, pair: Pair, apis: list[Api]) -> None:
        self.channel = f"stream:{uuid.uuid4().hex[:10]}"
        self.urls = {"return_a": pair.a.websocket_url, "return_b": pair.b.websocket_url}
        self.publisher = Publisher(*apis)
        self.clients = [
            RawClient(self.urls[("return_a", "return_b")[n % 2]], who=f"client-{n}")
            for n in range(CLIENTS)
        ]
        self.away = [False] * CLIENTS
        self.unsubscribed = [False] * CLIENTS
        self._wanted: asyncio.Queue[int] = asyncio.Queue()

    async def run(self, steps: list[tuple[str, int]]) -> None:
        publishing = asyncio.create_task(self._publish())
        try:
            for client in self.clients:
                await client.connect(token("ada"))
                await client.subscribe(self.channel)
            for action, number in steps:
                await self._step(action, number)
            for number in range(CLIENTS):
                await self._step("return_a", number)
            await self._step("publish", 1)
            await self._wanted.join()
            last = self.publisher.log.of("ok")[-1]
            for client in self.clients:
                await client.log.wait("pub", id=last["id"], timeout_seconds=5)
        finally:
            publishing.cancel()
            for client in self.clients:
                await client.close()

    async def _publish(self) -> None:
        while True:
            count = await self._wanted.get()
            for _ in range(count):
                await self.publisher.publish(self.channel)
            self._wanted.task_done()

    async def _step(self, action: str, number: int) -> None:
        if action == "publish":
            self._wanted.put_nowait(number)
            await asyncio.sleep(0)
        elif action == "settle":
            await self._wanted.join()
        elif action.startswith("return"):
            await self._come_back(self.urls[action], number)
        else:
            await self._leave(action, number)

    async def _come_back(self, url: str, number: int) -> None:
        client = self.clients[number]
        if self.away[number]:
            client.url = url
            await client.connect(token("ada"))
        elif not self.unsubscribed[number]:
            return
        self.away[number] = self.unsubscribed[number] = False
        result = await client.recover(self.channel)
        assert result["recovered"] is True

    async def _leave(self, action: str, number: int) -> None:
        client = self.clients[number]
        if self.away[number]:
            return
        if action == "unsubscribe":
            if not self.unsubscribed[number]:
                await client.unsubscribe(self.channel)
                self.unsubscribed[number] = True
            return
        if action == "fumble":
            await self._fumble(client, number)
        await (client.close() if action == "close" else client.drop())
        self.away[number], self.unsubscribed[number] = True, False

    async def _fumble(self, client: RawClient, number: int) -> None:
        """Ask for a recovery and be cut before the answer."""
        if not self.unsubscribed[number]:
            await client.unsubscribe(self.channel)
        held = client.positions[self.channel]
        asked: dict[str, Any] = {"channel": self.channel, "recover": True}
        with contextlib.suppress(Closed):
            await client.send_commands(
                {"subscribe": {**asked, "offset": held.offset, "epoch": held.epoch}}
            )


@pytest.mark.rule("order-by-offset", "order-no-duplicates", "recover-missed")
@given(steps=STEPS)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_every_publication_arrives_exactly_once_in_order(
    pair: Pair, api_a: Api, api_b: Api, steps: list[tuple[str, int]]
) -> None:
    walk = Walk(pair, [api_a, api_b])

    await walk.run(steps)

    published = [event["id"] for event in walk.publisher.log.of("ok")]
    events = walk.publisher.log.events + [e for c in walk.clients for e in c.log.events]
    assert check(events) == []
    for client in walk.clients:
        assert [event["id"] for event in client.log.published(walk.channel)] == published
