"""The link that carries publications to an instance is cut, or slow, or loses what it carried."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from realtime.redis_keys import of_channel
from tests.support.follower import Follower
from tests.support.proxy import FaultProxy
from tests.support.publisher import Api, Publisher
from tests.support.raw_client import RawClient
from tests.support.servers import Server, token

logger = logging.getLogger(__name__)
pytestmark = pytest.mark.faults


def kill_links(valkey) -> int:
    with valkey.client() as client:
        return client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.mark.rule("live-gap-repaired")
async def test_killed_links_lose_nothing_and_nobody_is_told_anything(
    breakable, fresh, judge
) -> None:
    channels = [fresh("stream") for _ in range(5)]
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(Api(breakable.a.url))
        followers = [
            await stack.enter_async_context(
                Follower(server.websocket_url, channel, who=f"{server.name} {channel}")
            )
            for server in (breakable.a, breakable.b)
            for channel in channels
        ]
        publisher = Publisher(api)
        killed = []

        async def kill_repeatedly() -> None:
            for _ in range(6):
                await asyncio.sleep(0.7)
                killed.append(await asyncio.to_thread(kill_links, breakable.valkey))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(kill_repeatedly())
            running = tasks.create_task(
                publisher.run(channels, per_second=500, count=2_500, batch=25)
            )
        for follower in followers:
            last = publisher.log.of("ok", channel=follower.channel)[-1]
            await follower.log.wait("pub", id=last["id"])

        assert running.result() >= 450
        logger.info("%.0f/s through %d killed links", running.result(), sum(killed))
        assert all(count >= 2 for count in killed)
        assert len(publisher.log.of("ok")) == 2_500
        judge(publisher.log, *(follower.log for follower in followers))
        for follower in followers:
            published = [e["id"] for e in publisher.log.of("ok", channel=follower.channel)]
            assert follower.names() == published
            assert follower.log.of("unsub") == []
            assert len(follower.log.of("connected")) == 1


@pytest.fixture
async def slow_link(breakable) -> AsyncIterator[tuple[Server, FaultProxy]]:
    """A third instance, whose way to Redis leads through a proxy."""
    async with FaultProxy(breakable.valkey.port) as proxy:
        server = breakable.add("slow", redis_url=f"redis://127.0.0.1:{proxy.port}/0")
        try:
            await asyncio.to_thread(server.wait_ready)
            yield server, proxy
        finally:
            await asyncio.to_thread(server.close)
            breakable.servers.remove(server)


@pytest.mark.rule("recover-listen-first")
async def test_what_is_published_during_a_subscribe_arrives(slow_link, breakable, fresh) -> None:
    """Without the wait for the acknowledgement the publication falls between read and link."""
    server, proxy = slow_link
    async with Api(breakable.a.url) as api, RawClient(server.websocket_url) as client:
        await client.connect(token("ada"))
        await client.subscribe(fresh("live"))  # the link exists before it is slow
        proxy.subscriber_delay_seconds = 0.3
        for _ in range(3):
            channel = fresh("stream")
            epoch = (await api.call("history", channel=channel))["epoch"]
            asked = {"channel": channel, "recover": True, "epoch": epoch}
            (number,) = await client.send_commands({"subscribe": asked})
            await asyncio.sleep(0.1)

            await api.call("publish", channel=channel, data={"id": "between"})

            await client.log.wait("pub", channel=channel, timeout_seconds=3)
            await client.reply(number)
            assert [e["offset"] for e in client.log.published(channel)] == [1]


async def test_what_is_published_after_the_answer_arrives_without_a_stream(
    slow_link, breakable, fresh
) -> None:
    server, proxy = slow_link
    async with Api(breakable.a.url) as api, RawClient(server.websocket_url) as client:
        await client.connect(token("ada"))
        await client.subscribe(fresh("live"))
        proxy.subscriber_delay_seconds = 0.3
        for _ in range(3):
            channel = fresh("live")
            await client.subscribe(channel)

            await api.call("publish", channel=channel, data={"id": "after"})

            await client.log.wait("pub", channel=channel, timeout_seconds=3)


@pytest.mark.rule("unsubscribe-2500", "live-gap-lost-2500")
async def test_only_the_positioned_are_told_of_a_gap_that_cannot_be_filled(
    slow_link, breakable, fresh
) -> None:
    server, proxy = slow_link
    forced, mixed = fresh("short"), fresh("brief")
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(Api(breakable.a.url))
        clients = {}
        for name, channel, asks in (
            ("forced", forced, {}),
            ("wishing", mixed, {"recoverable": True}),
            ("plain", mixed, {}),
            ("elsewhere", fresh("stream"), {}),
        ):
            client = clients[name] = await stack.enter_async_context(
                RawClient(server.websocket_url, who=name)
            )
            await client.connect(token("ada"))
            await client.subscribe(channel, **asks)
        publisher = Publisher(api)
        await publisher.publish(forced, mixed)
        for name in ("forced", "wishing", "plain"):
            await clients[name].log.wait("pub")

        # While the new link is being made, more is published than the history keeps.
        proxy.subscriber_delay_seconds = 0.5
        await asyncio.to_thread(kill_links, breakable.valkey)
        for _ in range(20):
            await publisher.publish(forced, mixed)

        for name in ("forced", "wishing"):
            told = await clients[name].log.wait("unsub", timeout_seconds=20)
            assert (told["code"], told["reason"]) == (2500, "insufficient state")
        proxy.subscriber_delay_seconds = 0
        await asyncio.sleep(0.5)
        ends = await publisher.publish(forced, mixed)
        await clients["plain"].log.wait("pub", id=ends[1]["id"])
        for name in ("plain", "elsewhere"):
            assert clients[name].log.of("unsub") == []
            assert clients[name].log.of("close") == []
        for name, channel in (("forced", forced), ("wishing", mixed)):
            asks = {} if name == "forced" else {"recoverable": True}
            result = await clients[name].recover(channel, **asks)
            assert result.get("recovered", False) is False


@pytest.mark.rule("check-finds-last-loss")
async def test_a_last_publication_that_the_link_lost_is_found_on_a_quiet_channel(
    breakable, fresh
) -> None:
    """Nothing follows it that would show the gap: only the comparison with the stream does."""
    channel = fresh("stream")
    server = breakable.add("checked", REALTIME_POSITION_CHECK_SECONDS="1")
    try:
        await asyncio.to_thread(server.wait_ready)
        async with Follower(server.websocket_url, channel, who="watch") as follower:
            async with Api(breakable.a.url) as api:
                await api.call("publish", channel=channel, data={"id": "heard"})
            await follower.log.wait("pub", id="heard")

            append_unheard(breakable.valkey, channel)

            await follower.log.wait("pub", id="quiet")
            assert follower.names() == ["heard", "quiet"]
            assert follower.log.of("unsub") == []
    finally:
        await asyncio.to_thread(server.close)
        breakable.servers.remove(server)


def append_unheard(valkey, channel: str) -> None:
    """Append to a channel's stream what the layer never carries, in Redis itself."""
    keys = of_channel(channel)
    with valkey.client() as client:
        ((_, fields),) = client.xrange(keys.stream)
        offset = client.hincrby(keys.meta, "offset", 1)
        lost = {name: value.replace(b"heard", b"quiet") for name, value in fields.items()}
        client.xadd(keys.stream, lost, id=f"{offset}-0")
