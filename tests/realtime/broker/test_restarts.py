"""Epochs across restarts of Redis: what its files kept is still good, what they lost is told."""

import asyncio

import pytest
import redis

from realtime.protocol.messages import StreamPosition
from realtime.recovery import recover
from realtime.redis_keys import of_channel
from tests.realtime.conftest import until

pytestmark = pytest.mark.usefixtures("valkey")


def recovered(since, history):
    return recover(since, history, limit=300)


def offsets_of(recovery):
    return [publication.offset for publication in recovery.publications]


def synced_bytes(valkey):
    """Return how long the append-only file is when everything written so far is in it."""
    with redis.Redis.from_url(valkey.url) as client:
        client.execute_command("WAITAOF", 1, 0, 2000)
    return valkey.log_bytes()


async def restart(valkey):
    # In a thread, so that the loop sees its connections end.
    await asyncio.to_thread(valkey.stop)
    await asyncio.to_thread(valkey.start)


async def crash(valkey, *, kept_bytes):
    """Restart without what was written to the file after ``kept_bytes``."""
    await asyncio.to_thread(valkey.kill)
    valkey.truncate_log(kept_bytes)
    await asyncio.to_thread(valkey.start)


@pytest.mark.rule("stream-restart-new-epoch")
async def test_a_restart_on_the_same_data_begins_a_new_epoch_and_goes_on_counting(valkey, stream):
    before = await stream.fill(3)

    await restart(valkey)
    top = await stream.top()

    assert top.position.offset == 3
    assert top.position.epoch != before.epoch
    assert top.previous == before
    assert (await stream.publish()).position == StreamPosition(4, top.position.epoch)


async def test_the_epoch_changes_once_for_each_start(valkey, stream):
    await stream.fill(1)
    await restart(valkey)

    epochs = {(await stream.top()).position.epoch for _ in range(3)}
    epochs.add((await stream.publish()).position.epoch)

    assert len(epochs) == 1


async def test_a_publish_may_be_the_first_to_notice_the_restart(valkey, stream):
    before = await stream.fill(3)
    await restart(valkey)

    published = await stream.publish()

    assert published.position.offset == 4
    assert published.position.epoch != before.epoch
    assert (await stream.top()).previous == before


@pytest.mark.rule("stream-restart-new-epoch")
async def test_a_position_before_the_restart_recovers_under_the_new_epoch(valkey, stream):
    before = await stream.fill(3)
    await restart(valkey)
    await stream.publish(4)

    history = await stream.history()

    assert offsets_of(recovered(StreamPosition(1, before.epoch), history)) == [2, 3, 4]
    assert offsets_of(recovered(before, history)) == [4]


async def test_two_restarts_leave_no_way_back_to_the_first_epoch(valkey, stream):
    before = await stream.fill(3)
    await restart(valkey)
    between = (await stream.top()).position
    await restart(valkey)

    history = await stream.history()

    assert not recovered(before, history).is_recovered
    assert recovered(between, history).is_recovered


async def test_a_restart_that_nobody_noticed_before_the_next_one_counts_as_one(valkey, stream):
    before = await stream.fill(3)
    await restart(valkey)
    await restart(valkey)

    assert recovered(before, await stream.history()).is_recovered


async def test_what_the_files_lost_is_not_recovered_and_its_offset_not_issued_again(valkey, stream):
    kept = await stream.fill(3)
    kept_bytes = synced_bytes(valkey)
    lost = (await stream.publish(4)).position
    synced_bytes(valkey)

    await crash(valkey, kept_bytes=kept_bytes)
    again = (await stream.publish(5)).position
    history = await stream.history()

    assert again.offset == lost.offset == 4
    assert again.epoch != lost.epoch  # so that nobody takes the one for the other
    assert history.previous == kept
    assert not recovered(lost, history).is_recovered
    assert offsets_of(recovered(StreamPosition(2, kept.epoch), history)) == [3, 4]


async def test_half_a_publication_at_the_end_of_the_file_is_none(valkey, stream):
    await stream.fill(3)
    kept_bytes = synced_bytes(valkey)
    await stream.publish(4)
    whole_bytes = synced_bytes(valkey)

    await crash(valkey, kept_bytes=(kept_bytes + whole_bytes) // 2)
    top = await stream.top()

    assert top.position.offset == top.previous.offset == 3
    assert await stream.offsets() == [1, 2, 3]


async def test_a_witness_of_the_loss_forbids_recovery_across_it(valkey, stream):
    kept = await stream.fill(3)
    kept_bytes = synced_bytes(valkey)
    lost = (await stream.publish(4)).position
    synced_bytes(valkey)
    await crash(valkey, kept_bytes=kept_bytes)

    top = await stream.top(witness=lost)

    assert top.previous == StreamPosition()
    history = await stream.history()
    assert not recovered(kept, history).is_recovered
    assert not recovered(StreamPosition(1, kept.epoch), history).is_recovered


@pytest.mark.parametrize("offset", [2, 3])
async def test_a_position_that_the_files_kept_is_no_witness(valkey, stream, offset):
    kept = await stream.fill(3)
    await restart(valkey)

    top = await stream.top(witness=StreamPosition(offset, kept.epoch))

    assert top.previous == kept


async def test_a_position_of_the_present_epoch_is_no_witness(valkey, stream):
    before = await stream.fill(3)
    await restart(valkey)
    present = (await stream.publish()).position

    top = await stream.top(witness=StreamPosition(present.offset + 5, present.epoch))

    assert top.previous == before


async def test_a_witness_counts_also_when_it_is_the_first_to_ask(valkey, stream, broker):
    await stream.fill(3)
    kept_bytes = synced_bytes(valkey)
    lost = (await stream.publish(4)).position
    synced_bytes(valkey)
    await crash(valkey, kept_bytes=kept_bytes)

    newest = await broker.newest("news", after_offset=0, limit=9, witness=lost)

    assert newest.previous == StreamPosition()


async def test_a_witness_of_an_epoch_that_was_lost_altogether_forbids_recovery_across_it(
    valkey, stream
):
    # Redis starts, is published to, and loses even the start of its new epoch.
    kept = await stream.fill(3)
    await restart(valkey)
    kept_bytes = synced_bytes(valkey)
    lost = (await stream.publish(4)).position
    synced_bytes(valkey)
    await crash(valkey, kept_bytes=kept_bytes)
    assert lost.epoch != kept.epoch

    top = await stream.top(witness=lost)

    assert not recovered(kept, await stream.history()).is_recovered
    assert top.previous == StreamPosition()


async def test_metadata_that_was_lost_in_a_restart_is_a_new_life(valkey, stream):
    before = await stream.fill(3)
    with redis.Redis.from_url(valkey.url) as client:
        client.delete(of_channel("news").meta)
    await restart(valkey)

    history = await stream.history()

    assert (history.position.offset, list(history.publications)) == (0, [])
    assert history.previous == StreamPosition()
    assert not recovered(before, history).is_recovered


async def test_an_idempotency_key_outlives_a_restart(valkey, stream):
    first = await stream.publish(1, idempotency_key="k")
    await restart(valkey)

    repeat = await stream.publish(1, idempotency_key="k")

    assert (repeat.outcome, repeat.position) == ("repeated", first.position)
    assert await stream.offsets() == [1]


async def test_a_version_outlives_a_restart(valkey, stream):
    await stream.publish(1, version=5)
    await restart(valkey)

    assert (await stream.publish(2, version=5)).outcome == "superseded"


async def test_the_servers_connections_heal_by_themselves(valkey, stream, layer):
    heard = []
    await layer.listen(of_channel("news").group, heard.append)
    await stream.fill(1)

    await restart(valkey)
    await until(lambda: layer.is_linked)
    await stream.publish()

    await until(lambda: len(heard) == 2)
