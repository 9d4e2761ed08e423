"""An instance or Redis dies, stops or freezes under load: nothing acknowledged is lost in silence.

Clients that return get all they missed, or are told. What "returns" means is what an SDK does; the
official ones take part.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.faults.conftest import PRESENCE_SECONDS
from tests.support.follower import Follower
from tests.support.proxy import FaultProxy
from tests.support.publisher import Api, Publisher
from tests.support.sdk import JavaScriptClient, PythonClient
from tests.support.servers import Server, token, websocket_url

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

PUBLISH_ANSWER_SECONDS = 2.0
HEAL_SECONDS = 10.0


@contextlib.asynccontextmanager
async def following(servers: list[Server], channels: list[str]) -> AsyncIterator[list[Follower]]:
    """Follow each channel on each server."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Follower(server.websocket_url, channel, who=f"{number} on {server.name}")
            )
            for server in servers
            for number, channel in enumerate(channels, 1)
        ]


async def all_caught_up(publisher: Publisher, followers: list[Follower], *, seconds: float) -> None:
    """Return when each follower has the newest acknowledged publication of its channel."""
    for follower in followers:
        last = publisher.log.of("ok", channel=follower.channel)[-1]
        await follower.log.wait("pub", id=last["id"], timeout_seconds=seconds)


async def history_ids(api: Api, channel: str) -> list[str]:
    result = await api.call("history", channel=channel, limit=-1)
    return [publication["data"]["id"] for publication in result["publications"]]


# An instance --------------------------------------------------------------------------------------


@pytest.mark.rule("presence-lapses")
async def test_clients_of_a_killed_instance_miss_nothing_on_the_other(
    breakable, fresh, judge, stopwatch, sdk_packages
) -> None:
    channels = [fresh("stream") for _ in range(3)]
    a, b = breakable.a, breakable.b
    async with contextlib.AsyncExitStack() as stack:
        api_a, api_b = [await stack.enter_async_context(Api(s.url)) for s in (a, b)]
        publishers = [Publisher(api_a, who="on a"), Publisher(api_b, who="on b")]
        proxy = await stack.enter_async_context(FaultProxy(b.port))
        followers = await stack.enter_async_context(following([a, b], channels))
        sdks = []
        for kind in (JavaScriptClient, PythonClient):
            client = await stack.enter_async_context(kind(websocket_url(proxy.port)))
            await client.connect(token("ada"))
            await client.subscribed(channels[0])
            sdks.append(client)
        runs = [asyncio.create_task(p.run(channels, per_second=100, seconds=6)) for p in publishers]
        await followers[0].log.wait("pub", count=30)

        b.kill()
        killed_at = stopwatch()
        proxy.target = a.port
        for follower in followers[len(channels) :]:
            follower.client.url = a.websocket_url
            await follower.log.wait("connected", count=2, timeout_seconds=5)
        await asyncio.gather(*runs)
        await all_caught_up(publishers[0], followers, seconds=HEAL_SECONDS)
        for client in sdks:
            last = publishers[0].log.of("ok", channel=channels[0])[-1]
            await client.log.wait("pub", id=last["id"])

        witnesses = [*followers, *sdks]
        judge(*(p.log for p in publishers), *(w.log for w in witnesses))
        assert publishers[1].log.of("unknown")
        for channel in channels:
            acknowledged = {e["id"] for p in publishers for e in p.log.of("ok", channel=channel)}
            assert acknowledged <= set(await history_ids(api_a, channel))
        for follower in followers:
            assert all(e["recovered"] for e in follower.log.of("subscribed")[1:])

        await presence_becomes_right(api_a, channels[0], followers, sdks)
        assert stopwatch() - killed_at < PRESENCE_SECONDS + 5
        breakable.started_again(b)
        async with Api(b.url) as api_b:
            await presence_becomes_right(api_b, channels[0], followers, sdks)


async def presence_becomes_right(api: Api, channel: str, followers, sdks) -> None:
    """Wait until exactly the living are present."""
    living = {f.client.client_id for f in followers if f.channel == channel}
    living |= {client.client_id for client in sdks}
    deadline = time.monotonic() + PRESENCE_SECONDS + 2
    while True:
        present = set((await api.call("presence", channel=channel))["presence"])
        assert living <= present, "a living client is missing"
        if present == living:
            return
        assert time.monotonic() < deadline, f"ghosts: {present - living}"
        await asyncio.sleep(0.5)


@pytest.mark.rule("close-3001")
async def test_an_instance_that_is_told_to_end_sends_its_clients_away(
    breakable, fresh, judge
) -> None:
    channel = fresh("stream")
    a, b = breakable.a, breakable.b
    async with Api(a.url) as api, following([b], [channel] * 5) as followers:
        publisher = Publisher(api)
        publishing = asyncio.create_task(publisher.run([channel], per_second=100, seconds=4))
        await followers[0].log.wait("pub", count=20)
        before = {follower.client.client_id for follower in followers}
        for follower in followers:
            follower.client.url = a.websocket_url

        ending = asyncio.create_task(asyncio.to_thread(b.terminate))
        for follower in followers:
            told = await follower.log.wait("disconnect")
            assert told["code"] == 3001
            assert (await follower.log.wait("close"))["code"] == 3001
        assert await ending < 10
        present = set((await api.call("presence", channel=channel))["presence"])
        assert not present & before, "presence of a clean end needs no TTL"

        await publishing
        await all_caught_up(publisher, followers, seconds=HEAL_SECONDS)
        judge(publisher.log, *(follower.log for follower in followers))


# Redis --------------------------------------------------------------------------------------------

FAULTS = {
    "stop": lambda valkey: valkey.stop(),
    "kill": lambda valkey: valkey.kill(),
    "freeze": lambda valkey: valkey.freeze(),
}


@pytest.mark.rule("redis-away-100")
@pytest.mark.parametrize("fault", list(FAULTS))
async def test_redis_goes_away_and_comes_back_and_nothing_is_lost(
    breakable, fresh, judge, fault
) -> None:
    channels = [fresh("stream") for _ in range(3)]
    valkey = breakable.valkey
    async with contextlib.AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(Api(s.url)) for s in (breakable.a, breakable.b)]
        publishers = [Publisher(api, who=f"publisher {n}") for n, api in enumerate(apis)]
        followers = await stack.enter_async_context(following([breakable.a, breakable.b], channels))
        seconds = 14 if fault == "freeze" else 8
        runs = [
            asyncio.create_task(p.run(channels, per_second=100, seconds=seconds))
            for p in publishers
        ]
        await followers[0].log.wait("pub", count=30)

        await asyncio.to_thread(FAULTS[fault], valkey)
        gone_at = time.monotonic()
        probe = Publisher(apis[1], who="probe")
        await refuses_to_publish(probe, channels[0])
        await asyncio.to_thread(is_not_ready, breakable.a)
        await asyncio.sleep((8 if fault == "freeze" else 3) - (time.monotonic() - gone_at))
        away = [e for p in publishers for e in p.log.of("ok") if e["t"] > gone_at + 0.5]
        await asyncio.to_thread(valkey.thaw if fault == "freeze" else valkey.start)
        back_at = time.monotonic()

        await asyncio.gather(*runs)
        for publisher in publishers:
            assert publisher.log.of("ok")[-1]["t"] > back_at
            await all_caught_up(publisher, followers, seconds=HEAL_SECONDS)
        await asyncio.to_thread(breakable.wait_ready)

        assert away == [], "acknowledged while Redis was away"
        for follower in followers:
            assert len(follower.log.of("connected")) == 1, "a client was sent away"
            if fault == "freeze":
                assert [e for e in follower.log.of("ping") if gone_at + 2 < e["t"] < back_at]
        judge(probe.log, *(p.log for p in publishers), *(f.log for f in followers))
        for channel in channels:
            acknowledged = {e["id"] for p in publishers for e in p.log.of("ok", channel=channel)}
            assert acknowledged <= set(await history_ids(apis[0], channel))
        resubscribed = [e for f in followers for e in f.log.of("subscribed")[1:]]
        assert all(event["recovered"] for event in resubscribed)
        await presence_becomes_right(apis[0], channels[0], followers, [])


async def refuses_to_publish(probe: Publisher, channel: str) -> None:
    """A publish is answered with an error, soon."""
    started_at = time.monotonic()
    (answer,) = await probe.publish(channel)

    assert (answer["event"], answer.get("code")) == ("unknown", 100)
    assert time.monotonic() - started_at < PUBLISH_ANSWER_SECONDS


def is_not_ready(server: Server) -> None:
    status, body = server.get("/ready")
    assert status == 503, body
    assert server.get("/health")[0] == 200


@pytest.mark.rule("stream-restart-new-epoch")
async def test_writes_lost_by_redis_are_told_and_their_places_never_reused(
    breakable, fresh, judge
) -> None:
    """A power cut: the end of Redis's own file is gone. The loss is real, and every client knows.

    Recovery across it would hand out other publications under offsets that a client holds already.
    """
    channel = fresh("stream")
    valkey = breakable.valkey
    async with Api(breakable.a.url) as api:
        async with following([breakable.a, breakable.b], [channel]) as followers:
            publisher = Publisher(api)
            for number in range(20):
                await publisher.publish(channel)
                if number == 9:
                    kept_bytes = await asyncio.to_thread(valkey.log_bytes, holding=b"publisher-10")
            await all_caught_up(publisher, followers, seconds=HEAL_SECONDS)

            await asyncio.to_thread(valkey.kill)
            valkey.truncate_log(kept_bytes)
            await asyncio.to_thread(valkey.start)
            await asyncio.to_thread(breakable.wait_ready)
            kept = await history_ids(api, channel)
            for follower in followers:
                told = await follower.log.wait("subscribed", count=2, timeout_seconds=20)
                assert told["recovered"] is False
                assert told["epoch"] != follower.log.of("subscribed")[0]["epoch"]
            for _ in range(30):
                await publisher.publish(channel)
            await all_caught_up(publisher, followers, seconds=HEAL_SECONDS)

        acknowledged = [event["id"] for event in publisher.log.of("ok")]
        assert kept == acknowledged[: len(kept)]
        assert len(kept) == 10, "the fault was another than planned"
        judge(publisher.log, *(follower.log for follower in followers))


@pytest.mark.rule("stream-lost-metadata-new-epoch", "live-epoch-2500")
async def test_a_client_of_an_emptied_redis_is_told_of_a_new_life(breakable, fresh, judge) -> None:
    channel = fresh("stream")
    async with Api(breakable.a.url) as api:
        async with following([breakable.a, breakable.b], [channel]) as followers:
            publisher = Publisher(api)
            for _ in range(3):
                await publisher.publish(channel)
            await all_caught_up(publisher, followers, seconds=HEAL_SECONDS)

            with breakable.valkey.client() as client:
                client.flushall()
            await publisher.publish(channel)
            for follower in followers:
                told = await follower.log.wait("subscribed", count=2)
                assert told["recovered"] is False
                assert told["epoch"] != follower.log.of("subscribed")[0]["epoch"]
            # Commands to end connections are gone as well: instances let nobody stay unasked.
            for follower in followers:
                await follower.log.wait("close", code=3001, timeout_seconds=15)
            await publisher.publish(channel)
            await all_caught_up(publisher, followers, seconds=HEAL_SECONDS)
            await presence_becomes_right(api, channel, followers, [])

        judge(publisher.log, *(follower.log for follower in followers))


@pytest.mark.rule("idempotency-original-position")
async def test_a_publish_whose_answer_was_lost_can_be_repeated(breakable, fresh) -> None:
    channel = fresh("stream")
    async with (
        FaultProxy(breakable.a.port) as proxy,
        Follower(breakable.b.websocket_url, channel, who="watch") as follower,
    ):
        publication = {"channel": channel, "data": {"id": "once"}, "idempotency_key": "k"}
        async with Api(f"http://127.0.0.1:{proxy.port}") as api:
            proxy.cut_next_after("down", 1)
            with pytest.raises(aiohttp.ClientError):
                await api.call("publish", **publication)

            repeated = await api.call("publish", **publication)
            await api.call("publish", channel=channel, data={"id": "end"})

        await follower.log.wait("pub", id="end")
        assert repeated["offset"] == 1
        assert follower.names() == ["once", "end"]


# The demo clock -----------------------------------------------------------------------------------


async def test_the_demo_clock_ticks_once_a_second_whoever_lives(breakable) -> None:
    one = breakable.add("clock-1", REALTIME_DEMO="1")
    two = breakable.add("clock-2", REALTIME_DEMO="1")
    try:
        await asyncio.to_thread(one.wait_ready)
        await asyncio.to_thread(two.wait_ready)
        async with Follower(one.websocket_url, "demo:clock", who="watch") as follower:
            await follower.log.wait("pub", count=4)
            two.kill()
            await follower.log.wait("pub", count=9, timeout_seconds=15)
        seconds = ticks_in_redis(breakable.valkey)
    finally:
        for server in (one, two):
            await asyncio.to_thread(server.close)
            breakable.servers.remove(server)

    assert len(seconds) >= 9
    assert seconds == list(range(seconds[0], seconds[0] + len(seconds)))


def ticks_in_redis(valkey) -> list[int]:
    """Return the seconds of the ticks as the stream holds them, read past the servers."""
    with valkey.client() as client:
        for key in client.scan_iter("rt:*:stream"):
            entries = b" ".join(
                value for _, fields in client.xrange(key) for value in fields.values()
            )
            if found := re.findall(rb'"unix":(\d+)', entries):
                return [int(second) for second in found]
    return []
