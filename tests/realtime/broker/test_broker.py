import asyncio
import string
import time

import pytest
import redis
from msgspec import Raw

from realtime.broker import acts
from realtime.broker.acts import Published, Retention
from realtime.layers import JOIN, LEAVE, PUBLICATION, decode_message
from realtime.protocol import codec
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import UINT64_MAX, ClientInfo, StreamPosition
from realtime.redis_keys import of_channel
from tests.realtime.broker.conftest import KEPT, Stream
from tests.realtime.conftest import once_redis_is_back, until

KEYS = of_channel("news")


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server, protocol=2) as client:
        yield client


@pytest.fixture
async def heard(layer):
    """Return what the layer carries for the channel."""
    heard = []
    await layer.listen(KEYS.group, lambda data: heard.append(decode_message(data)))
    return heard


# Publish ---------------------------------------------------------------------------------------


@pytest.mark.rule("stream-offsets-from-1")
async def test_offsets_count_from_one_within_one_epoch(stream):
    published = [await stream.publish() for _ in range(3)]

    assert [each.position.offset for each in published] == [1, 2, 3]
    assert len({each.position.epoch for each in published}) == 1
    assert {each.outcome for each in published} == {"stored"}


@pytest.mark.rule("publish-atomic", "publish-carries-position")
async def test_what_is_published_is_in_the_stream_and_on_the_layer(stream, heard):
    position = (await stream.publish(7)).position

    await until(lambda: heard)
    (message,) = heard
    assert (message.type, message.offset, message.epoch) == (PUBLICATION, *position)
    assert bytes(codec.decode_publication(message.body).data) == b"7"
    (kept,) = (await stream.history()).publications
    assert bytes(kept.data) == b"7"
    assert kept.offset == 1


async def test_bytes_beyond_ascii_survive_stream_and_layer(stream, heard):
    await stream.publish('"é\U0001f600\u2028\\u0000"')

    await until(lambda: heard)
    (kept,) = (await stream.history()).publications
    carried = codec.decode_publication(heard[0].body)
    assert bytes(kept.data) == bytes(carried.data) == '"é\U0001f600\u2028\\u0000"'.encode()


@pytest.mark.rule("stream-offsets-from-1", "publish-atomic")
async def test_concurrent_publishers_never_share_an_offset(stream, heard):
    published = await asyncio.gather(*(stream.publish(n) for n in range(60)))

    assert sorted(each.position.offset for each in published) == list(range(1, 61))
    await until(lambda: len(heard) == 60)
    assert [message.offset for message in heard] == list(range(1, 61))


async def test_two_channels_have_nothing_in_common(broker):
    one, other = Stream(broker, "one"), Stream(broker, "other")
    await one.fill(2)

    published = await other.publish()

    assert published.position.offset == 1
    assert published.position.epoch != (await one.top()).position.epoch


async def test_a_channel_without_history_keeps_nothing_and_still_publishes(stream, heard, client):
    published = await stream.publish(retention=Retention())

    assert published == Published(StreamPosition(0, ""), "sent")
    await until(lambda: heard)
    assert (heard[0].offset, heard[0].epoch) == (0, "")
    assert client.dbsize() == 0


@pytest.mark.rule("option-history-both")
@pytest.mark.parametrize("retention", [Retention(10, 0), Retention(0, 10)])
async def test_history_needs_a_size_and_a_time(stream, retention):
    assert (await stream.publish(retention=retention)).outcome == "sent"


@pytest.mark.rule("publish-skip-history")
async def test_skipped_publications_leave_no_hole_in_the_offsets(stream):
    await stream.publish()
    await stream.publish(retention=Retention())

    assert (await stream.publish()).position.offset == 2
    assert await stream.offsets() == [1, 2]


@pytest.mark.rule("option-history-size", "stream-size-kept")
async def test_the_oldest_publications_are_trimmed_exactly(stream):
    for number in range(1, 8):
        await stream.publish(number, retention=Retention(size=3, ttl_seconds=60))

    assert await stream.offsets() == [5, 6, 7]
    assert (await stream.top()).position.offset == 7


@pytest.mark.rule("stream-size-kept")
async def test_a_smaller_history_takes_effect_with_the_next_publication(stream):
    await stream.fill(10)

    await stream.publish(retention=Retention(size=2, ttl_seconds=60))

    assert await stream.offsets() == [10, 11]


@pytest.mark.rule("stream-ttl-after-last", "stream-metadata-outlives")
async def test_every_key_lapses_and_metadata_later_than_entries(stream, client, configure):
    configure(HISTORY_META_TTL_SECONDS=1000, IDEMPOTENCY_TTL_SECONDS=30)

    await stream.publish(idempotency_key="k")

    ttls = {key.decode(): client.ttl(key) for key in client.scan_iter()}
    assert ttls.keys() == {KEYS.stream, KEYS.meta, KEYS.idempotency_prefix + "k"}
    assert 55 <= ttls[KEYS.stream] <= 60
    assert 995 <= ttls[KEYS.meta] <= 1000
    assert 25 <= ttls[KEYS.idempotency_prefix + "k"] <= 30


@pytest.mark.rule("option-history-ttl", "stream-ttl-after-last", "stream-metadata-outlives")
async def test_entries_lapse_and_offset_and_epoch_stay(stream):
    first = (await stream.publish(retention=Retention(10, 1))).position

    async with asyncio.timeout(3):
        while await stream.offsets():
            await asyncio.sleep(0.05)

    assert (await stream.top()).position == first
    assert (await stream.publish()).position == StreamPosition(2, first.epoch)


@pytest.mark.rule("option-history-ttl")
async def test_a_publication_prolongs_the_life_of_all_entries(stream, client):
    await stream.publish()
    client.expire(KEYS.stream, 5)

    await stream.publish()

    assert client.ttl(KEYS.stream) > 50


@pytest.mark.rule("stream-metadata-renewed-by-reads")
async def test_reads_prolong_the_life_of_the_metadata(stream, client):
    await stream.publish()
    client.expire(KEYS.meta, 5)

    await stream.top()

    assert client.ttl(KEYS.meta) > 1000


@pytest.mark.rule("stream-epoch-8-letters", "sentinel-never-an-epoch")
async def test_an_epoch_is_eight_letters_and_never_the_sentinel():
    epochs = {acts.new_epoch() for _ in range(100)}

    assert len(epochs) == 100
    assert all(len(each) == 8 and set(each) <= set(string.ascii_letters) for each in epochs)


# Idempotency -----------------------------------------------------------------------------------


@pytest.mark.rule("idempotency-original-position", "idempotency-publishes-nothing")
async def test_a_repeat_returns_the_first_position_and_publishes_nothing(stream, heard):
    first = await stream.publish(1, idempotency_key="k")
    await stream.publish(2)

    repeat = await stream.publish(3, idempotency_key="k")

    assert repeat == Published(first.position, "repeated")
    assert await stream.offsets() == [1, 2]
    await until(lambda: len(heard) == 2)


@pytest.mark.rule("idempotency-per-channel")
async def test_the_same_key_in_another_channel_is_another_key(broker):
    await Stream(broker, "one").publish(idempotency_key="k")

    published = await Stream(broker, "other").publish(idempotency_key="k")

    assert published.outcome == "stored"


@pytest.mark.rule("idempotency-without-history")
async def test_a_key_works_without_history_as_well(stream, heard):
    outcomes = [
        (await stream.publish(retention=Retention(), idempotency_key="k")).outcome for _ in range(2)
    ]

    assert outcomes == ["sent", "repeated"]
    await until(lambda: heard)
    assert len(heard) == 1


@pytest.mark.rule("idempotency-publishes-nothing")
async def test_concurrent_repeats_store_one(stream):
    published = await asyncio.gather(*(stream.publish(idempotency_key="k") for _ in range(20)))

    assert {each.position.offset for each in published} == {1}
    assert sorted(each.outcome for each in published)[-1] == "stored"
    assert await stream.offsets() == [1]


@pytest.mark.rule("idempotency-lapses")
async def test_a_key_lapses(stream, configure):
    configure(IDEMPOTENCY_TTL_SECONDS=1)
    await stream.publish(idempotency_key="k")

    async with asyncio.timeout(3):
        while (await stream.publish(idempotency_key="k")).outcome == "repeated":
            await asyncio.sleep(0.05)

    assert await stream.offsets() == [1, 2]


async def test_no_key_is_not_a_key(stream):
    assert [(await stream.publish()).outcome for _ in range(2)] == ["stored", "stored"]


# Versions --------------------------------------------------------------------------------------


async def versions(stream, *given):
    return [
        (await stream.publish(version=version, version_epoch=epoch)).outcome
        for version, epoch in given
    ]


@pytest.mark.rule("version-older-dropped")
async def test_a_version_that_is_not_newer_is_dropped(stream, heard):
    outcomes = await versions(stream, (2, ""), (2, ""), (1, ""), (3, ""))

    assert outcomes == ["stored", "superseded", "superseded", "stored"]
    await until(lambda: len(heard) == 2)
    assert await stream.offsets() == [1, 2]


@pytest.mark.rule("version-dropped-position")
async def test_a_dropped_version_is_told_the_current_position(stream):
    current = (await stream.publish(version=5)).position

    assert (await stream.publish(version=4)).position == current


@pytest.mark.rule("version-other-epoch")
async def test_another_version_epoch_begins_anew(stream):
    outcomes = await versions(stream, (9, "a"), (1, "b"), (1, "b"), (2, "b"))

    assert outcomes == ["stored", "stored", "superseded", "stored"]


@pytest.mark.rule("version-empty-epoch")
async def test_an_empty_version_epoch_stands_for_any(stream):
    assert await versions(stream, (9, "a"), (9, "")) == ["stored", "superseded"]


@pytest.mark.rule("version-zero-always")
async def test_no_version_is_always_published(stream):
    assert await versions(stream, (9, ""), (0, ""), (9, "")) == ["stored", "stored", "superseded"]


@pytest.mark.rule("version-64-bits")
async def test_versions_of_64_bits_are_compared_exactly(stream):
    outcomes = await versions(
        stream, (2**53, ""), (2**53 + 1, ""), (2**53 + 1, ""), (UINT64_MAX - 1, ""), (10, "")
    )
    assert outcomes == ["stored", "stored", "superseded", "stored", "superseded"]

    assert await versions(stream, (UINT64_MAX, ""), (UINT64_MAX, "")) == ["stored", "superseded"]


@pytest.mark.rule("version-needs-history")
async def test_a_version_means_nothing_without_history(stream):
    for version in (2, 1):
        published = await stream.publish(version=version, retention=Retention())

        assert published.outcome == "sent"


# Read ------------------------------------------------------------------------------------------


@pytest.mark.rule("stream-top-zero", "stream-read-makes-epoch")
async def test_reading_makes_the_metadata_of_an_unknown_channel(stream):
    top = (await stream.top()).position

    assert top.offset == 0
    assert top.epoch
    assert (await stream.top()).position == top
    assert (await stream.publish()).position == StreamPosition(1, top.epoch)


@pytest.mark.rule("history-since-forward")
async def test_history_goes_forward_from_a_position(stream):
    top = await stream.fill(5)

    assert await stream.offsets() == [1, 2, 3, 4, 5]
    assert await stream.offsets(limit=2) == [1, 2]
    assert await stream.offsets(since=StreamPosition(2)) == [3, 4, 5]
    assert await stream.offsets(since=StreamPosition(2), limit=2) == [3, 4]
    assert await stream.offsets(since=StreamPosition(5)) == []
    assert (await stream.history(since=StreamPosition(2), limit=1)).position == top


@pytest.mark.rule("history-since-reverse")
async def test_history_goes_back_from_a_position(stream):
    await stream.fill(5)

    assert await stream.offsets(reverse=True) == [5, 4, 3, 2, 1]
    assert await stream.offsets(reverse=True, limit=2) == [5, 4]
    assert await stream.offsets(reverse=True, since=StreamPosition(4)) == [3, 2, 1]
    assert await stream.offsets(reverse=True, since=StreamPosition(4), limit=1) == [3]
    assert await stream.offsets(reverse=True, since=StreamPosition(1)) == []
    assert await stream.offsets(reverse=True, since=StreamPosition(99)) == [5, 4, 3, 2, 1]


async def test_a_limit_of_zero_reads_the_top_alone(stream):
    top = await stream.fill(3)

    history = await stream.history(limit=0)

    assert (list(history.publications), history.position) == ([], top)


@pytest.mark.parametrize("offset", [10**9, UINT64_MAX - 1, UINT64_MAX])
@pytest.mark.parametrize("reverse", [False, True])
async def test_any_offset_of_64_bits_can_be_read_from(stream, offset, reverse):
    await stream.fill(1)

    offsets = await stream.offsets(since=StreamPosition(offset), reverse=reverse)

    assert offsets == ([1] if reverse else [])


async def test_the_newest_are_read_oldest_first(stream, broker):
    await stream.fill(5)

    newest = await broker.newest("news", after_offset=0, limit=2)
    after = await broker.newest("news", after_offset=4, limit=3)

    assert [each.offset for each in newest.publications] == [4, 5]
    assert [each.offset for each in after.publications] == [5]


@pytest.mark.rule("stream-remove-keeps-position")
async def test_removed_history_leaves_offset_and_epoch(stream, broker):
    top = await stream.fill(3)

    await broker.remove("news")

    assert await stream.offsets() == []
    assert (await stream.top()).position == top
    assert (await stream.publish()).position == StreamPosition(4, top.epoch)


@pytest.mark.rule("stream-lost-metadata-new-epoch")
async def test_lost_metadata_is_a_new_epoch_and_the_old_entries_are_gone(stream, client):
    before = await stream.fill(3)
    client.delete(KEYS.meta)

    top = (await stream.top()).position

    assert top.offset == 0
    assert top.epoch != before.epoch
    assert await stream.offsets() == []


@pytest.mark.rule("stream-lost-metadata-new-epoch")
async def test_a_publish_after_lost_metadata_begins_at_one(stream, client):
    before = await stream.fill(3)
    client.delete(KEYS.meta)

    published = await stream.publish(9)

    assert published.position.offset == 1
    assert published.position.epoch != before.epoch
    history = await stream.history()
    assert [bytes(each.data) for each in history.publications] == [b"9"]
    assert not history.continues(before)


async def test_tops_of_many_channels_are_read_together(broker):
    await Stream(broker, "one").fill(1)
    await Stream(broker, "two").fill(2)

    tops = await broker.tops(
        [("two", StreamPosition()), ("one", StreamPosition()), ("none", StreamPosition())]
    )

    assert [top.position.offset for top in tops] == [2, 1, 0]


@pytest.mark.rule("join-not-kept")
async def test_joins_and_leaves_are_carried_and_not_kept(broker, heard, client):
    info = ClientInfo("42", "c1", conn_info=Raw(b'{"a": 1}'))

    await broker.join("news", info)
    await broker.leave("news", info)

    await until(lambda: len(heard) == 2)
    assert [message.type for message in heard] == [JOIN, LEAVE]
    assert codec.encode_info(codec.decode_info(heard[0].body)) == codec.encode_info(info)
    assert {(message.offset, message.epoch) for message in heard} == {(0, "")}
    assert client.dbsize() == 0


# Batches and failures --------------------------------------------------------------------------


async def test_a_batch_is_published_in_order_and_each_has_its_outcome(servers):
    batch = [acts.publish("news", b'{"data":%d}' % n, retention=KEPT) for n in range(50)]

    outcomes = await servers.run_many(batch)

    assert [each.position.offset for each in outcomes] == list(range(1, 51))


async def test_a_batch_works_on_a_server_that_knows_no_script_yet(broker, servers, client):
    batch = [acts.publish("news", b'{"data":%d}' % n, retention=KEPT) for n in range(5)]
    client.script_flush()

    outcomes = await servers.run_many(batch)

    assert [each.position.offset for each in outcomes] == [1, 2, 3, 4, 5]
    kept = await broker.history("news", since=None, limit=-1, reverse=False)
    assert [bytes(each.data) for each in kept.publications] == [b"0", b"1", b"2", b"3", b"4"]


async def test_one_channel_that_fails_does_not_fail_the_batch(servers, client):
    client.set(of_channel("broken").meta, "not a hash")
    batch = [acts.publish(name, b'{"data":1}', retention=KEPT) for name in ("a", "broken", "b")]

    outcomes = await servers.run_many(batch)

    assert isinstance(outcomes[1], BrokerUnavailable)
    assert [outcomes[index].position.offset for index in (0, 2)] == [1, 1]


@pytest.mark.rule("redis-away-100")
async def test_a_publish_that_fails_is_an_error_and_not_an_acknowledgement(stream, client):
    client.set(KEYS.meta, "not a hash")

    with pytest.raises(BrokerUnavailable):
        await stream.publish()


async def test_a_frozen_server_is_given_up_in_time_and_answers_are_never_mixed_up(
    valkey, broker, servers
):
    one, two = Stream(broker, "one"), Stream(broker, "two")
    await one.fill(1)
    await two.fill(2)
    valkey.freeze()
    started_at = time.monotonic()

    outcomes = await asyncio.gather(
        *(one.top() for _ in range(3)), one.publish(), return_exceptions=True
    )
    took_seconds = time.monotonic() - started_at
    valkey.thaw()

    assert all(isinstance(each, BrokerUnavailable) for each in outcomes)
    assert took_seconds < 2
    # A connection with an answer under way must not give it to the next question.
    tops = [await once_redis_is_back(two.top) for _ in range(10)]
    assert [top.position.offset for top in tops] == [2] * 10
