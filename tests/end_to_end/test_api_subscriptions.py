"""``subscribe`` and ``refresh`` of the server API on one instance, seen by clients of the other."""

import base64
import time

import cent
import pytest

from tests.support import world
from tests.support.publisher import ApiError

pytestmark = [pytest.mark.end_to_end, pytest.mark.on_the_ends]


def in_(seconds: int) -> int:
    return int(time.time()) + seconds


# subscribe --------------------------------------------------------------------------------------


@pytest.mark.rule("api-subscribe-result", "api-subscribe-push", "push-subscribe", "cent-calls")
async def test_cent_subscribes_every_connection_of_a_user(pair, connect, fresh):
    clients = [await connect(to=server, user="sub-1") for server in (pair.a, pair.b)]
    other = await connect(to=pair.b, user="sub-2")
    channel = fresh("stream")

    async with cent.AsyncClient(f"{pair.a.url}/api", api_key=world.API_KEY) as api:
        await api.subscribe(cent.SubscribeRequest(user="sub-1", channel=channel))
        pushes = [await client.log.wait("subscribe", channel=channel) for client in clients]
        await api.publish(cent.PublishRequest(channel=channel, data={"id": "m"}))

    for client in clients:
        assert (await client.log.wait("pub", id="m"))["offset"] == 1
    assert {push["recoverable"] for push in pushes} == {True}
    assert len({push["epoch"] for push in pushes}) == 1
    assert other.log.of("subscribe") == []


@pytest.mark.rule("api-subscribe-info", "api-subscribe-data")
async def test_info_is_seen_by_others_and_data_by_the_client(connect, api_a, api_b, pair, fresh):
    client = await connect(to=pair.b, user="sub-3")
    channels = fresh("stream"), fresh("stream")
    plain = {"info": {"n": 1}, "data": {"d": 2}}
    in_base64 = {
        "b64info": base64.b64encode(b'{"n":3}').decode(),
        "b64data": base64.b64encode(b'{"d":4}').decode(),
    }

    for channel, payloads in zip(channels, (plain, {**plain, **in_base64}), strict=True):
        await api_a.call("subscribe", user="sub-3", channel=channel, **payloads)

    data = [(await client.log.wait("subscribe", channel=channel))["data"] for channel in channels]
    assert data == [{"d": 2}, {"d": 4}]
    seen = [
        (await api_b.call("presence", channel=channel))["presence"][client.client_id]["chan_info"]
        for channel in channels
    ]
    assert seen == [{"n": 1}, {"n": 3}]


@pytest.mark.rule("api-subscribe-join")
async def test_the_client_gets_its_own_join(connect, api_a, pair, fresh):
    client = await connect(to=pair.b, user="sub-4")
    channel = fresh("room")

    await api_a.call("subscribe", user="sub-4", channel=channel)

    join = await client.log.wait("join", channel=channel)
    assert join["info"]["client"] == client.client_id


@pytest.mark.rule("api-subscribe-narrowed")
async def test_client_and_session_narrow_a_subscribe(connect, api_a, pair, fresh):
    one, other = [await connect(to=pair.b, user="sub-5") for _ in range(2)]
    narrowed, missed, last = fresh("live"), fresh("live"), fresh("live")

    await api_a.call("subscribe", user="sub-5", channel=narrowed, client=one.client_id)
    await api_a.call("subscribe", user="sub-5", channel=missed, session="of-nobody")
    await api_a.call("subscribe", user="sub-5", channel=last)

    await one.log.wait("subscribe", channel=last)
    await other.log.wait("subscribe", channel=last)
    assert [event["channel"] for event in one.log.of("subscribe")] == [narrowed, last]
    assert [event["channel"] for event in other.log.of("subscribe")] == [last]


@pytest.mark.rule("api-subscribe-override")
async def test_an_override_changes_options_of_the_subscription(connect, api_a, pair, fresh):
    client = await connect(to=pair.b, user="sub-6")
    off, on = fresh("stream"), fresh("loose")

    await api_a.call(
        "subscribe", user="sub-6", channel=off, override={"force_recovery": {"value": False}}
    )
    await api_a.call(
        "subscribe", user="sub-6", channel=on, override={"force_recovery": {"value": True}}
    )

    assert "recoverable" not in await client.log.wait("subscribe", channel=off)
    assert (await client.log.wait("subscribe", channel=on))["recoverable"] is True


@pytest.mark.rule("api-subscribe-recover-since")
async def test_a_client_goes_on_from_where_it_is_told(connect, api_a, pair, fresh):
    client = await connect(to=pair.b, user="sub-7")
    channel = fresh("stream")
    for n in range(1, 4):
        published = await api_a.call("publish", channel=channel, data={"id": n})

    since = {"offset": 1, "epoch": published["epoch"]}
    await api_a.call("subscribe", user="sub-7", channel=channel, recover_since=since)

    push = await client.log.wait("subscribe", channel=channel)
    assert push["offset"] == 1
    await client.log.wait("pub", id=3)
    assert [event["offset"] for event in client.log.of("pub")] == [2, 3]


@pytest.mark.rule("api-subscribe-already-100")
async def test_subscribing_again_on_the_same_instance_is_error_100(connect, api_b, pair, fresh):
    client = await connect(to=pair.b, user="sub-8")
    channel = fresh("live")
    await client.subscribe(channel)

    with pytest.raises(ApiError) as raised:
        await api_b.call("subscribe", user="sub-8", channel=channel)

    assert raised.value.code == 100
    assert client.log.of("subscribe") == []


async def test_an_unsubscribe_ends_what_a_subscribe_began(connect, api_a, pair, fresh):
    client = await connect(to=pair.b, user="sub-10")
    channel = fresh("room")
    await api_a.call("subscribe", user="sub-10", channel=channel)
    await client.log.wait("subscribe", channel=channel)

    await api_a.call("unsubscribe", user="sub-10", channel=channel)

    assert (await client.log.wait("unsub", channel=channel))["code"] == 2000
    assert (await api_a.call("presence", channel=channel))["presence"] == {}


# refresh ----------------------------------------------------------------------------------------


@pytest.mark.rule("api-refresh-expired-3005", "cent-calls")
async def test_cent_expires_the_connections_of_a_user(pair, connect, kind):
    client = await connect(kind, to=pair.b, user="ref-1")
    other = await connect(to=pair.b, user="ref-2")

    async with cent.AsyncClient(f"{pair.a.url}/api", api_key=world.API_KEY) as api:
        await api.refresh(cent.RefreshRequest(user="ref-1", expired=True))

    if kind == "raw":
        told = await client.log.wait("close")
        assert (told["code"], told["reason"]) == (3005, "connection expired")
    else:
        await client.log.wait("connected", count=2)  # an SDK comes back with its token
    assert other.log.of("close") == []


@pytest.mark.rule("api-refresh-past-3005")
async def test_an_end_in_the_past_closes_at_once(connect, api_a, pair):
    client = await connect(to=pair.b, user="ref-3")

    await api_a.call("refresh", user="ref-3", expire_at=in_(-10))

    assert (await client.log.wait("close"))["code"] == 3005


@pytest.mark.rule("api-refresh-expire-at", "api-refresh-push", "push-refresh")
async def test_another_end_is_pushed(connect, api_a, pair):
    client = await connect(to=pair.b, user="ref-4", claims={"exp": in_(3600)})

    await api_a.call("refresh", user="ref-4", expire_at=0)
    endless = await client.log.wait("refresh")
    await api_a.call("refresh", user="ref-4", expire_at=in_(60))
    bounded = await client.log.wait("refresh", count=2)

    assert "expires" not in endless
    assert bounded["expires"] is True
    assert 55 < bounded["ttl"] <= 60


@pytest.mark.rule("api-refresh-info")
async def test_the_info_of_a_refresh_is_what_others_see(connect, api_a, api_b, pair, fresh):
    client = await connect(to=pair.b, user="ref-5", claims={"info": {"n": 1}})
    channel = fresh("stream")
    await client.subscribe(channel)

    await api_a.call("refresh", user="ref-5", info={"n": 2})

    await client.log.wait("refresh")
    await client.publish(channel, {"id": "m"})
    assert (await client.log.wait("pub", id="m"))["info"]["conn_info"] == {"n": 2}


async def test_a_refresh_may_be_for_one_client_alone(connect, api_a, pair):
    one, other = [await connect(to=pair.b, user="ref-6") for _ in range(2)]

    await api_a.call("refresh", user="ref-6", client=one.client_id, expired=True)
    await api_a.call("refresh", user="ref-6", session="of-nobody", expired=True)
    await api_a.call("refresh", user="ref-6", expire_at=0)

    await one.log.wait("close")
    await other.log.wait("refresh")
    assert other.log.of("close") == []
