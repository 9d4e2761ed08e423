import asyncio

import pytest
import redis
from msgspec import Raw

from realtime.presence import Member
from realtime.protocol import codec
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import ClientInfo, PresenceStatsResult
from realtime.redis_keys import of_channel

KEYS = of_channel("news")


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server, protocol=2) as client:
        yield client


def member(client, user="42", channel="news", **infos):
    return Member(channel, ClientInfo(user, client, **infos))


async def counts(presence, channel="news"):
    stats = await presence.stats(channel)
    return stats.num_clients, stats.num_users


async def gone(presence, channel="news"):
    """Wait until nobody is present."""
    async with asyncio.timeout(4):
        while await presence.members(channel):
            await asyncio.sleep(0.05)


async def test_an_entry_is_seen_once_it_is_added_and_until_it_is_removed(presence):
    await presence.add(member("c1"))
    assert (await presence.members("news")).keys() == {"c1"}

    await presence.remove("news", "c1")

    assert await presence.members("news") == {}
    assert await counts(presence) == (0, 0)


async def test_nobody_is_present_in_an_unknown_channel(presence):
    assert await presence.members("news") == {}
    assert await presence.stats("news") == PresenceStatsResult(0, 0)


@pytest.mark.rule("info-chan-info")
async def test_an_entry_says_who_it_is(presence):
    info = ClientInfo("42", "c1", conn_info=Raw(b'{"a": 1.0}'), chan_info=Raw(b'"x"'))

    await presence.add(Member("news", info))

    (found,) = (await presence.members("news")).values()
    assert codec.encode_info(found) == codec.encode_info(info)


@pytest.mark.parametrize("user", ["", "7", "7:", "a:b", "é😀", '"}', "1" * 500, "{}", "\n"])
async def test_any_user_is_counted_and_read_back(presence, user):
    await presence.add(member("c1", user))

    assert (await presence.members("news"))["c1"].user == user
    assert await counts(presence) == (1, 1)


@pytest.mark.rule(
    "presence-per-connection", "presence-users-distinct", "presence-anonymous-is-a-user"
)
async def test_users_are_counted_once_however_many_clients_they_have(presence):
    for client, user in (("c1", "1"), ("c2", "1"), ("c3", "11"), ("c4", ""), ("c5", "")):
        await presence.add(member(client, user))

    assert await counts(presence) == (5, 3)


async def test_adding_again_renews_and_does_not_double(presence):
    for info in (Raw(b"1"), Raw(b"2")):
        await presence.add(member("c1", conn_info=info))

    (found,) = (await presence.members("news")).values()
    assert bytes(found.conn_info) == b"2"
    assert await counts(presence) == (1, 1)


async def test_channels_are_apart(presence):
    await presence.add(member("c1", channel="one"))

    await presence.remove("two", "c1")

    assert await counts(presence, "one") == (1, 1)
    assert await counts(presence, "two") == (0, 0)


async def test_removing_who_is_not_there_does_nothing(presence):
    await presence.add(member("c1"))

    await presence.remove("news", "c2")

    assert await counts(presence) == (1, 1)


@pytest.mark.rule("presence-lapses")
async def test_an_entry_lapses_unless_it_is_renewed(presence, configure):
    configure(PRESENCE_TTL_SECONDS=1)
    await presence.add(member("crashed"))
    configure(PRESENCE_TTL_SECONDS=60)
    await presence.add(member("alive"))

    async with asyncio.timeout(4):
        while await counts(presence) != (1, 1):
            await asyncio.sleep(0.05)

    assert (await presence.members("news")).keys() == {"alive"}


async def test_a_renewal_prolongs_an_entrys_life(presence, configure, client):
    configure(PRESENCE_TTL_SECONDS=2)
    await presence.add(member("c1"))
    configure(PRESENCE_TTL_SECONDS=60)

    assert await presence.renew([member("c1")]) == [None]

    score = client.zscore(KEYS.presence_expiry, "c1")
    assert score >= client.time()[0] + 58
    assert client.ttl(KEYS.presence) > 55


async def test_the_keys_of_a_channel_that_everybody_left_behind_lapse(presence, configure, client):
    configure(PRESENCE_TTL_SECONDS=1)
    await presence.add(member("c1"))

    await gone(presence)

    async with asyncio.timeout(4):
        while client.dbsize():
            await asyncio.sleep(0.05)


async def test_what_lapsed_does_not_pile_up_in_a_channel_that_nobody_reads(
    presence, configure, client
):
    configure(PRESENCE_TTL_SECONDS=1)
    for number in range(5):
        await presence.add(member(f"crashed {number}"))
    configure(PRESENCE_TTL_SECONDS=60)

    async with asyncio.timeout(4):
        while client.hlen(KEYS.presence) != 1:
            await presence.add(member("alive"))
            await asyncio.sleep(0.2)

    assert client.hkeys(KEYS.presence) == [b"alive"]


async def test_thousands_may_lapse_at_once(presence, configure, client):
    configure(PRESENCE_TTL_SECONDS=1)
    await presence.renew([member(str(number)) for number in range(2500)])
    configure(PRESENCE_TTL_SECONDS=60)
    await presence.add(member("alive"))

    async with asyncio.timeout(4):
        while await counts(presence) != (1, 1):
            await asyncio.sleep(0.05)

    assert client.zcard(KEYS.presence_expiry) == 1


async def test_many_are_renewed_and_removed_together(presence):
    members = [member(f"c{number}", channel=f"room{number % 3}") for number in range(30)]

    outcomes = await presence.renew(members)
    assert outcomes == [None] * 30
    assert await counts(presence, "room0") == (10, 1)
    outcomes = await presence.remove_many([(each.channel, each.info.client) for each in members])

    assert outcomes == [None] * 30
    assert await counts(presence, "room0") == (0, 0)


async def test_a_stopped_server_is_named_as_such(valkey, presence):
    valkey.stop()

    with pytest.raises(BrokerUnavailable):
        await presence.add(member("c1"))
    assert all(isinstance(each, BrokerUnavailable) for each in await presence.renew([member("c")]))
