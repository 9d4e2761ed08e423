"""Subscriptions and publications across two instances, as each kind of client sees them."""

import json
import time

import pytest

from tests.support.raw_client import CommandError
from tests.support.servers import token

pytestmark = pytest.mark.end_to_end


async def refusal(call) -> int:
    with pytest.raises(CommandError) as raised:
        await call
    return raised.value.code


# Delivery ------------------------------------------------------------------------------------


@pytest.mark.rule("publish-info", "live-unpositioned-has-offset")
@pytest.mark.parametrize("namespace", ["stream", "live", "loose"])
async def test_a_publication_reaches_both_instances(pair, connect, fresh, kind, namespace) -> None:
    here, there = await connect(kind, to=pair.a), await connect(kind, to=pair.b)
    channel = fresh(namespace)
    await here.subscribed(channel)
    await there.subscribed(channel)

    await here.publish(channel, {"id": "one", "n": 1})

    for client in (here, there):
        seen = await client.log.wait("pub")
        assert seen["data"] == {"id": "one", "n": 1}
        assert seen["info"]["user"] == "ada"
        assert seen["info"]["client"] == here.client_id
        assert seen["offset"] == (0 if namespace == "live" else 1)


@pytest.mark.rule("order-by-offset")
async def test_publications_arrive_in_order(pair, connect, fresh, kind) -> None:
    publisher, client = await connect("raw", to=pair.a), await connect(kind, to=pair.b)
    channel = fresh("stream")
    await client.subscribed(channel)

    await publisher.send_commands(
        *({"publish": {"channel": channel, "data": {"id": n}}} for n in range(200))
    )

    await client.log.wait("pub", count=200)
    assert [e["id"] for e in client.log.published(channel)] == list(range(200))
    assert [e["offset"] for e in client.log.published(channel)] == list(range(1, 201))


PAYLOADS = [
    "1.0",
    "12345678901234567890",
    "-0",
    '{"b":1,"a":2,"b":3}',
    '"\\u00e9\\/\\ud83d\\ude00"',
    "[true,false]",
    '""',
    "0",
    "false",
    '{ "spaced" : [ 1 , 2 ] }',
]


@pytest.mark.rule("payload-raw-json", "payload-bytes-kept")
@pytest.mark.parametrize("payload", PAYLOADS)
async def test_the_publishers_bytes_arrive_untouched(connect, fresh, payload) -> None:
    client = await connect()
    channel = fresh("stream")
    await client.subscribe(channel)

    await client.send_text(f'{{"id":77,"publish":{{"channel":"{channel}","data":{payload}}}}}')

    await client.log.wait("pub")
    (frame,) = [e["text"] for e in client.log.of("frame", direction="in") if '"pub"' in e["text"]]
    assert f'"data":{payload}' in frame


@pytest.mark.rule("payload-newlines-removed")
async def test_line_breaks_in_a_payload_do_not_break_the_framing(connect, api_a, fresh) -> None:
    client = await connect()
    channel = fresh("stream")
    await client.subscribe(channel)

    await api_a.post("publish", f'{{"channel":"{channel}","data":{{\n "a":\r\n [1,\n2]}}}}')

    assert (await client.log.wait("pub"))["data"] == {"a": [1, 2]}


@pytest.mark.rule("order-subscribe-reply-first")
async def test_the_answer_precedes_what_is_delivered(pair, connect, fresh) -> None:
    publisher = await connect(to=pair.b)
    for _ in range(20):
        channel = fresh("live")
        client = await connect()
        await client.send_commands({"subscribe": {"channel": channel}})
        await publisher.publish(channel, 1)
        await client.log.wait("subscribed")
        kinds = [e["event"] for e in client.log.events if e["event"] in ("subscribed", "pub")]
        assert kinds[0] == "subscribed"


@pytest.mark.rule("order-nothing-after-unsubscribe")
async def test_nothing_follows_the_answer_to_an_unsubscribe(pair, connect, fresh) -> None:
    publisher, client, witness = await connect(to=pair.b), await connect(), await connect()
    channel = fresh("stream")
    await client.subscribe(channel)
    await witness.subscribe(channel)

    await publisher.send_commands(*({"publish": {"channel": channel, "data": 1}},) * 1)
    for n in range(50):
        await publisher.send_commands({"publish": {"channel": channel, "data": n}})
        if n == 25:
            await client.unsubscribe(channel)
    await witness.log.wait("pub", count=51)

    kinds = [e["event"] for e in client.log.events if e["event"] in ("unsubscribed", "pub")]
    assert kinds[-1] == "unsubscribed"


@pytest.mark.rule("order-resubscribe-at-once")
async def test_an_unsubscribed_client_can_come_back(connect, fresh, kind) -> None:
    client = await connect(kind)
    channel = fresh("live")
    await client.subscribed(channel)
    await client.unsubscribe(channel)

    await client.subscribed(channel)
    await client.publish(channel, {"id": "back"})

    assert (await client.log.wait("pub"))["id"] == "back"


@pytest.mark.rule("unsubscribe-nothing-ok")
async def test_unsubscribing_from_nothing_succeeds(connect, fresh) -> None:
    client = await connect()

    assert await client.unsubscribe(fresh("stream")) == {}


# What the answer says ------------------------------------------------------------------------


@pytest.mark.rule("option-force-recovery")
async def test_a_forced_stream_is_recoverable_from_its_empty_start(connect, fresh, kind) -> None:
    client = await connect(kind)

    seen = await client.subscribed(fresh("stream"))

    assert (seen["offset"], seen["recovered"], seen["was_recovering"]) == (0, False, False)
    assert len(seen["epoch"]) > 0


@pytest.mark.rule("subscribe-flags-told")
async def test_the_answer_carries_flags_and_position(connect, fresh) -> None:
    client = await connect()

    result = await client.subscribe(fresh("stream"))

    assert result.pop("epoch")
    assert result.pop("offset", 0) == 0
    assert result == {"recoverable": True, "positioned": True}


@pytest.mark.rule(
    "recoverable-implies-positioned",
    "wish-positioned-by-option",
    "wish-recoverable-by-option",
    "wish-refused-silently",
)
@pytest.mark.parametrize("wish", ["positioned", "recoverable"])
async def test_a_wish_is_granted_where_the_namespace_allows_it(connect, fresh, wish) -> None:
    client = await connect()

    without = await client.subscribe(fresh("wish"))
    granted = await client.subscribe(fresh("wish"), **{wish: True})
    refused = await client.subscribe(fresh("live"), **{wish: True})

    assert wish not in without
    assert granted["positioned"] is True
    assert granted.get("recoverable", False) is (wish == "recoverable")
    assert "positioned" not in refused


# Who may -------------------------------------------------------------------------------------


@pytest.mark.rule(
    "subscribe-namespace-102",
    "subscribe-non-ascii-107",
    "subscribe-else-103",
    "publish-namespace-102",
    "publish-else-103",
    "presence-off-108",
    "history-off-108",
    "history-else-103",
)
async def test_what_is_not_allowed_is_refused_with_its_code(connect, fresh) -> None:
    client = await connect()

    assert await refusal(client.subscribe("nowhere:x")) == 102
    assert await refusal(client.publish("nowhere:x", 1)) == 102
    assert await refusal(client.subscribe(fresh("closed"))) == 103
    assert await refusal(client.publish(fresh("closed"), 1)) == 103
    assert await refusal(client.history(fresh("live"), limit=1)) == 108
    assert await refusal(client.history(fresh("loose"), limit=1)) == 103
    assert await refusal(client.presence(fresh("live"))) == 108
    assert await refusal(client.subscribe("stream:" + "x" * 249)) == 107
    assert await refusal(client.subscribe("stream:\u00e9")) == 107


@pytest.mark.rule("error-ends-sdk-subscription")
async def test_a_refused_subscription_ends_an_sdks_subscription(connect, fresh, sdk) -> None:
    client = await connect(sdk)
    channel = fresh("closed")

    await client.subscribe(channel)

    assert (await client.log.wait("unsub", channel=channel))["code"] == 103


@pytest.mark.rule("subscribe-name-255-bytes")
async def test_the_longest_channel_name_works(connect) -> None:
    client = await connect()

    assert (await client.subscribe("stream:" + "x" * 248))["positioned"]


@pytest.mark.rule("subscribe-again-105")
async def test_a_channel_can_be_subscribed_to_once(connect, fresh) -> None:
    client = await connect()
    channel = fresh("stream")
    await client.subscribe(channel)

    assert await refusal(client.subscribe(channel)) == 105


@pytest.mark.rule("subscribe-limit-106", "default-channel-limit-128")
async def test_a_connection_has_a_limit_of_channels(connect, fresh) -> None:
    client = await connect()
    prefix = fresh("live")
    numbers = await client.send_commands(
        *({"subscribe": {"channel": f"{prefix}-{n}"}} for n in range(128))
    )
    for number in numbers:
        await client.reply(number)

    assert await refusal(client.subscribe(f"{prefix}-128")) == 106


@pytest.mark.rule("channel-missing-3501")
@pytest.mark.parametrize(
    "method",
    ["subscribe", "unsubscribe", "publish", "presence", "presence_stats", "history"],
)
async def test_a_command_without_a_channel_ends_the_connection(connect, method) -> None:
    client = await connect()

    await client.send_commands({method: {}})

    assert (await client.closed())["code"] == 3501


@pytest.mark.rule("publish-for-subscriber", "presence-for-subscriber", "history-for-subscriber")
async def test_a_subscriber_may_where_others_may_not(connect, fresh) -> None:
    client = await connect()
    channel = fresh("member")
    assert await refusal(client.publish(channel, 1)) == 103
    assert await refusal(client.presence(channel)) == 103
    assert await refusal(client.history(channel)) == 103

    await client.subscribe(channel)

    assert await client.publish(channel, 1) == {}
    assert list(await client.presence(channel)) == [client.client_id]
    assert (await client.history(channel, limit=1))["publications"][0]["data"] == 1


@pytest.mark.rule("subscribe-user-limited-listed", "subscribe-user-limited-others-103")
async def test_only_the_named_users_enter_a_user_limited_channel(connect, fresh) -> None:
    channel = f"{fresh('limited')}#7,ada"
    ada, eve = await connect(user="ada"), await connect(user="eve")

    await ada.subscribe(channel)

    assert await refusal(eve.subscribe(channel)) == 103


@pytest.mark.rule("publish-no-data-107", "publish-format-107", "option-format-json-object")
async def test_a_namespace_can_demand_objects(connect, fresh) -> None:
    client = await connect()
    channel = fresh("object")

    assert await client.publish(channel, {"a": 1}) == {}
    for data in (1, "text", [1], None):
        assert await refusal(client.publish(channel, data)) == 107


@pytest.mark.rule("subscribe-token-allows")
async def test_a_subscription_token_opens_a_private_channel(connect, fresh, kind) -> None:
    client = await connect(kind)
    channel = f"${fresh('closed')}"

    await client.subscribed(channel, token=token("ada", channel=channel))

    assert client.log.of("subscribed", channel=channel)


@pytest.mark.rule(
    "subscribe-private-103", "subscribe-token-expired-109", "subscribe-token-invalid-103"
)
async def test_a_subscription_token_is_good_for_its_purpose_alone(connect, fresh) -> None:
    client = await connect()
    channel = f"${fresh('closed')}"

    async def with_token(text: str) -> int:
        return await refusal(client.subscribe(channel, token=text))

    assert await refusal(client.subscribe(channel)) == 103
    assert await with_token("nonsense") == 103
    assert await with_token(token("ada")) in (103, 3500)
    assert await with_token(token("ada", channel=channel, exp=int(time.time()) - 60)) == 109


@pytest.mark.rule("subscribe-token-channel-3500", "subscribe-token-user-3500")
@pytest.mark.parametrize("claims", [{"sub": "eve"}, {"channel": "$closed:other"}])
async def test_a_token_of_another_user_or_channel_ends_the_connection(
    connect, fresh, claims
) -> None:
    client = await connect()
    channel = f"${fresh('closed')}"
    given = {"sub": "ada", "channel": channel, **claims}

    await client.send_commands(
        {"subscribe": {"channel": channel, "token": token(given.pop("sub"), **given)}}
    )

    assert (await client.closed())["code"] == 3500


@pytest.mark.on_the_ends
async def test_a_subscription_token_made_by_the_command_works(pair, connect, fresh) -> None:
    channel = f"${fresh('closed')}"
    made = pair.manage("token", "--user", "ada", "--channel", channel).split()[-1]
    client = await connect()

    await client.subscribe(channel, token=made)

    assert client.log.of("subscribed", channel=channel)


@pytest.mark.on_the_ends
async def test_a_connection_token_made_by_the_command_carries_its_info(
    pair, client_of, fresh
) -> None:
    made = pair.manage("token", "--user", "42", "--info", '{"name":"Al"}').split()[-1]
    client = await client_of("raw", pair.a.websocket_url)
    channel = fresh("room")

    await client.connect(made)
    await client.subscribe(channel)

    (entry,) = (await client.presence(channel)).values()
    assert (entry["user"], entry["conn_info"]) == ("42", {"name": "Al"})


# Zero values ---------------------------------------------------------------------------------


@pytest.mark.rule("zero-presence", "zero-presence-stats", "zero-history")
async def test_fields_that_must_be_there_are_there_when_they_are_zero(connect, fresh) -> None:
    client = await connect()
    channel = fresh("stream")

    await client.presence(channel)
    await client.presence_stats(channel)
    await client.history(channel)

    frames = [json.loads(e["text"]) for e in client.log.of("frame", direction="in")[-3:]]
    assert frames[0]["presence"] == {"presence": {}}
    assert frames[1]["presence_stats"] == {"num_clients": 0, "num_users": 0}
    assert frames[2]["history"]["publications"] == []
    assert frames[2]["history"]["offset"] == 0
    assert frames[2]["history"]["epoch"]
