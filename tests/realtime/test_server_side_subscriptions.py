"""What a connection is subscribed to by its token: made with connect, or not at all."""

import asyncio
from types import SimpleNamespace

import pytest
import redis

from realtime import services
from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_keys import of_channel
from tests.realtime.client import CommandError, token
from tests.realtime.conftest import until, within
from tests.realtime.test_commands import closes, in_seconds, refused

SIZE = 10_000


@pytest.fixture
def with_subs(dial):
    """Return a way to connect user 42 with a token that names channels."""

    async def with_subs(*channels, subs=None, asked=None):
        client = await dial()
        claims = {"channels": list(channels)} if subs is None else {"subs": subs}
        fields = {} if asked is None else {"subs": asked}
        client.result = await client.connect(token("42", **claims), **fields)
        return client

    return with_subs


@pytest.fixture
def redis_client(redis_server):
    with redis.Redis.from_url(redis_server, protocol=2) as client:
        yield client


def connect_command(*channels, asked=None):
    command = {"token": token("42", channels=list(channels))}
    return {"id": 1, "connect": command if asked is None else {**command, "subs": asked}}


def offsets_of(publications):
    return [publication["offset"] for publication in publications]


async def publish(channel, *numbers):
    for number in numbers:
        position = await services.apublish(channel, {"n": number})
    return position


# The reply -------------------------------------------------------------------------------------


@pytest.mark.rule("connect-result-subs", "connect-subs-shape", "claim-channels")
async def test_the_channels_of_a_token_come_with_the_reply(with_subs):
    position = await publish("open:a", 1, 2)

    client = await with_subs("open:a", "live:b")

    assert client.result["subs"] == {
        "open:a": {
            "recoverable": True,
            "positioned": True,
            "epoch": position.epoch,
            "offset": 2,
        },
        "live:b": {},
    }
    await publish("open:a", 3)
    await publish("live:b", 4)
    assert (await client.push("pub", "open:a")) == {"data": {"n": 3}, "offset": 3}
    assert (await client.push("pub", "live:b")) == {"data": {"n": 4}}


@pytest.mark.rule("claim-subs-need-no-permission")
@pytest.mark.parametrize("channel", ["closed:a", "$closed:a", "limited:a#7", "plain", "regex:Ü-1"])
async def test_the_token_is_the_permission(with_subs, channel):
    client = await with_subs(channel)

    await services.apublish(channel, 1)

    assert (await client.push("pub", channel))["data"] == 1


@pytest.mark.rule("claim-subs-info", "claim-subs-data", "presence-server-side-counts")
async def test_info_is_for_others_and_data_for_the_client(with_subs, connect):
    subs = {"open:a": {"info": {"role": "clerk"}, "data": {"title": 7}}, "closed:b": None}
    client = await with_subs(subs=subs)
    other = await connect("43")

    present = await other.call("presence", channel="open:a")
    stats = await other.call("presence_stats", channel="open:a")

    assert present["presence"][client.id]["chan_info"] == {"role": "clerk"}
    assert stats == {"num_clients": 1, "num_users": 1}
    assert client.result["subs"]["open:a"]["data"] == {"title": 7}
    assert "data" not in client.result["subs"]["closed:b"]
    await client.leave()
    assert (await other.call("presence", channel="open:a"))["presence"] == {}


@pytest.mark.rule("claim-subs-override")
async def test_an_override_changes_options_for_its_subscription_alone(with_subs, engine):
    off = {"override": {"force_recovery": {"value": False}, "presence": {"value": False}}}
    on = {"override": {"force_positioning": {"value": True}, "presence": {"value": True}}}

    client = await with_subs(subs={"open:a": off, "open:b": {}, "live:c": on})

    subs = client.result["subs"]
    assert subs["open:a"] == {}
    assert subs["open:b"]["recoverable"] is True
    assert subs["live:c"]["positioned"] is True
    assert "recoverable" not in subs["live:c"]
    assert await engine.presence.members("open:a") == {}
    assert (await engine.presence.members("live:c")).keys() == {client.id}


@pytest.mark.rule("connect-subs-shape")
async def test_the_client_makes_no_wishes(with_subs):
    asked = {"wish:a": {"recover": True, "recoverable": True, "positioned": True}}

    client = await with_subs("wish:a", asked=asked)

    assert client.result["subs"] == {"wish:a": {"was_recovering": True}}


async def test_a_client_cannot_ask_for_more_channels_than_its_token_names(with_subs, engine):
    asked = {"open:a": {}, "open:b": {"recover": True}, "nowhere:c": {}}

    client = await with_subs("open:a", asked=asked)

    assert client.result["subs"].keys() == {"open:a"}
    assert engine.hub.client_counts("") == {"open:a": 1}


@pytest.mark.rule("order-connect-reply-first", "join-after-connect-reply")
async def test_ones_own_join_follows_the_reply(with_subs):
    client = await with_subs("room:a", "all:b")

    joins = [await client.push("join", channel) for channel in ("room:a", "all:b")]

    assert {join["info"]["client"] for join in joins} == {client.id}
    assert "connect" in client.log[0]


# Recovery --------------------------------------------------------------------------------------


@pytest.mark.rule("connect-subs-recover", "connect-subs-shape")
async def test_a_client_that_comes_back_gets_what_it_missed(with_subs):
    position = await publish("open:a", 1, 2, 3)
    asked = {"open:a": {"recover": True, "offset": 1, "epoch": position.epoch}}

    client = await with_subs("open:a", asked=asked)

    assert client.result["subs"]["open:a"] == {
        "recoverable": True,
        "positioned": True,
        "epoch": position.epoch,
        "offset": 1,
        "recovered": True,
        "was_recovering": True,
        "publications": [{"data": {"n": 2}, "offset": 2}, {"data": {"n": 3}, "offset": 3}],
    }
    await publish("open:a", 4)
    assert (await client.push("pub"))["offset"] == 4


@pytest.mark.parametrize("flag", [0, 2])
async def test_who_cannot_recover_starts_at_the_top_whatever_it_says(with_subs, flag):
    position = await publish("open:a", 1, 2, 3)
    asked = {"open:a": {"recover": True, "offset": 1, "epoch": "other", "flag": flag}}

    client = await with_subs("open:a", asked=asked)

    assert client.result["subs"]["open:a"] == {
        "recoverable": True,
        "positioned": True,
        "epoch": position.epoch,
        "offset": 3,
        "was_recovering": True,
    }


@pytest.mark.rule("recover-bytes")
async def test_all_recoveries_of_a_reply_share_one_allowance(with_subs, configure):
    configure(QUEUE_MAX_BYTES=10 * SIZE)
    channels = [f"open:{name}" for name in "abc"]
    for channel in channels:
        await services.apublish(channel, "x" * SIZE)
        await services.apublish(channel, "y" * SIZE)

    client = await with_subs(*channels, asked={channel: {"recover": True} for channel in channels})

    subs = client.result["subs"]
    assert [subs[channel].get("recovered", False) for channel in channels] == [True, True, False]
    assert [len(subs[channel].get("publications", [])) for channel in channels] == [2, 2, 0]
    assert subs["open:c"]["offset"] == 2
    for channel in channels:
        await services.apublish(channel, 3)
        assert (await client.push("pub", channel))["offset"] == 3


async def test_an_offset_beyond_64_bits_is_a_malformed_frame(dial):
    client = await dial()

    await client.send_commands(
        connect_command("open:a", asked={"open:a": {"recover": True, "offset": 2**64}})
    )

    assert await closes(client)


# Races -----------------------------------------------------------------------------------------


@pytest.mark.rule("order-connect-reply-first", "order-by-offset", "order-no-duplicates")
@pytest.mark.parametrize("recovers", [False, True])
async def test_what_is_published_during_the_connect_follows_the_reply(dial, hold_read, recovers):
    await publish("open:a", 1, 2)
    held = hold_read("open:a")
    client = await dial()
    asked = {"open:a": {"recover": True, "offset": 1}} if recovers else {}

    await client.send_commands(connect_command("open:a", "live:b", asked=asked))
    await held.until_answered()
    await publish("open:a", 3, 4, 5)
    await publish("live:b", 6)
    held.may_go.set()

    sub = (await client.reply(1))["subs"]["open:a"]
    await publish("open:a", 7)
    followed = [await client.push("pub", "open:a") for _ in range(4)]
    assert offsets_of(sub.get("publications", [])) == ([2] if recovers else [])
    assert sub["offset"] == (1 if recovers else 2)
    assert offsets_of(followed) == [3, 4, 5, 6]
    assert (await client.push("pub", "live:b"))["data"] == {"n": 6}
    assert await client.has_nothing()
    assert "connect" in client.log[0]


async def test_a_channel_that_waits_for_another_loses_nothing_meanwhile(dial, hold_read):
    held = hold_read("open:slow")
    client = await dial()
    await client.send_commands(connect_command("open:quick", "open:slow"))
    await held.until_answered()

    for _ in range(20):  # more than is kept for a subscription that waits
        await services.apublish("open:quick", "x" * 60_000)
    held.may_go.set()

    sub = (await client.reply(1))["subs"]["open:quick"]
    await services.apublish("open:quick", "last")
    first = sub.get("offset", 0) + 1
    received = [await client.push("pub", "open:quick") for _ in range(first, 22)]
    assert offsets_of(received) == list(range(first, 22))


async def test_a_channel_that_waits_for_another_follows_its_stream_into_a_new_epoch(
    dial, hold_read, redis_client
):
    old = await publish("open:quick", 1, 2, 3)
    held = hold_read("open:slow")
    client = await dial()
    await client.send_commands(connect_command("open:quick", "open:slow"))
    await held.until_answered()

    keys = of_channel("open:quick")
    redis_client.delete(keys.meta, keys.stream)
    new = await publish("open:quick", 4, 5)
    held.may_go.set()

    sub = (await client.reply(1))["subs"]["open:quick"]
    assert old.epoch != new.epoch == sub["epoch"]
    first = sub.get("offset", 0) + 1
    await publish("open:quick", 6)
    received = [await client.push("pub", "open:quick") for _ in range(first, 4)]
    assert offsets_of(received) == list(range(first, 4))


async def test_a_stream_that_is_rewritten_again_and_again_closes_with_3010(
    dial, engine, monkeypatch
):
    monkeypatch.setattr(type(engine.hub), "is_current", lambda *_: False)
    client = await dial()

    await client.send_commands(connect_command("open:a", "open:b", "room:c"))

    assert await closes(client, code=3010)
    for channel in ("open:a", "open:b", "room:c"):
        assert await engine.presence.members(channel) == {}
    assert engine.hub.client_counts("") == {}


@pytest.mark.rule("order-connect-reply-first")
async def test_what_the_server_api_says_during_the_connect_follows_the_reply(dial, hold_read):
    held = hold_read("open:a")
    client = await dial()
    await client.send_commands(connect_command("open:a"))
    await held.until_answered()

    await services.arefresh("42", expire_at=in_seconds(100))
    await services.asubscribe("42", "live:b")
    await services.aunsubscribe("42", "live:c")
    await asyncio.sleep(0.05)
    held.may_go.set()

    await client.reply(1)
    assert (await client.push("refresh"))["expires"] is True
    await client.push("subscribe", "live:b")
    await client.push("unsubscribe", "live:c")
    assert "connect" in client.log[0]


async def test_who_leaves_in_the_middle_leaves_no_trace(dial, engine, hold_read):
    held = hold_read("all:a")
    client = await dial()
    await client.send_commands(connect_command("all:a", "room:b"))
    await held.until_answered()

    leaving = asyncio.create_task(client.leave())
    held.may_go.set()
    await within(leaving)

    await until(lambda: engine.hub.client_counts("") == {})
    for channel in ("all:a", "room:b"):
        assert await engine.presence.members(channel) == {}
    assert len(engine.connections) == 0


# All or nothing --------------------------------------------------------------------------------


@pytest.fixture
def fail_read(engine, monkeypatch):
    """Return a way to have the reads of a channel fail."""

    def fail_read(channel):
        read = engine.reads.read

        async def failing(name, **options):
            if name == channel:
                raise BrokerUnavailable("no answer in time")
            return await read(name, **options)

        monkeypatch.setattr(engine.reads, "read", failing)

    return fail_read


@pytest.mark.rule("connect-subs-all-or-nothing")
async def test_one_channel_that_fails_undoes_all_the_others(connect, dial, engine, fail_read):
    observer = await connect("43")
    await observer.call("subscribe", channel="room:a")
    await observer.push("join")
    fail_read("open:b")
    client = await dial()

    with pytest.raises(CommandError) as outcome:
        await client.connect(token("42", channels=["all:c", "room:a", "open:b", "live:d"]))

    assert outcome.value.error == {
        "code": 100,
        "message": "internal server error",
        "temporary": True,
    }
    assert engine.hub.client_counts("") == {"room:a": 1}
    for channel in ("all:c", "open:b"):
        assert await engine.presence.members(channel) == {}
    assert (await engine.presence.members("room:a")).keys() == {observer.id}
    await services.apublish("room:a", 1)
    assert (await observer.push("pub"))["data"] == 1
    assert await observer.has_nothing()
    assert await client.has_nothing()


@pytest.mark.rule("connect-subs-all-or-nothing")
async def test_a_presence_that_is_written_late_is_taken_back_too(
    dial, engine, fail_read, monkeypatch
):
    add = engine.presence.add

    async def add_slowly(member):
        async def on_its_way():
            await asyncio.sleep(0.05)
            await add(member)

        await asyncio.shield(asyncio.create_task(on_its_way()))

    monkeypatch.setattr(engine.presence, "add", add_slowly)
    fail_read("position:b")
    client = await dial()

    with pytest.raises(CommandError):
        await client.connect(token("42", channels=["room:a", "position:b"]))

    await asyncio.sleep(0.1)
    assert await engine.presence.members("room:a") == {}


async def test_a_connection_that_was_refused_is_subscribed_to_nothing(
    dial, engine, hold_read, fail_read, monkeypatch
):
    monkeypatch.setattr("realtime.session.REFUSED_CLOSE_SECONDS", 0.5)
    held = hold_read("open:a")
    fail_read("open:b")
    client = await dial()
    await client.send_commands(connect_command("open:a", "open:b"))
    await held.until_answered()
    await services.asubscribe("42", "all:c")
    await services.arefresh("42", expire_at=in_seconds(1000))
    await services.aunsubscribe("42", "live:d")
    await asyncio.sleep(0.05)

    held.may_go.set()

    with pytest.raises(CommandError):
        await client.reply(1)
    assert await client.has_nothing()
    assert engine.hub.client_counts("") == {}
    assert await engine.presence.members("all:c") == {}
    assert await closes(client, code=3000)


@pytest.mark.rule("connect-subs-all-or-nothing")
async def test_without_redis_nobody_is_half_connected(valkey, dial, engine):
    await asyncio.to_thread(valkey.stop)
    client = await dial()

    assert await refused(client, "connect", token=token("42", channels=["all:a", "live:b"])) == 100

    assert engine.hub.client_counts("") == {}
    assert len(engine.connections) == 0


# While it lasts --------------------------------------------------------------------------------


@pytest.mark.rule("subscribe-again-server-side-105")
async def test_subscribing_again_is_error_105(with_subs):
    client = await with_subs("open:a")

    assert await refused(client, "subscribe", channel="open:a") == 105


@pytest.mark.rule("unsubscribe-server-side")
async def test_a_client_may_unsubscribe_from_what_the_server_made(with_subs, engine):
    client = await with_subs("open:a", "open:b")

    assert await client.call("unsubscribe", channel="open:a") == {}

    await publish("open:a", 1)
    await publish("open:b", 2)
    assert (await client.push("pub"))["data"] == {"n": 2}
    assert await client.has_nothing()
    assert await engine.presence.members("open:a") == {}
    assert await client.call("subscribe", channel="open:a")


async def test_server_side_subscriptions_count_to_the_channel_limit(with_subs, configure):
    configure(CHANNEL_LIMIT=2)
    client = await with_subs("open:a", "open:b")

    assert await refused(client, "subscribe", channel="open:c") == 106


@pytest.mark.rule("sub-refresh-server-side-3501")
async def test_a_server_side_subscription_is_not_refreshed_by_the_client(with_subs):
    client = await with_subs("open:a")

    await client.send_commands(
        {"id": 9, "sub_refresh": {"channel": "open:a", "token": token("42", channel="open:a")}}
    )

    assert await closes(client)


@pytest.mark.rule("live-lost-server-side-3010")
async def test_a_lost_position_closes_with_3010(with_subs, connect, redis_client):
    await publish("open:a", 1, 2)
    client, other = await with_subs("open:a"), await connect("43")
    await other.call("subscribe", channel="open:a")

    keys = of_channel("open:a")
    redis_client.delete(keys.meta, keys.stream)
    await publish("open:a", 3)

    assert await closes(client, code=3010)
    assert (await other.push("unsubscribe", "open:a"))["code"] == 2500


async def test_a_lost_channel_without_position_closes_nobody(with_subs, redis_client):
    client = await with_subs("closed:a")
    await publish("closed:a", 1)
    await client.push("pub")

    keys = of_channel("closed:a")
    redis_client.delete(keys.meta, keys.stream)
    await publish("closed:a", 2)

    assert (await client.push("pub"))["data"] == {"n": 2}


@pytest.mark.rule("sub-expiry-server-side-3006")
async def test_an_expired_server_side_subscription_closes_with_3006(connect, engine, monkeypatch):
    client = await connect()
    expire_at = in_seconds(1000)
    await services.asubscribe("42", "open:a", expire_at=expire_at)
    await client.push("subscribe", "open:a")
    clock = SimpleNamespace(time=lambda: expire_at + 24.9)
    monkeypatch.setattr("realtime.subscriptions.time", clock)
    (session,) = engine.connections.find("42")

    session.check_subscriptions()
    assert await client.has_nothing()
    clock.time = lambda: expire_at + 25.1
    session.check_subscriptions()

    assert await closes(client, code=3006)
    await client.leave()
    assert engine.hub.client_counts("") == {}


async def test_a_connection_with_many_channels_connects_in_one_reply(with_subs, engine):
    channels = [f"all:{number}" for number in range(100)]
    for channel in channels[::10]:
        await publish(channel, 1)
    client = await with_subs(*channels)

    assert list(client.result["subs"]) == channels
    await client.leave()
    assert engine.hub.client_counts("") == {}
