"""Two Redis servers share the channels; one goes away: the channels of the other go on."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from realtime.redis_keys import CONTROL, of_channel
from tests.faults.conftest import BreakablePair
from tests.support.follower import Follower
from tests.support.publisher import Api, ApiError, Publisher
from tests.support.raw_client import CommandError, RawClient
from tests.support.sdk import JavaScriptClient, PythonClient
from tests.support.servers import token
from tests.support.valkey import Valkey

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

ANSWER_SECONDS = 2.0
SDK_TIMEOUT_SECONDS = 5.0  # what both SDKs give a command
HEAL_SECONDS = 10.0
AWAY = {"kill": (Valkey.kill, Valkey.start), "freeze": (Valkey.freeze, Valkey.thaw)}


def holds(valkey: Valkey, key: str) -> bool:
    with valkey.client() as client:
        return bool(client.exists(key))


@dataclass
class Halves:
    """Channels by the server that was seen to hold them."""

    away: Valkey
    dead: list[str]
    living: list[str]


async def halves(pair: BreakablePair, fresh: Callable, api: Api, *, away: Valkey) -> Halves:
    """Make channels until each server holds four, by a read that gives a stream its epoch."""
    found = Halves(away, [], [])
    while min(len(found.dead), len(found.living)) < 4:
        channel = fresh("stream")
        await api.call("history", channel=channel)
        is_there = [holds(valkey, of_channel(channel).meta) for valkey in pair.valkeys]
        assert sum(is_there) == 1
        (found.dead if is_there[pair.valkeys.index(away)] else found.living).append(channel)
    return found


def holder_of_control(pair: BreakablePair) -> Valkey:
    (holder,) = [valkey for valkey in pair.valkeys if holds(valkey, CONTROL.meta)]
    return holder


@contextlib.asynccontextmanager
async def promptly(seconds: float = ANSWER_SECONDS) -> AsyncIterator[None]:
    started_at = time.monotonic()
    yield
    assert time.monotonic() - started_at < seconds


async def is_refused(call: Awaitable[object]) -> None:
    """A call on the server that is away is a temporary error, soon."""
    async with promptly():
        with pytest.raises((ApiError, CommandError)) as raised:
            await call
    assert raised.value.code == 100
    assert getattr(raised.value, "temporary", True)


async def until_both_are_listed(api: Api) -> None:
    """Wait for the next beat of each: the test before may have killed the server with the list."""
    async with asyncio.timeout(HEAL_SECONDS):
        while len((await api.call("info"))["nodes"]) < 2:
            await asyncio.sleep(0.1)


# Nothing is broken ----------------------------------------------------------------------------


async def test_all_of_a_channel_is_on_one_server_whoever_writes(two_servers, fresh) -> None:
    a, b = two_servers.a, two_servers.b
    channels = [fresh("stream") for _ in range(12)]
    async with Api(a.url) as api, RawClient(b.websocket_url) as client:
        await client.connect(token("ada"))
        for channel in channels:
            await client.subscribe(channel)
        publish = "\n".join(
            f"publish({channel!r}, {{'id': 'thread'}}, idempotency_key='k')" for channel in channels
        )
        await asyncio.to_thread(
            two_servers.manage, "shell", "-c", f"from realtime.services import publish\n{publish}"
        )
        for channel in channels:
            repeated = await api.call(
                "publish", channel=channel, data={"id": "again"}, idempotency_key="k"
            )
            assert repeated["offset"] == 1, "the key was written to another server"
            await client.publish(channel, {"id": "loop"})
            await client.log.wait("pub", channel=channel, count=2)
            assert await client.presence_stats(channel) == {"num_clients": 1, "num_users": 1}
            keys = of_channel(channel)
            everything = [keys.meta, keys.stream, keys.presence, f"{keys.idempotency_prefix}k"]
            where = [[holds(v, key) for key in everything] for v in two_servers.valkeys]
            assert sorted(where) == [[False] * 4, [True] * 4]
        await until_both_are_listed(api)
        counts = (await api.call("channels"))["channels"]

    assert {counts[channel]["num_clients"] for channel in channels} == {1}
    for valkey in two_servers.valkeys:
        held = sum(holds(valkey, of_channel(channel).meta) for channel in channels)
        assert 0 < held < len(channels)


# One is away ----------------------------------------------------------------------------------


@pytest.mark.parametrize("holds_control", [True, False], ids=["control", "other"])
@pytest.mark.parametrize("fault", list(AWAY))
async def test_one_server_goes_away_and_the_channels_of_the_other_go_on(
    two_servers, fresh, judge, sdk_packages, fault, holds_control
) -> None:
    control = holder_of_control(two_servers)
    (other,) = [valkey for valkey in two_servers.valkeys if valkey is not control]
    go_away, come_back = AWAY[fault]
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pair = two_servers
        apis = [await enter(Api(server.url)) for server in pair.servers]
        channels = await halves(pair, fresh, apis[0], away=control if holds_control else other)
        both = [channels.living[0], channels.dead[0]]
        followers = [
            await enter(Follower(server.websocket_url, channel, who=f"{channel} {server.name}"))
            for server in pair.servers
            for channel in both
        ]
        sdks = []
        for kind, server in ((JavaScriptClient, pair.a), (PythonClient, pair.b)):
            client = await enter(kind(server.websocket_url))
            await client.connect(token("ada"))
            for channel in both:
                await client.subscribed(channel)
            sdks.append(client)
        publishers = {channel: Publisher(*apis, who=f"to {channel}") for channel in both}
        stop = asyncio.Event()
        runs = [asyncio.create_task(keep_publishing(p, c, stop)) for c, p in publishers.items()]
        await followers[0].log.wait("pub", count=20)

        await asyncio.to_thread(go_away, channels.away)
        gone_at = time.monotonic()
        await while_it_is_away(pair, channels, apis, holds_control=holds_control)
        away_until = time.monotonic()
        await asyncio.to_thread(come_back, channels.away)
        await pair.wait_served()

        stop.set()
        await asyncio.gather(*runs)
        for channel, publisher in publishers.items():
            await publisher.publish(channel)
            last = publisher.log.of("ok")[-1]
            for witness in [*followers, *sdks]:
                if witness in sdks or witness.channel == channel:
                    await witness.log.wait("pub", id=last["id"], timeout_seconds=HEAL_SECONDS)
        judge(*(p.log for p in publishers.values()), *(f.log for f in followers))
        went_on(publishers[both[0]], gone_at, away_until)
        for witness in [*followers, *sdks]:
            assert len(witness.log.of("connected")) == 1, "a client was sent away"
        for follower in followers:
            seen = follower.names()
            assert {e["id"] for e in publishers[follower.channel].log.of("ok")} <= set(seen)
            assert all(e["recovered"] for e in follower.log.of("subscribed")[1:])
        living = {f.client.client_id for f in followers} | {c.client_id for c in sdks}
        for channel in both:
            present = (await apis[0].call("presence", channel=channel))["presence"]
            here = {f.client.client_id for f in followers if f.channel == channel}
            assert here | {c.client_id for c in sdks} <= set(present) <= living


async def keep_publishing(publisher: Publisher, channel: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await publisher.publish(channel)
        await asyncio.sleep(0.02)


def went_on(publisher: Publisher, gone_at: float, away_until: float) -> None:
    """Every publication to the living server was acknowledged, without a pause."""
    assert publisher.log.of("unknown") + publisher.log.of("fail") == []
    times = [e["t"] for e in publisher.log.of("ok") if gone_at - 1 < e["t"] < away_until]
    assert max(after - before for before, after in itertools.pairwise(times)) < 1


async def while_it_is_away(pair, channels, apis, *, holds_control: bool) -> None:
    living, dead = channels.living, channels.dead
    for server in pair.servers:
        assert (await asyncio.to_thread(server.get, "/health"))[0] == 200
        assert (await asyncio.to_thread(server.get, "/ready"))[0] == 200
    await the_server_api_tells_them_apart(apis[0], living[1], dead[1])
    await threads_tell_them_apart(pair, living[1], dead[1])
    await a_new_client_does_what_it_can(pair, apis[1], living[2], dead[2])
    await dead_channels_delay_no_living_one(pair, living, dead)
    await an_end_is_told_to_the_living(pair, living[3], dead[3])
    for call in (apis[0].call("info"), apis[0].call("disconnect", user="nobody")):
        if holds_control:
            await is_refused(call)
        else:
            await call


async def the_server_api_tells_them_apart(api: Api, living: str, dead: str) -> None:
    for method, more in (("publish", {"data": 1}), ("history", {"limit": 1}), ("presence", {})):
        async with promptly():
            await api.call(method, channel=living, **more)
        await is_refused(api.call(method, channel=dead, **more))
    async with promptly():
        answer = await api.call("broadcast", channels=[dead, living], data=2)
    assert answer["responses"][0]["error"]["code"] == 100
    assert answer["responses"][1]["result"]["offset"] == 2
    commands = [{"publish": {"channel": channel, "data": 3}} for channel in (dead, living)]
    async with promptly():
        answer = await api.call("batch", commands=commands)
    assert answer["replies"][0]["error"]["code"] == 100
    assert answer["replies"][1]["publish"]["offset"] == 3


async def threads_tell_them_apart(pair, living: str, dead: str) -> None:
    script = (
        "import json, time\n"
        "from realtime.protocol.errors import BrokerUnavailable\n"
        "from realtime.services import publish\n"
        "started_at = time.monotonic()\n"
        f"offset = publish({living!r}, 4).offset\n"
        "try:\n"
        f"    publish({dead!r}, 4)\n"
        "except BrokerUnavailable:\n"
        "    print(json.dumps([offset, time.monotonic() - started_at]))\n"
    )

    output = await asyncio.to_thread(pair.manage, "shell", "-c", script)

    offset, took_seconds = json.loads(output.splitlines()[-1])
    assert offset == 4
    assert took_seconds < ANSWER_SECONDS


async def a_new_client_does_what_it_can(pair, api: Api, living: str, dead: str) -> None:
    async with RawClient(pair.a.websocket_url) as client, RawClient(pair.b.websocket_url) as other:
        async with promptly():
            await client.connect(token("bob"))
            await other.connect(token("bob"))
            await client.subscribe(living)
            await other.subscribe(living)
        await is_refused(client.subscribe(dead))
        await is_refused(client.publish(dead, 1))
        await is_refused(client.presence_stats(dead))
        async with promptly():
            await other.publish(living, {"id": "from a client"})
            await client.log.wait("pub", id="from a client")
            await client.drop()
            await api.call("publish", channel=living, data={"id": "missed"})
            await client.connect(token("bob"))
            assert (await client.recover(living))["recovered"]
        assert [e["id"] for e in client.log.of("pub")] == ["from a client", "missed"]
        assert len(await client.presence(living)) == 2


async def dead_channels_delay_no_living_one(pair, living: list[str], dead: list[str]) -> None:
    """A client subscribes as SDKs do after a reconnect: all channels at once, in one order."""
    async with RawClient(pair.b.websocket_url) as client:
        await client.connect(token("bob"))
        started_at = time.monotonic()
        numbers = await client.send_commands(
            *({"subscribe": {"channel": channel}} for channel in [*dead, living[2]])
        )
        for number in numbers[:-1]:
            with pytest.raises(CommandError):
                await client.reply(number)
        await client.reply(numbers[-1])
        assert time.monotonic() - started_at < SDK_TIMEOUT_SECONDS - 1


async def an_end_is_told_to_the_living(pair, living: str, dead: str) -> None:
    """The rest of the end, on the server that is away, holds nobody up."""
    async with RawClient(pair.a.websocket_url) as stays, RawClient(pair.b.websocket_url) as goes:
        await stays.connect(token("bob"))
        await goes.connect(token("bob"))
        await goes.subscribe(living)
        async with promptly():
            await goes.drop()
            while await stays.presence_stats(living) != {"num_clients": 0, "num_users": 0}:
                await asyncio.sleep(0.02)
