"""Leases, watched channels and values that are kept, on a real Redis."""

import asyncio
import time

import msgspec
import pytest
import redis

from realtime import lease, redis_keys, services
from realtime.protocol.errors import NotAvailable, UnknownChannel
from tests.realtime.conftest import until, within

LONG_SECONDS = 60


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server, protocol=2) as client:
        yield client


@pytest.fixture
def take(servers):
    """Return a way to take the lease of a name."""

    async def take(owner, *, name="rates", seconds=LONG_SECONDS, marks=False):
        return await servers.run(lease.take(name, owner, ttl_seconds=seconds, marks=marks))

    return take


# Leases ------------------------------------------------------------------------------------------


async def test_a_lease_is_held_by_one(take):
    first = await take("a")

    assert first.is_held
    assert not (await take("b")).is_held
    assert (await take("b", name="other")).is_held


async def test_who_takes_again_keeps_its_fence(take, client):
    first = await take("a", seconds=1)

    again = await take("a", seconds=LONG_SECONDS)

    assert again.fence == first.fence
    _, key = redis_keys.lease("rates")
    assert float(client.hget(key, "until")) / 1000 > time.time() + LONG_SECONDS / 2


async def test_a_lease_that_lapsed_goes_to_the_next_with_a_higher_fence(take):
    first = await take("a", seconds=0.05)

    async def next_fence():
        while not (taken := await take("b")).is_held:
            await asyncio.sleep(0.01)
        return taken.fence

    assert await within(next_fence()) > first.fence
    assert not (await take("a")).is_held


async def test_a_lease_that_is_given_back_is_free_at_once(take, servers):
    first = await take("a")
    await servers.run(lease.give_back("rates", "b"))  # it is not b's to give
    assert not (await take("b")).is_held

    await servers.run(lease.give_back("rates", "a"))

    assert (await take("b")).fence > first.fence


async def test_a_fence_never_comes_again_though_redis_forgets(take, client):
    first = await take("a")
    client.flushall()
    # The clock has gone on since; a fence of before it would not be higher.
    await until(lambda: client.time()[0] > first.fence)

    assert (await take("b")).fence > first.fence


async def test_the_fence_is_higher_also_within_a_second(take, servers):
    fences = []
    for owner in ("a", "b", "a", "b"):
        fences.append((await take(owner)).fence)
        await servers.run(lease.give_back("rates", owner))

    assert fences == sorted(set(fences))


async def test_the_next_holder_knows_when_the_work_was_begun(take, servers):
    assert (await take("a", marks=True)).marked_seconds_ago is None
    assert 0 <= (await take("a")).marked_seconds_ago < LONG_SECONDS
    await servers.run(lease.give_back("rates", "a"))

    assert 0 <= (await take("b")).marked_seconds_ago < LONG_SECONDS


async def test_leases_are_given_back_together(take):
    await take("a", name="one")
    await take("a", name="other")

    await services.agive_back_leases([("one", "a"), ("other", "a")])

    assert (await take("b", name="one")).is_held
    assert (await take("b", name="other")).is_held


def test_a_lease_has_no_key_of_a_channel():
    group, key = redis_keys.lease("news")

    assert group not in redis_keys.of_channel("news")
    assert key not in redis_keys.of_channel("news")
    assert key.startswith(f"rt:{{{group}}}:")


# Watched channels --------------------------------------------------------------------------------


async def test_a_channel_is_watched_while_somebody_is_subscribed_anywhere(engine, connect):
    alice = await connect()
    await alice.call("subscribe", channel="open:a")

    assert await services.awatched(["open:a", "open:b"]) == [True, False]

    await alice.leave()
    async with asyncio.timeout(10):
        while await services.awatched(["open:a"]) != [False]:
            await asyncio.sleep(0.05)


async def test_nothing_is_known_of_a_server_that_does_not_answer(valkey):
    valkey.freeze()

    assert await services.awatched(["open:a"]) == [None]

    valkey.thaw()


# Values that are kept ----------------------------------------------------------------------------


async def test_the_newest_publication_is_read_and_lives_on(engine, client):
    for number in range(3):
        await services.apublish("open:a", {"n": number})
    stream = redis_keys.of_channel("open:a").stream
    client.expire(stream, 5)

    kept = await services.akeep("open:a")

    assert msgspec.json.decode(kept.data) == {"n": 2}
    assert client.ttl(stream) > 30


async def test_there_may_be_nothing_to_keep(engine):
    assert await services.akeep("open:a") is None
    with pytest.raises(NotAvailable):
        await services.akeep("live:a")
    with pytest.raises(UnknownChannel):
        await services.akeep("nowhere:a")
