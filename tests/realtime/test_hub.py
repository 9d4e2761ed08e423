"""The hub on a real layer and broker: nothing lost, nothing doubled, in order, or told."""

import asyncio
import random

import pytest
import redis

from realtime import arrivals, hub
from realtime.broker.acts import Retention
from realtime.broker.reads import SharedReads
from realtime.hub import Hub
from realtime.protocol.errors import BrokerUnavailable, UnrecoverablePosition
from realtime.protocol.messages import StreamPosition
from realtime.redis_client import group_address
from realtime.redis_keys import of_channel
from tests.realtime.conftest import until, within
from tests.realtime.subscribers import Link, Parts, PausedBroker, Subscriber

KEYS = of_channel("news")
NO_HISTORY = Retention()


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server, protocol=2) as client:
        yield client


@pytest.fixture
async def parts(layer, servers, presence):
    broker = PausedBroker(servers)
    reads = SharedReads(broker, limit=300)
    made = Parts(layer, broker, presence, Hub(layer, broker, check_seconds=0.0), reads)
    yield made
    await made.hub.close()


@pytest.fixture
def subscriber(parts):
    count = 0

    def subscriber(channel="news", **options):
        nonlocal count
        count += 1
        return Subscriber(parts, channel, number=count, **options)

    return subscriber


@pytest.fixture
def link(layer):
    """Return the layer's side of a channel that somebody is subscribed to."""
    return lambda channel="news": Link(layer, of_channel(channel).group)


def break_links(client):
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


def subscribed_count(client):
    return client.pubsub_numsub(group_address(KEYS.group))[0][1]


# Joining ---------------------------------------------------------------------------------------


@pytest.mark.rule("subscribe-position-told", "live-next-delivered", "recover-no-wish-top")
async def test_what_is_published_after_the_reply_is_delivered_in_order(parts, subscriber):
    await parts.publish_range(1, 2)
    alice = await subscriber().subscribe()

    await parts.publish_range(3, 20)

    await alice.has(*range(3, 21))
    assert alice.result.offset == 2


@pytest.mark.rule("live-unpositioned-has-offset")
async def test_every_subscription_of_a_channel_gets_every_publication_once(parts, subscriber):
    everybody = [await subscriber().subscribe() for _ in range(5)]
    everybody += [await subscriber(is_positioned=False).subscribe() for _ in range(5)]

    await parts.publish_range(1, 10)

    for each in everybody:
        await each.has(*range(1, 11))


async def test_channels_do_not_mix(parts, subscriber):
    news = await subscriber("news").subscribe()
    chat = await subscriber("chat").subscribe()

    await parts.publish("n", channel="news")
    await parts.publish("c", channel="chat")

    await until(lambda: news.data == ["n"] and chat.data == ["c"])


@pytest.mark.rule("push-pub-no-offset")
async def test_a_channel_without_history_is_delivered_without_offsets(parts, subscriber):
    alice = await subscriber(is_positioned=False).subscribe()

    for number in (1, 2, 2):
        await parts.publish(number, retention=NO_HISTORY)

    await until(lambda: alice.data == [1, 2, 2])
    assert alice.offsets == [0, 0, 0]


@pytest.mark.rule("publish-skip-history-positioned")
async def test_a_publication_that_skips_history_moves_no_position(parts, subscriber):
    alice = await subscriber().subscribe()

    await parts.publish(1)
    await parts.publish("skipped", retention=NO_HISTORY)
    await parts.publish(2)

    await until(lambda: alice.data == [1, "skipped", 2])
    assert alice.told == []


@pytest.mark.rule("order-held-until-reply", "recover-listen-first")
async def test_a_publication_between_the_acknowledgement_and_the_read_is_delivered_once(
    parts, subscriber, link
):
    parts.broker.gate.clear()
    joining = asyncio.create_task(subscriber().subscribe())
    await until(lambda: parts.broker.read_count == 1)

    await parts.publish_range(1, 3)
    parts.broker.gate.set()

    alice = await within(joining)
    await alice.has(1, 2, 3)
    assert alice.result.offset == 0


@pytest.mark.rule("live-known-dropped")
async def test_a_read_that_is_ahead_of_the_link_gives_nothing_twice(parts, subscriber, link):
    await subscriber().subscribe()
    line = link()
    line.hold()
    await parts.publish_range(1, 3)
    await line.holds(3)
    parts.doubt()

    alice = await subscriber().subscribe()
    line.release()
    await parts.publish(4)

    await alice.has(4)
    assert alice.result.offset == 3


async def test_a_read_ahead_of_a_link_that_then_loses_messages_misses_nothing(
    parts, subscriber, link
):
    first = await subscriber().subscribe()
    line = link()
    line.hold()
    await parts.publish_range(1, 3)
    await line.holds(3)
    parts.doubt()
    second = await subscriber().subscribe()

    line.lose()
    await parts.publish(4)

    await first.has(1, 2, 3, 4)
    await second.has(4)


@pytest.mark.rule("live-unpositioned-loses-nothing")
async def test_a_joiner_ahead_of_the_link_takes_nothing_from_who_has_no_position(
    parts, subscriber, link
):
    bob = await subscriber(is_positioned=False).subscribe()
    line = link()
    line.hold()
    await parts.publish_range(1, 2)
    await line.holds(2)
    parts.doubt()

    alice = await subscriber().subscribe()  # the first one with a position; its read gives 2
    line.release()
    await parts.publish(3)

    await alice.has(3)
    await bob.has(1, 2, 3)


@pytest.mark.rule("recover-was-recovering")
async def test_who_recovers_gets_what_it_missed_and_then_what_comes(parts, subscriber):
    alice = await subscriber().subscribe()
    await parts.publish(1)
    await alice.has(1)
    alice.leave()
    await parts.publish_range(2, 4)

    again = await subscriber().subscribe(since=alice.position)
    await parts.publish(5)

    await again.has(2, 3, 4, 5)
    assert again.result.recovered
    assert again.result.was_recovering
    assert again.result.offset == 1


@pytest.mark.rule("recover-buffered-follows")
async def test_publications_during_a_recovery_are_in_the_reply_or_after_it_never_both(
    parts, subscriber
):
    await parts.publish_range(1, 5)
    parts.broker.gate.clear()
    joining = asyncio.create_task(subscriber().subscribe(since=StreamPosition(2)))
    await until(lambda: parts.broker.read_count == 1)
    await parts.publish_range(6, 8)
    parts.broker.gate.set()

    alice = await within(joining)

    await alice.has(*range(3, 9))
    assert [each.offset for each in alice.result.publications] == [3, 4, 5]


@pytest.mark.rule("recover-hole-read-again")
async def test_a_message_lost_between_read_and_reply_is_read_again(parts, subscriber, link):
    parts.broker.gate.clear()
    joining = asyncio.create_task(subscriber().subscribe(since=StreamPosition(0)))
    await until(lambda: parts.broker.read_count == 1)
    await lose(parts, link(), 1, 2)
    await parts.publish(3)  # the first that this process hears of the channel
    await asyncio.sleep(0.02)

    parts.broker.gate.set()

    alice = await within(joining)
    await alice.has(1, 2, 3)


@pytest.mark.rule("recover-hole-read-again")
async def test_a_read_from_before_the_channel_jumped_is_done_again(parts, subscriber, link):
    first = await subscriber().subscribe()
    parts.broker.gate.clear()
    parts.doubt()
    joining = asyncio.create_task(subscriber().subscribe())
    await until(lambda: parts.broker.read_count == 2)
    await lose(parts, link(), 1, 2)
    await parts.broker.remove("news")
    checking = asyncio.create_task(parts.check())
    await until(lambda: parts.broker.read_count == 3)

    parts.broker.gate.set()
    await checking

    alice = await within(joining)
    await until(lambda: first.told == [2500])
    assert alice.result.offset == 2
    await parts.publish(3)
    await alice.has(3)


async def test_a_hundred_join_at_once_while_publishing(parts, subscriber):
    publishing = asyncio.create_task(parts.publish_range(1, 100))
    everybody = await within(
        asyncio.gather(*(subscriber().subscribe(since=StreamPosition(0)) for _ in range(100)))
    )
    await publishing

    for each in everybody:
        await each.has(*range(1, 101))
        assert each.told == []


@pytest.mark.rule("subscribe-failed-leaves-nothing", "reject-subscribes-nothing")
async def test_a_subscribe_that_cannot_recover_may_be_refused_and_leaves_nothing(
    parts, subscriber, layer, monkeypatch
):
    monkeypatch.setattr(hub, "LEAVE_AFTER_SECONDS", 0.01)
    await parts.publish_range(1, 3)
    alice = subscriber()

    with pytest.raises(UnrecoverablePosition):
        await alice.subscribe(since=StreamPosition(1, "other"), flag=2, presence=True)

    await parts.publish(4)
    await until(lambda: not parts.hub.channels)
    assert alice.offsets == []
    assert await parts.presence.members("news") == {}
    await until(lambda: not layer.receivers)


async def test_a_subscribe_that_is_cancelled_leaves_nothing(parts, subscriber, layer, monkeypatch):
    monkeypatch.setattr(hub, "LEAVE_AFTER_SECONDS", 0.01)
    parts.broker.gate.clear()
    joining = asyncio.create_task(subscriber().subscribe(presence=True))
    await until(lambda: parts.broker.read_count == 1)
    assert (await parts.presence.members("news")).keys() == {"c1"}

    joining.cancel()
    await asyncio.wait([joining])

    await until(lambda: not parts.hub.channels and not layer.receivers)
    assert await parts.presence.members("news") == {}
    parts.broker.gate.set()


@pytest.mark.rule("subscribe-failed-leaves-nothing")
async def test_a_join_without_a_server_is_an_error_and_leaves_nothing(
    valkey, parts, subscriber, layer, monkeypatch
):
    monkeypatch.setattr(hub, "LEAVE_AFTER_SECONDS", 0.01)
    valkey.stop()

    with pytest.raises(BrokerUnavailable):
        await subscriber().subscribe()

    await until(lambda: not parts.hub.channels)
    assert layer.receivers == {}


async def test_a_failed_join_does_not_end_the_joins_that_follow(valkey, parts, subscriber, layer):
    valkey.stop()
    with pytest.raises(BrokerUnavailable):
        await subscriber().subscribe()
    await asyncio.to_thread(valkey.start)

    alice = await within(subscriber().subscribe())
    await parts.publish(1)

    await alice.has(1)


# Leaving ---------------------------------------------------------------------------------------


@pytest.mark.rule("order-nothing-after-unsubscribe")
async def test_nothing_follows_a_leave(parts, subscriber, link):
    alice, bob = await subscriber().subscribe(), await subscriber().subscribe()
    line = link()
    line.hold()
    await parts.publish_range(1, 3)
    await line.holds(3)
    line.release()  # queued for delivery, not written yet

    alice.leave()

    await bob.has(1, 2, 3)
    assert alice.offsets == []


async def test_a_quick_return_does_not_reach_redis(parts, subscriber, client):
    alice = await subscriber().subscribe()
    before = client.info("commandstats").get("cmdstat_unsubscribe")

    for _ in range(10):
        alice.leave()
        await alice.subscribe()
    await parts.publish(1)

    await alice.has(1)
    assert client.info("commandstats").get("cmdstat_unsubscribe") == before


async def test_the_last_one_to_leave_ends_the_group_a_moment_later(
    parts, subscriber, client, monkeypatch
):
    monkeypatch.setattr(hub, "LEAVE_AFTER_SECONDS", 0.05)
    alice, bob = await subscriber().subscribe(), await subscriber().subscribe()

    alice.leave()
    await asyncio.sleep(0.1)
    assert subscribed_count(client) == 1
    bob.leave()

    await until(lambda: subscribed_count(client) == 0)
    assert parts.hub.channels == {}


@pytest.mark.rule("order-resubscribe-at-once")
@pytest.mark.parametrize("delay_seconds", [0.0, 0.009, 0.0099, 0.01, 0.0101, 0.011, 0.012, 0.02])
async def test_a_return_at_any_moment_of_the_leaving_is_heard(
    parts, subscriber, client, monkeypatch, delay_seconds
):
    monkeypatch.setattr(hub, "LEAVE_AFTER_SECONDS", 0.01)
    alice = await subscriber().subscribe()
    for number in range(1, 6):
        alice.leave()
        await asyncio.sleep(delay_seconds)

        await within(alice.subscribe())

        assert alice.result.offset == number - 1
        await parts.publish(number)
        await alice.has(*range(1, number + 1))


async def test_a_return_while_the_layer_is_being_told_is_heard(
    parts, subscriber, layer, monkeypatch
):
    monkeypatch.setattr(hub, "LEAVE_AFTER_SECONDS", 0.0)
    leaving, go_on = asyncio.Event(), asyncio.Event()
    shard = layer._get_shard(group_address(KEYS.group))
    unsubscribe = shard.unsubscribe

    async def slow_unsubscribe(address):
        leaving.set()
        await unsubscribe(address)
        await go_on.wait()

    monkeypatch.setattr(shard, "unsubscribe", slow_unsubscribe)
    alice = await subscriber().subscribe()
    alice.leave()
    await within(leaving.wait())

    await within(alice.subscribe())
    go_on.set()
    await parts.publish(1)

    await alice.has(1)


async def test_a_position_is_forgotten_with_the_channel(parts, subscriber, monkeypatch):
    monkeypatch.setattr(hub, "LEAVE_AFTER_SECONDS", 0.0)
    alice = await subscriber().subscribe()
    await parts.publish(1)
    await alice.has(1)
    alice.leave()
    await until(lambda: not parts.hub.channels)
    await parts.publish_range(2, 5)  # heard by nobody here

    bob = await subscriber().subscribe()
    await parts.publish(6)

    await bob.has(6)
    assert bob.result.offset == 5


async def test_channels_and_their_clients_are_counted(parts, subscriber):
    for channel in ("a:1", "a:2", "b:1"):
        await subscriber(channel).subscribe()
    gone = await subscriber("a:gone").subscribe()
    await subscriber("a:1").subscribe()
    gone.leave()

    assert parts.hub.client_counts("") == {"a:1": 2, "a:2": 1, "b:1": 1}
    assert parts.hub.client_counts("a:*") == {"a:1": 2, "a:2": 1}


# Gaps ------------------------------------------------------------------------------------------


async def lose(parts, line, first, last, **options):
    """Publish so that the layer brings nothing of it."""
    line.hold()
    await parts.publish_range(first, last, **options)
    await line.holds(last - first + 1)
    line.lose()


@pytest.mark.rule("live-gap-repaired")
async def test_what_the_layer_lost_is_read_from_the_stream(parts, subscriber, link):
    alice, bob = await subscriber().subscribe(), await subscriber(is_positioned=False).subscribe()
    await parts.publish(1)
    await lose(parts, link(), 2, 4)

    await parts.publish(5)

    await alice.has(1, 2, 3, 4, 5)
    await bob.has(1, 2, 3, 4, 5)
    assert alice.told == []


@pytest.mark.rule("live-gap-repaired")
async def test_what_arrives_while_a_gap_is_filled_waits(parts, subscriber, link):
    alice = await subscriber().subscribe()
    line = link()
    await lose(parts, line, 1, 2)
    parts.broker.gate.clear()
    await parts.publish(3)
    await until(lambda: parts.broker.read_count == 2)

    await parts.publish_range(4, 6)
    await asyncio.sleep(0.02)
    assert alice.offsets == []
    parts.broker.gate.set()

    await alice.has(1, 2, 3, 4, 5, 6)


async def test_a_second_gap_during_a_repair_is_filled_as_well(parts, subscriber, link):
    alice = await subscriber().subscribe()
    line = link()
    await lose(parts, line, 1, 2)
    parts.broker.gate.clear()
    await parts.publish(3)
    await until(lambda: parts.broker.read_count == 2)
    await lose(parts, line, 4, 5)
    await parts.publish(6)
    await asyncio.sleep(0.02)

    parts.broker.gate.set()

    await alice.has(1, 2, 3, 4, 5, 6)


async def test_a_repair_looks_again_if_more_was_lost_meanwhile(parts, subscriber, link):
    alice = await subscriber().subscribe()
    line = link()
    await lose(parts, line, 1, 2)
    parts.broker.gate.clear()
    await parts.publish(3)
    await until(lambda: parts.broker.read_count == 2)  # Redis has answered, with 3 for the top
    await lose(parts, line, 4, 4)
    await parts.check()

    parts.broker.gate.set()

    await alice.has(1, 2, 3, 4)


async def test_a_long_gap_is_filled_in_pages(parts, subscriber, link):
    alice = await subscriber().subscribe()
    await lose(parts, link(), 1, 700)

    await parts.publish(701)

    await alice.has(*range(1, 702))
    assert alice.told == []


async def test_a_gap_of_large_publications_is_no_overload(parts, subscriber, link):
    alice = await subscriber().subscribe()
    line = link()
    line.hold()
    for _ in range(60):
        await parts.publish("x" * 60_000)
    await line.holds(60)
    line.lose()

    await parts.publish("x")

    await alice.has(*range(1, 62))
    assert alice.told == []


async def test_joins_and_leaves_do_not_wait_for_a_repair(parts, subscriber, link):
    alice = await subscriber().subscribe()
    await lose(parts, link(), 1, 1)
    parts.broker.gate.clear()
    await parts.publish(2)
    await until(lambda: parts.broker.read_count == 2)

    await parts.publish("now", retention=NO_HISTORY)

    await until(lambda: alice.data == ["now"])
    parts.broker.gate.set()
    await alice.has(0, 1, 2)


async def test_who_joins_during_a_repair_gets_everything_once(parts, subscriber, link):
    first = await subscriber().subscribe()
    line = link()
    await lose(parts, line, 1, 2)
    parts.broker.gate.clear()
    await parts.publish(3)
    await until(lambda: parts.broker.read_count == 2)

    joining = asyncio.create_task(subscriber().subscribe(since=StreamPosition(0)))
    await until(lambda: parts.broker.read_count == 3)
    await parts.publish(4)
    parts.broker.gate.set()

    second = await within(joining)
    await first.has(1, 2, 3, 4)
    await second.has(1, 2, 3, 4)


@pytest.mark.rule("live-gap-lost-2500", "live-unpositioned-as-it-comes")
async def test_a_gap_that_cannot_be_filled_is_told_to_exactly_who_has_a_position(
    parts, subscriber, link
):
    alice, bob = await subscriber().subscribe(), await subscriber().subscribe()
    carol = await subscriber(is_positioned=False).subscribe()
    other = await subscriber("other").subscribe()
    await parts.publish(1)
    await alice.has(1)
    await lose(parts, link(), 2, 9)

    await parts.publish(10, retention=Retention(size=3, ttl_seconds=60))

    await until(lambda: alice.told == bob.told == [2500])
    assert alice.offsets == bob.offsets == [1]
    assert carol.told == other.told == []


@pytest.mark.rule("live-unpositioned-loses-nothing")
async def test_a_gap_that_cannot_be_filled_does_not_cost_others_what_did_arrive(
    parts, subscriber, link
):
    alice = await subscriber().subscribe()
    carol = await subscriber(is_positioned=False).subscribe()
    await lose(parts, link(), 1, 9)

    await parts.publish(10, retention=Retention(size=3, ttl_seconds=60))
    await until(lambda: alice.told)
    await parts.publish(11)

    await until(lambda: carol.offsets[-2:] == [10, 11])
    assert carol.offsets == sorted(set(carol.offsets))


@pytest.mark.rule("live-gap-lost-2500")
async def test_a_gap_in_a_removed_history_is_told(parts, subscriber, link):
    alice = await subscriber().subscribe()
    await lose(parts, link(), 1, 2)
    await parts.broker.remove("news")

    await parts.publish(3)

    await until(lambda: alice.told == [2500])


async def test_who_was_told_comes_back_and_the_channel_goes_on(parts, subscriber, link):
    alice = await subscriber().subscribe()
    await lose(parts, link(), 1, 9)
    await parts.publish(10, retention=Retention(size=3, ttl_seconds=60))
    await until(lambda: alice.told)

    again = await subscriber().subscribe(since=alice.position)
    await parts.publish(11)

    assert not again.result.recovered
    assert again.result.offset == 10
    await again.has(11)


async def test_many_are_told_spread_and_hear_nothing_more(parts, subscriber, link, monkeypatch):
    monkeypatch.setattr(arrivals, "SPREAD_SECONDS", 0.3)
    everybody = [await subscriber().subscribe() for _ in range(arrivals.SPREAD_AT_ONCE + 50)]
    await lose(parts, link(), 1, 9)
    await parts.publish(10, retention=Retention(size=3, ttl_seconds=60))
    await until(lambda: any(each.told for each in everybody))
    assert not all(each.told for each in everybody)

    await parts.publish(11)
    await until(lambda: all(each.told == [2500] for each in everybody))

    assert not any(each.offsets for each in everybody)


async def test_repair_waits_for_redis(valkey, parts, subscriber, layer, link):
    alice = await subscriber().subscribe()
    line = link()
    await lose(parts, line, 1, 2)
    line.hold()
    await parts.publish(3)
    await line.holds(1)
    valkey.freeze()
    line.release()
    await asyncio.sleep(2)
    assert alice.told == []

    valkey.thaw()

    await alice.has(1, 2, 3)


# Overload --------------------------------------------------------------------------------------


async def test_an_overloaded_channel_tells_who_has_a_position_and_goes_on_with_the_newest(
    parts, subscriber, link
):
    alice, bob = await subscriber().subscribe(), await subscriber(is_positioned=False).subscribe()
    calm = await subscriber("calm").subscribe()
    line = link()
    line.hold()
    for _ in range(40):
        await parts.publish("x" * 60_000)
    await line.holds(40)

    line.release()  # 2.4 MB in one moment
    await parts.publish("last")
    await parts.publish(1, channel="calm")

    await until(lambda: bob.offsets[-1:] == [41])
    assert alice.told == [2500]
    assert alice.offsets == list(range(1, len(alice.offsets) + 1))
    assert bob.told == []
    assert len(bob.offsets) < 41
    assert bob.offsets == sorted(set(bob.offsets))
    await calm.has(1)


async def test_who_joins_an_overloaded_channel_misses_nothing(parts, subscriber, link):
    await subscriber().subscribe()
    line = link()
    line.hold()
    for _ in range(40):
        await parts.publish("x" * 60_000)
    await line.holds(40)
    parts.broker.gate.clear()
    parts.doubt()
    joining = asyncio.create_task(subscriber().subscribe())
    await until(lambda: parts.broker.read_count == 2)

    line.release()
    await parts.publish_range(41, 43)
    parts.broker.gate.set()

    alice = await within(joining)
    await until(lambda: alice.position.offset == 43)
    start = alice.result.offset
    assert alice.offsets == list(range(start + 1, 44))


# Without a read --------------------------------------------------------------------------------


async def test_who_has_nothing_to_recover_begins_where_the_hub_is_without_a_read(parts, subscriber):
    alice = await subscriber().subscribe()
    await parts.publish_range(1, 3)
    await alice.has(1, 2, 3)

    bob = await subscriber().subscribe()
    await parts.publish(4)

    await bob.has(4)
    assert parts.broker.read_count == 1
    assert (bob.result.offset, bob.result.epoch) == (3, alice.result.epoch)
    assert bob.result.positioned


async def test_who_recovers_always_reads(parts, subscriber):
    alice = await subscriber().subscribe()
    await parts.publish_range(1, 3)
    await alice.has(1, 2, 3)

    bob = await subscriber().subscribe(since=StreamPosition(1))

    assert parts.broker.read_count == 2
    assert bob.offsets == [2, 3]


async def test_who_begins_where_the_hub_is_gets_what_is_on_the_way(parts, subscriber, link):
    await subscriber().subscribe()
    line = link()
    line.hold()
    await parts.publish_range(1, 3)
    await line.holds(3)

    alice = await subscriber().subscribe()
    line.release()

    await alice.has(1, 2, 3)
    assert (alice.result.offset, parts.broker.read_count) == (0, 1)


async def test_who_begins_where_the_hub_is_gets_what_the_layer_has_lost(parts, subscriber, link):
    await subscriber().subscribe()
    await lose(parts, link(), 1, 2)

    alice = await subscriber().subscribe()
    await parts.check()

    await alice.has(1, 2)
    assert alice.result.offset == 0


async def test_who_begins_where_the_hub_is_gets_nothing_twice_of_what_waits(
    parts, subscriber, link
):
    await subscriber().subscribe()
    line = link()
    line.hold()
    await parts.publish_range(1, 5)
    await line.holds(5)
    line.release()  # queued, and not yet delivered to anybody

    alice = await subscriber().subscribe()
    await parts.publish(6)

    await alice.has(6)
    assert (alice.result.offset, parts.broker.read_count) == (5, 1)


async def test_nobody_begins_where_a_hub_is_that_fills_a_gap(parts, subscriber, link):
    alice = await subscriber().subscribe()
    parts.broker.gate.clear()
    await lose(parts, link(), 1, 2)
    await parts.publish(3)
    await until(lambda: parts.broker.read_count == 2)

    joining = asyncio.create_task(subscriber().subscribe())
    await until(lambda: parts.broker.read_count == 3)
    parts.broker.gate.set()

    bob = await within(joining)
    assert bob.result.offset == 3
    await parts.publish(4)
    await alice.has(1, 2, 3, 4)
    await bob.has(4)


async def test_nobody_begins_where_a_hub_is_whose_link_is_down(
    parts, subscriber, layer, monkeypatch
):
    await subscriber().subscribe()
    monkeypatch.setattr(layer, "is_up_for", lambda group: False)
    layer.report(0, False)

    await subscriber().subscribe()

    assert parts.broker.read_count == 2


async def test_nobody_begins_where_a_hub_is_that_a_check_found_elsewhere(
    parts, subscriber, link, client
):
    alice = await subscriber().subscribe()
    bob = await subscriber(is_positioned=False).subscribe()
    alice.leave()
    client.delete(KEYS.meta)  # nobody is told of the new epoch: nobody was promised anything
    await parts.check()

    carol = await subscriber().subscribe()
    await parts.publish(1)

    await carol.has(1)
    await bob.has(1)
    assert carol.result.epoch != alice.result.epoch
    assert carol.told == []


async def test_who_begins_where_the_hub_is_in_an_epoch_that_has_ended_is_told(
    parts, subscriber, client
):
    alice = await subscriber().subscribe()
    client.delete(KEYS.meta)

    bob = await subscriber().subscribe()
    await parts.publish(1)

    await until(lambda: bob.told == [2500])
    assert bob.result.epoch == alice.result.epoch
    assert not (await subscriber().subscribe(since=bob.position)).result.recovered


# Epochs ----------------------------------------------------------------------------------------


@pytest.mark.rule("live-epoch-2500")
async def test_another_epoch_is_told_to_who_has_a_position(parts, subscriber, client):
    alice = await subscriber().subscribe()
    await parts.publish_range(1, 3)
    await alice.has(1, 2, 3)
    client.delete(KEYS.meta)

    await parts.publish(1)

    await until(lambda: alice.told == [2500])
    assert alice.offsets == [1, 2, 3]


@pytest.mark.rule("live-unpositioned-as-it-comes")
async def test_another_epoch_costs_nobody_else_a_publication(parts, subscriber, client):
    bob = await subscriber(is_positioned=False).subscribe()
    await parts.publish("old")
    await until(lambda: bob.data == ["old"])
    client.delete(KEYS.meta)

    await parts.publish("first")
    await parts.publish("second")

    await until(lambda: bob.data[-1:] == ["second"])
    assert bob.data == ["old", "first", "second"]


async def test_what_was_held_of_an_older_epoch_does_not_stand_in_the_way(
    parts, subscriber, link, client
):
    alice = await subscriber().subscribe()
    bob = await subscriber(is_positioned=False).subscribe()
    line = link()
    await lose(parts, line, 1, 1)
    line.hold()
    await parts.publish("old")  # behind a gap that nobody can fill any more
    client.delete(KEYS.meta)
    await parts.publish("new")
    await line.holds(2)

    line.release()
    await parts.publish("newer")

    await until(lambda: bob.data[-2:] == ["new", "newer"])
    assert alice.told == [2500]
    await until(lambda: parts.hub.channels["news"].repair is None)  # or it would read for ever


@pytest.mark.rule("live-unpositioned-loses-nothing")
async def test_a_jump_leaves_what_is_queued_to_who_has_no_position(parts, subscriber, link):
    alice = await subscriber().subscribe()
    bob = await subscriber(is_positioned=False).subscribe()
    held = link()
    held.hold()
    await parts.publish("one")
    await parts.publish("two")
    await held.holds(2)
    held.release()  # queued, and nothing of it written yet

    parts.hub._arrivals._lose(parts.hub.channels["news"], StreamPosition(7, "another"))

    await until(lambda: bob.data == ["one", "two"])
    assert alice.offsets == []
    assert alice.told == [2500]


async def test_who_joins_before_the_hub_has_noticed_the_new_epoch_is_in_it(
    parts, subscriber, client
):
    alice = await subscriber().subscribe()
    await parts.publish_range(1, 3)
    await alice.has(1, 2, 3)
    client.delete(KEYS.meta)
    parts.doubt()

    bob = await subscriber().subscribe()
    await parts.publish(1)

    await bob.has(1)
    assert bob.result.offset == 0
    assert bob.result.epoch != alice.result.epoch
    await until(lambda: alice.told == [2500])
    assert bob.told == []


async def test_a_recovery_in_another_epoch_is_not_recovered(parts, subscriber, client):
    alice = await subscriber().subscribe()
    await parts.publish_range(1, 3)
    await alice.has(1, 2, 3)
    client.delete(KEYS.meta)

    again = await subscriber().subscribe(since=alice.position)

    assert not again.result.recovered
    assert again.result.was_recovering
    assert again.result.offset == 0


async def restart(valkey, parts):
    await asyncio.to_thread(valkey.stop)
    await asyncio.to_thread(valkey.start)
    await until(lambda: parts.layer.is_linked)


async def test_after_a_restart_who_has_a_position_is_told_and_recovers(valkey, parts, subscriber):
    alice = await subscriber().subscribe()
    await parts.publish_range(1, 3)
    await alice.has(1, 2, 3)

    await restart(valkey, parts)
    await until(lambda: alice.told == [2500])
    again = await subscriber().subscribe(since=alice.position)
    await parts.publish(4)

    await again.has(4)
    assert again.result.recovered
    assert again.result.epoch != alice.result.epoch


async def test_after_a_restart_who_has_no_position_misses_nothing(valkey, parts, subscriber):
    bob = await subscriber(is_positioned=False).subscribe()
    await parts.publish_range(1, 3)
    await bob.has(1, 2, 3)

    await restart(valkey, parts)
    await parts.publish_range(4, 6)

    await bob.has(1, 2, 3, 4, 5, 6)


async def test_an_instance_that_saw_what_redis_lost_lets_nobody_recover_across_it(
    valkey, parts, subscriber
):
    alice = await subscriber().subscribe()
    await parts.publish_range(1, 3)
    await alice.has(1, 2, 3)
    behind = StreamPosition(2, alice.result.epoch)
    with valkey.client() as client:
        client.execute_command("WAITAOF", 1, 0, 2000)
        kept_bytes = valkey.log_bytes()
        await parts.publish(4)
        await alice.has(1, 2, 3, 4)
        client.execute_command("WAITAOF", 1, 0, 2000)
    await asyncio.to_thread(valkey.kill)
    valkey.truncate_log(kept_bytes)
    await asyncio.to_thread(valkey.start)

    # At once: the instance has to look itself before anybody may join.
    again = await within(subscriber().subscribe(since=behind))

    assert not again.result.recovered
    await until(lambda: alice.told == [2500])


# The link --------------------------------------------------------------------------------------


async def test_a_link_that_breaks_again_and_again_costs_nothing(parts, subscriber, client):
    alice, bob = await subscriber().subscribe(), await subscriber().subscribe()

    async def break_often():
        for _ in range(5):
            await asyncio.sleep(0.06)
            break_links(client)

    breaking = asyncio.create_task(break_often())
    for number in range(1, 401):
        await parts.publish(number)
        await asyncio.sleep(0.001)
    await breaking

    await alice.has(*range(1, 401))
    await bob.has(*range(1, 401))
    assert alice.told == bob.told == []


@pytest.mark.parametrize("count", [1, 400])
async def test_what_was_published_while_the_link_was_down_arrives_when_it_is_up(
    parts, subscriber, client, layer, count
):
    alice = await subscriber().subscribe()
    down = asyncio.Event()
    layer.watchers.append(lambda shard, is_up: None if is_up else down.set())
    break_links(client)
    await within(down.wait())

    async with asyncio.TaskGroup() as publishing:
        for number in range(count):
            publishing.create_task(parts.publish(number))

    await alice.has(*range(1, count + 1))
    assert alice.told == []


async def test_who_joins_while_the_link_is_down_misses_nothing(parts, subscriber, client, layer):
    await subscriber().subscribe()
    down = asyncio.Event()
    layer.watchers.append(lambda shard, is_up: None if is_up else down.set())
    break_links(client)
    await within(down.wait())

    bob = await within(subscriber().subscribe())
    await parts.publish_range(1, 3)

    await bob.has(1, 2, 3)


async def test_who_joins_after_a_lost_link_waits_for_redis(valkey, parts, subscriber, layer):
    await subscriber().subscribe()
    valkey.stop()
    await until(lambda: not layer.is_linked)

    with pytest.raises(BrokerUnavailable):
        await within(subscriber().subscribe())


async def test_all_who_join_a_channel_of_a_silent_server_are_refused_in_time(
    valkey, parts, subscriber
):
    await parts.layer.listen("other", lambda data: None)
    valkey.freeze()
    began_at = asyncio.get_running_loop().time()

    joins = [subscriber(is_positioned=False).subscribe() for _ in range(100)]
    outcomes = await within(asyncio.gather(*joins, return_exceptions=True), timeout_seconds=30)

    took_seconds = asyncio.get_running_loop().time() - began_at
    valkey.thaw()
    assert all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
    assert took_seconds < 5


async def test_who_joins_one_channel_after_another_of_a_silent_server_waits_once(
    valkey, parts, subscriber
):
    await subscriber().subscribe()
    valkey.freeze()
    began_at = asyncio.get_running_loop().time()

    for number in range(10):
        with pytest.raises(BrokerUnavailable):
            await subscriber(f"news{number}", is_positioned=False).subscribe()

    took_seconds = asyncio.get_running_loop().time() - began_at
    valkey.thaw()
    assert took_seconds < 5


async def test_nobody_joins_before_this_instances_own_position_was_compared(
    parts, subscriber, layer, client
):
    await subscriber().subscribe()
    down = asyncio.Event()
    layer.watchers.append(lambda shard, is_up: None if is_up else down.set())
    parts.broker.hides_tops = True
    break_links(client)
    await within(down.wait())
    await until(lambda: layer.is_linked)

    with pytest.raises(BrokerUnavailable):
        await subscriber().subscribe()
    parts.broker.hides_tops = False

    assert await within(subscriber().subscribe())


@pytest.mark.rule("check-read-error-later")
async def test_a_check_that_cannot_read_says_nothing_and_the_next_one_finds(
    parts, subscriber, link
):
    alice = await subscriber().subscribe()
    await lose(parts, link(), 1, 1)
    parts.broker.hides_tops = True

    await parts.check()
    assert (alice.offsets, alice.told) == ([], [])
    parts.broker.hides_tops = False
    await parts.check()

    await alice.has(1)


@pytest.mark.rule("check-finds-last-loss")
async def test_a_quiet_channel_that_lost_its_last_publication_is_found(parts, subscriber, link):
    alice = await subscriber().subscribe()
    await parts.publish(1)
    await alice.has(1)
    await lose(parts, link(), 2, 2)

    await parts.check()

    await alice.has(1, 2)
    assert alice.told == []


async def test_a_quiet_channel_that_lost_much_is_filled_to_the_top(parts, subscriber, link):
    alice = await subscriber().subscribe()
    await lose(parts, link(), 1, 650)

    await parts.check()

    await alice.has(*range(1, 651))


@pytest.mark.rule("check-loss-2500")
async def test_a_quiet_channel_whose_loss_cannot_be_filled_is_told(parts, subscriber, link):
    alice = await subscriber().subscribe()
    await lose(parts, link(), 1, 9, retention=Retention(size=3, ttl_seconds=60))

    await parts.check()

    await until(lambda: alice.told == [2500])


@pytest.mark.rule("check-loss-2500")
async def test_a_quiet_channel_in_another_epoch_is_told(parts, subscriber, client):
    alice = await subscriber().subscribe()
    await parts.publish(1)
    await alice.has(1)
    client.delete(KEYS.meta)

    await parts.check()

    await until(lambda: alice.told == [2500])


@pytest.mark.rule("check-order-silent")
async def test_a_check_of_a_channel_that_is_in_order_changes_nothing(parts, subscriber):
    alice = await subscriber().subscribe()
    await parts.publish_range(1, 3)
    await alice.has(1, 2, 3)

    await parts.check()
    await parts.publish(4)

    await alice.has(1, 2, 3, 4)
    assert alice.told == []


async def test_a_publication_that_arrives_during_a_check_is_no_loss(parts, subscriber, link):
    alice = await subscriber().subscribe()
    line = link()
    for first in range(1, 60, 3):
        line.hold()
        await parts.publish_range(first, first + 2)
        checking = asyncio.create_task(parts.check())
        await asyncio.sleep(0)
        await line.holds(3)
        line.release()
        await checking

    await alice.has(*range(1, 61))
    assert alice.told == []


@pytest.mark.rule("check-busy-skipped")
async def test_a_channel_that_has_just_delivered_is_not_looked_at(parts, subscriber, link):
    parts.use(Hub(parts.layer, parts.broker, check_seconds=2.0))
    alice = await subscriber().subscribe()
    await parts.publish(1)
    await alice.has(1)
    await lose(parts, link(), 2, 2)

    await parts.check()
    assert alice.offsets == [1]
    await asyncio.sleep(0.3)
    await parts.check()

    await alice.has(1, 2)


async def test_joins_and_skipped_publications_do_not_put_the_check_off(parts, subscriber, link):
    parts.use(Hub(parts.layer, parts.broker, check_seconds=2.0))
    alice = await subscriber().subscribe()
    await parts.publish(1)
    await alice.has(1)
    await lose(parts, link(), 2, 2)
    await asyncio.sleep(0.3)
    await parts.publish("chatter", retention=NO_HISTORY)
    await until(lambda: "chatter" in alice.data)

    await parts.check()

    await until(lambda: 2 in alice.offsets)


async def test_every_channel_has_its_turn(parts, subscriber, link):
    parts.use(Hub(parts.layer, parts.broker, check_seconds=10.0))
    everybody = [await subscriber(f"c{number}").subscribe() for number in range(30)]
    for each in everybody:
        line = link(each.channel)
        line.hold()
        await parts.publish(1, channel=each.channel)
        await line.holds(1)
        line.lose()
    parts.hub._recent_seconds = 0

    await parts.check()

    for each in everybody:
        await each.has(1)


async def test_junk_on_a_channels_group_is_passed_over(parts, subscriber, client):
    alice = await subscriber().subscribe()

    for junk in (b"", b"\xff", b"\x80", b"\x81\xa4type\xa1x"):
        client.publish(group_address(KEYS.group), junk)
    await parts.publish(1)

    await alice.has(1)


# All together ----------------------------------------------------------------------------------


class Walk:
    """Random steps: publish, hold, lose and release messages, pause reads, come, break links."""

    STEPS = "publish publish publish publish hold release lose join join pause resume break wait"

    def __init__(self, seed, parts, subscriber, line, client):
        self.chance = random.Random(seed)
        self.parts, self.subscriber, self.line, self.client = parts, subscriber, line, client
        self.published = 0
        self.joining = []

    async def step(self):
        await getattr(self, f"do_{self.chance.choice(self.STEPS.split())}")()

    async def do_publish(self):
        for _ in range(self.chance.randint(1, 4)):
            self.published += 1
            await self.parts.publish(self.published)

    async def do_hold(self):
        self.line.hold()

    async def do_release(self):
        self.line.release()

    async def do_lose(self):
        self.line.lose()

    async def do_join(self):
        since = None
        if self.chance.random() < 0.5:
            since = StreamPosition(self.chance.randint(0, self.published))
        is_positioned = since is not None or self.chance.random() < 0.5
        one = self.subscriber(is_positioned=is_positioned)
        self.joining.append(asyncio.create_task(one.subscribe(since=since)))

    async def do_pause(self):
        self.parts.broker.gate.clear()

    async def do_resume(self):
        self.parts.broker.gate.set()

    async def do_break(self):
        if self.chance.random() < 0.3:
            break_links(self.client)

    async def do_wait(self):
        await asyncio.sleep(self.chance.random() * 0.01)


@pytest.mark.rule("order-by-offset", "order-no-duplicates")
@pytest.mark.parametrize("seed", range(25))
async def test_whatever_happens_everything_arrives_once_and_in_order(
    parts, subscriber, link, client, monkeypatch, seed
):
    monkeypatch.setattr(hub, "LEAVE_AFTER_SECONDS", 0.005)
    anchor = await subscriber().subscribe()
    walk = Walk(seed, parts, subscriber, link(), client)

    for _ in range(80):
        await walk.step()
    await walk.do_resume()
    await walk.do_release()
    everybody = [anchor, *await within(asyncio.gather(*walk.joining))]
    await walk.do_publish()
    await until(lambda: anchor.position.offset == walk.published)
    await parts.check()

    for each in everybody:
        if each.is_positioned:
            await each.has(*range(each.result.offset + 1, walk.published + 1))
        assert each.offsets == sorted(set(each.offsets))
        assert each.told == []
