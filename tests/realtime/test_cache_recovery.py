"""Channels of which only the newest publication matters. Source: cache recovery mode."""

import asyncio

import pytest
import redis

from realtime import services
from realtime.redis_keys import of_channel
from tests.realtime.client import token


@pytest.fixture
async def alice(connect):
    return await connect()


@pytest.fixture
def redis_client(redis_server):
    with redis.Redis.from_url(redis_server, protocol=2) as client:
        yield client


async def publish(channel, *numbers):
    for number in numbers:
        position = await services.apublish(channel, number)
    return position


def offsets_in(result):
    return [each["offset"] for each in result.get("publications", [])]


@pytest.mark.rule("cache-newest-alone", "option-force-recovery-mode")
async def test_who_comes_back_gets_the_newest_alone(alice):
    position = await publish("cache:a", 1, 2, 3, 4)

    result = await alice.call(
        "subscribe", channel="cache:a", recover=True, offset=1, epoch=position.epoch
    )

    assert result == {
        "recoverable": True,
        "positioned": True,
        "epoch": position.epoch,
        "offset": 1,
        "recovered": True,
        "was_recovering": True,
        "publications": [{"data": 4, "offset": 4}],
    }
    await publish("cache:a", 5)
    assert (await alice.push("pub"))["offset"] == 5


@pytest.mark.rule("cache-since-nothing")
async def test_who_asks_without_a_position_gets_the_newest(alice):
    await publish("cache:a", 1, 2)

    result = await alice.call("subscribe", channel="cache:a", recover=True)

    assert result["recovered"] is True
    assert offsets_in(result) == [2]


@pytest.mark.rule("cache-newest-alone")
@pytest.mark.parametrize("epoch", ["other", "_", ""])
async def test_a_position_of_another_life_gets_the_newest_as_well(alice, epoch):
    await publish("cache:a", 1, 2)

    result = await alice.call("subscribe", channel="cache:a", recover=True, offset=2, epoch=epoch)

    assert result["recovered"] is True
    assert offsets_in(result) == [2]


@pytest.mark.rule("cache-same-state")
async def test_who_has_the_newest_is_not_sent_it_again(alice):
    position = await publish("cache:a", 1, 2)

    result = await alice.call(
        "subscribe", channel="cache:a", recover=True, offset=2, epoch=position.epoch
    )

    assert result["recovered"] is True
    assert "publications" not in result
    assert result["offset"] == 2


@pytest.mark.rule("cache-no-entry")
async def test_where_nothing_is_kept_only_who_has_the_top_is_recovered(alice):
    position = await publish("cache:a", 1, 2)
    await services.ahistory_remove("cache:a")

    async def ask(offset, epoch=position.epoch):
        await alice.call("unsubscribe", channel="cache:a")
        return await alice.call(
            "subscribe", channel="cache:a", recover=True, offset=offset, epoch=epoch
        )

    assert (await ask(2))["recovered"] is True
    for result in (await ask(1), await ask(2, "other"), await ask(0)):
        assert "recovered" not in result
        assert "publications" not in result
        assert (result["offset"], result["was_recovering"]) == (2, True)


@pytest.mark.rule("cache-no-entry")
async def test_a_channel_that_nobody_has_published_to_recovers_nobody(alice):
    result = await alice.call("subscribe", channel="cache:a", recover=True)

    assert "recovered" not in result
    assert "offset" not in result


@pytest.mark.rule("cache-evicted")
async def test_an_older_publication_is_never_given_for_the_newest(alice, redis_client):
    await publish("cache:a", 1, 2, 3)
    redis_client.xdel(of_channel("cache:a").stream, "3-0")

    result = await alice.call("subscribe", channel="cache:a", recover=True, offset=1)

    assert "recovered" not in result
    assert "publications" not in result
    assert result["offset"] == 3


async def test_who_does_not_ask_gets_nothing_but_the_position(alice):
    position = await publish("cache:a", 1, 2)

    result = await alice.call("subscribe", channel="cache:a")

    assert result == {
        "recoverable": True,
        "positioned": True,
        "epoch": position.epoch,
        "offset": 2,
    }


@pytest.mark.rule("option-auto-cache-recover")
async def test_who_does_not_ask_gets_the_newest_where_the_option_says_so(alice):
    position = await publish("auto:a", 1, 2)

    result = await alice.call("subscribe", channel="auto:a")
    empty = await alice.call("subscribe", channel="auto:b")

    assert result["recovered"] is True
    assert result["epoch"] == position.epoch
    assert offsets_in(result) == [2]
    assert "recovered" not in empty
    await publish("auto:a", 3)
    assert (await alice.push("pub"))["offset"] == 3


@pytest.mark.rule("option-auto-cache-recover", "connect-subs-recover")
async def test_a_server_side_subscription_gets_the_newest_too(dial):
    await publish("auto:a", 1, 2)
    await publish("cache:b", 1, 2, 3)
    client = await dial()

    result = await client.connect(
        token("42", channels=["auto:a", "cache:b"]), subs={"cache:b": {"recover": True}}
    )

    assert offsets_in(result["subs"]["auto:a"]) == [2]
    assert offsets_in(result["subs"]["cache:b"]) == [3]


@pytest.mark.rule("option-auto-cache-recover")
async def test_a_subscribe_of_the_server_api_is_followed_by_the_newest(alice):
    position = await publish("auto:a", 1, 2)

    await services.asubscribe("42", "auto:a")

    push = await alice.push("subscribe", "auto:a")
    assert push["epoch"] == position.epoch
    assert (await alice.push("pub", "auto:a"))["offset"] == 2
    assert await alice.has_nothing()


@pytest.mark.rule("cache-last-of-buffered")
async def test_a_client_ends_at_the_newest_whatever_was_published_meanwhile(alice, hold_read):
    await publish("cache:a", 1, 2)
    held = hold_read("cache:a")
    await alice.send_commands({"id": 9, "subscribe": {"channel": "cache:a", "recover": True}})
    await held.until_answered()

    await publish("cache:a", 3, 4, 5)
    held.may_go.set()

    result = await alice.reply(9)
    assert offsets_in(result) == [2]
    assert [each["offset"] for each in await alice.publications(3)] == [3, 4, 5]
    assert await alice.has_nothing()


async def test_many_who_come_at_once_each_get_the_newest_alone(connect):
    position = await publish("cache:a", 1, 2, 3)
    clients = [await connect() for _ in range(5)]
    since = [{}, {"recover": True}, {"recover": True, "offset": 1}, {"recover": True, "offset": 3}]
    since.append({"recover": True, "offset": 3, "epoch": position.epoch})

    results = await asyncio.gather(
        *(
            client.call("subscribe", channel="cache:a", **asked)
            for client, asked in zip(clients, since, strict=True)
        )
    )

    assert [offsets_in(result) for result in results] == [[], [3], [3], [3], []]
    assert [result.get("recovered", False) for result in results] == [False, *[True] * 4]


async def test_a_cache_that_has_nothing_is_no_reason_to_refuse(connect):
    alice = await connect()

    result = await alice.call("subscribe", channel="cache:a", recover=True, flag=3)

    assert result["was_recovering"]
    assert not result.get("recovered")


async def test_who_gets_the_newest_unasked_goes_on_from_the_beginning(connect):
    await services.apublish("auto:a", 1)
    alice = await connect()

    result = await alice.call("subscribe", channel="auto:a", offset=77, epoch="other")

    assert "offset" not in result
    assert [publication["offset"] for publication in result["publications"]] == [1]
