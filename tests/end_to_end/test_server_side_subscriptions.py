"""Server-side subscriptions as the official SDKs show them to an application."""

import asyncio
import time

import cent
import pytest
import redis

from realtime.redis_keys import of_channel
from tests.support import world
from tests.support.oracle import check
from tests.support.proxy import FaultProxy
from tests.support.publisher import Publisher
from tests.support.servers import websocket_url

pytestmark = [pytest.mark.end_to_end, pytest.mark.on_the_ends, pytest.mark.timeout(120)]


@pytest.fixture
async def proxy(pair):
    """Stand between a client and instance b, or where the test turns it."""
    async with FaultProxy(pair.b.port) as proxy:
        yield proxy


def ids(client, channel):
    return [event["id"] for event in client.log.published(channel)]


@pytest.mark.rule("connect-result-subs", "connect-subs-shape", "claim-subs-data", "claim-subs-info")
async def test_an_sdk_shows_what_its_token_subscribes_it_to(connect, api_a, pair, sdk, fresh):
    stream, room, closed = fresh("stream"), fresh("room"), fresh("closed")
    subs = {stream: {"data": {"title": 7}, "info": {"role": "clerk"}}, room: {}, closed: {}}

    client = await connect(sdk, to=pair.b, claims={"subs": subs})

    subscribed = await client.log.wait("subscribed", channel=stream)
    assert subscribed["data"] == {"title": 7}
    assert (subscribed["recoverable"], subscribed["positioned"]) == (True, True)
    join = await client.log.wait("join", channel=room)
    assert join["info"]["client"] == client.client_id
    for channel in subs:
        await api_a.call("publish", channel=channel, data={"id": channel})
        assert (await client.log.wait("pub", channel=channel))["id"] == channel
    present = await api_a.call("presence", channel=stream)
    assert present["presence"][client.client_id]["chan_info"] == {"role": "clerk"}


@pytest.mark.rule("connect-subs-recover")
async def test_an_sdk_gets_what_it_missed_while_its_link_was_cut(
    connect, api_a, pair, sdk, fresh, proxy
):
    stream, live = fresh("stream"), fresh("live")
    client = await connect(sdk, url=websocket_url(proxy.port), claims={"channels": [stream, live]})
    await api_a.call("publish", channel=stream, data={"id": "before"})
    await client.log.wait("pub", id="before")

    proxy.freeze("up", "down")
    proxy.cut_all()
    for number in range(3):
        await api_a.call("publish", channel=stream, data={"id": f"missed-{number}"})
        await api_a.call("publish", channel=live, data={"id": f"gone-{number}"})
    proxy.target = pair.a.port
    proxy.thaw()

    again = await client.log.wait("subscribed", channel=stream, count=2)
    assert (again["was_recovering"], again["recovered"]) == (True, True)
    await client.log.wait("subscribed", channel=live, count=2)
    for channel in (stream, live):
        await api_a.call("publish", channel=channel, data={"id": "after"})
        await client.log.wait("pub", id="after", channel=channel)
    assert ids(client, stream) == ["before", "missed-0", "missed-1", "missed-2", "after"]
    assert ids(client, live) == ["after"]


@pytest.mark.rule("connect-subs-recover", "order-by-offset", "order-no-duplicates")
async def test_nothing_is_lost_or_doubled_through_many_cuts(
    connect, api_a, api_b, pair, sdk, fresh, proxy
):
    channels = [fresh("stream"), fresh("stream")]
    client = await connect(sdk, url=websocket_url(proxy.port), claims={"channels": channels})
    for channel in channels:
        await client.log.wait("subscribed", channel=channel)
    publisher = Publisher(api_a, api_b)
    publishing = asyncio.create_task(publisher.run(channels, per_second=100, count=600))
    for number in range(8):
        await client.log.wait("pub", count=60 * (number + 1))
        proxy.target = (pair.a if number % 2 else pair.b).port
        if number % 4 == 0:
            proxy.cut_next_after("down", 700)
        after = len(client.log.events)
        proxy.cut_all()
        await client.log.wait("subscribed", channel=channels[0], after=after)
    await publishing

    for channel in channels:
        last = publisher.log.of("ok", channel=channel)[-1]["id"]
        await client.log.wait("pub", channel=channel, id=last)

    assert check([*publisher.log.events, *client.log.events]) == []
    for channel in channels:
        assert len(client.log.of("subscribed", channel=channel, recovered=True)) >= 8
        assert ids(client, channel) == [e["id"] for e in publisher.log.of("ok", channel=channel)]


@pytest.mark.rule("push-subscribe", "api-subscribe-push", "api-subscribe-recover-since")
async def test_an_sdk_shows_what_the_server_api_subscribes_it_to(connect, api_a, pair, sdk, fresh):
    client = await connect(sdk, to=pair.b, user=f"api-{sdk}")
    channel = fresh("stream")
    for number in (1, 2, 3):
        published = await api_a.call("publish", channel=channel, data={"id": number})
    since = {"offset": 1, "epoch": published["epoch"]}

    await api_a.call(
        "subscribe", user=f"api-{sdk}", channel=channel, data={"t": 1}, recover_since=since
    )

    subscribed = await client.log.wait("subscribed", channel=channel)
    assert (subscribed["offset"], subscribed["epoch"]) == (1, published["epoch"])
    assert (subscribed["recoverable"], subscribed["data"]) == (True, {"t": 1})
    await client.log.wait("pub", id=3)
    await api_a.call("unsubscribe", user=f"api-{sdk}", channel=channel)
    await client.log.wait("unsub", channel=channel)
    await api_a.call("publish", channel=channel, data={"id": 4})
    await api_a.call("subscribe", user=f"api-{sdk}", channel=channel)
    await client.log.wait("subscribed", channel=channel, count=2)
    assert ids(client, channel) == [2, 3]


async def test_what_the_server_api_made_ends_with_the_connection_and_the_sdk_says_so(
    connect, api_a, pair, sdk, fresh, proxy
):
    named, made = fresh("stream"), fresh("stream")
    client = await connect(
        sdk, url=websocket_url(proxy.port), user=f"end-{sdk}", claims={"channels": [named]}
    )
    await api_a.call("subscribe", user=f"end-{sdk}", channel=made)
    await client.log.wait("subscribed", channel=made)

    proxy.cut_all()

    await client.log.wait("unsub", channel=made)
    await client.log.wait("subscribed", channel=named, count=2)
    for channel in (made, named):
        await api_a.call("publish", channel=channel, data={"id": channel})
    await client.log.wait("pub", id=named)
    assert ids(client, made) == []


@pytest.mark.rule("cent-calls", "api-refresh-push", "api-refresh-expired-3005")
async def test_cent_subscribes_refreshes_and_expires_an_sdk(pair, connect, sdk, fresh):
    user, named, made = f"cent-{sdk}", fresh("stream"), fresh("stream")
    client = await connect(sdk, to=pair.b, user=user, claims={"channels": [named]})

    async with cent.AsyncClient(f"{pair.a.url}/api", api_key=world.API_KEY) as api:
        await api.refresh(cent.RefreshRequest(user=user, expire_at=int(time.time()) + 600))
        await api.subscribe(cent.SubscribeRequest(user=user, channel=made))
        await client.log.wait("subscribed", channel=made)
        await api.publish(cent.PublishRequest(channel=made, data={"id": "made"}))
        await client.log.wait("pub", id="made")
        assert len(client.log.of("connected")) == 1
        await api.refresh(cent.RefreshRequest(user=user, expired=True))
        await client.log.wait("connected", count=2)
        await api.publish(cent.PublishRequest(channel=named, data={"id": "named"}))

    await client.log.wait("pub", id="named")
    assert (await client.log.wait("subscribed", channel=named, count=2))["recovered"] is True


@pytest.mark.rule("live-lost-server-side-3010")
async def test_an_sdk_comes_back_by_itself_when_a_position_is_lost(
    connect, api_a, pair, sdk, fresh
):
    channel = fresh("stream")
    client = await connect(sdk, to=pair.b, claims={"channels": [channel]})
    await api_a.call("publish", channel=channel, data={"id": "first"})
    await client.log.wait("pub", id="first")

    keys = of_channel(channel)
    for url in pair.redis_url.split():
        with redis.Redis.from_url(url, protocol=2) as server:
            server.delete(keys.meta, keys.stream)
    await api_a.call("publish", channel=channel, data={"id": "lost"})

    again = await client.log.wait("subscribed", channel=channel, count=2)
    assert (again["was_recovering"], again["recovered"]) == (True, False)
    await api_a.call("publish", channel=channel, data={"id": "second"})
    await client.log.wait("pub", id="second")
    assert ids(client, channel) == ["first", "second"]
