"""How long a quiet channel keeps its offset and epoch: by its namespace, stored with the stream."""

import asyncio

import pytest
import redis

from realtime import services
from realtime.broker.acts import Retention
from realtime.redis_keys import of_channel
from realtime.snapshot import ChannelOptions, Snapshot

DEFAULT = 720 * 3600
LONG = Retention(size=100, ttl_seconds=60, meta_ttl_seconds=5000)
META = of_channel("news").meta

pytestmark = pytest.mark.rule("option-history-meta-ttl")


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server, protocol=2) as client:
        yield client


async def test_a_publish_says_how_long_offset_and_epoch_are_kept(stream, client):
    await stream.publish(retention=LONG)

    assert 4990 < client.ttl(META) <= 5000


@pytest.mark.rule("stream-metadata-renewed-by-reads")
async def test_a_read_keeps_them_as_long_as_the_publisher_said(stream, client):
    await stream.publish(retention=LONG)
    client.expire(META, 10)

    await stream.top()
    assert 4990 < client.ttl(META) <= 5000
    client.expire(META, 10)
    await stream.history()

    assert 4990 < client.ttl(META) <= 5000


@pytest.mark.rule("default-history-meta-ttl-720h")
async def test_without_a_word_of_a_publisher_it_is_the_default(stream, client):
    await stream.top()
    assert DEFAULT - 10 < client.ttl(META) <= DEFAULT

    await stream.publish()
    assert DEFAULT - 10 < client.ttl(META) <= DEFAULT


async def test_the_newest_publisher_is_right(stream, client):
    await stream.top()
    await stream.publish(retention=LONG)
    await stream.publish(retention=Retention(100, 60, 70))
    assert client.ttl(META) <= 70
    await stream.top()
    assert client.ttl(META) <= 70

    await stream.publish()

    await stream.top()
    assert client.ttl(META) > 5000


async def test_a_publication_without_history_changes_nothing(stream, client):
    await stream.publish(retention=LONG)
    client.expire(META, 10)

    await stream.publish(retention=Retention(meta_ttl_seconds=70))

    assert client.ttl(META) <= 10


@pytest.mark.rule("stream-metadata-outlives")
async def test_offsets_go_on_after_the_publications_have_lapsed_and_begin_anew_after_both(
    stream, client
):
    brief = Retention(size=100, ttl_seconds=1, meta_ttl_seconds=2)
    first = (await stream.publish(retention=brief)).position
    async with asyncio.timeout(5):
        while client.exists(of_channel("news").stream):
            await asyncio.sleep(0.05)

    second = (await stream.publish(retention=brief)).position
    async with asyncio.timeout(5):
        while client.exists(META):
            await asyncio.sleep(0.05)
    third = (await stream.publish(retention=brief)).position

    assert (second.offset, second.epoch) == (2, first.epoch)
    assert third.offset == 1
    assert third.epoch != first.epoch


async def test_the_option_of_a_namespace_reaches_the_stream(redis_server, client, monkeypatch):
    options = ChannelOptions(history_size=5, history_ttl=60, history_meta_ttl=5000)
    monkeypatch.setattr("realtime.reach._polled.get", lambda: Snapshot(1, {"kept": options}))

    await services.apublish("kept:a", 1)

    assert 4990 < client.ttl(of_channel("kept:a").meta) <= 5000
