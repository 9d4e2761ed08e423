"""The channel layer on a real server: stock consumers, the hub's listeners, the link."""

import asyncio
import logging
import time

import msgspec
import pytest
import redis
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator

from realtime import layers
from realtime.layers import CONSUMER_QUEUE_MAX
from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_client import group_address
from tests.realtime.conftest import until, within
from tests.support.proxy import FaultProxy

BACKEND = "realtime.layers.HeliographChannelLayer"


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server, protocol=2) as client:
        yield client


@pytest.fixture
def links(layer):
    """Note what the watchers are told."""
    reports = []
    layer.watchers.append(lambda shard, is_up: reports.append(is_up))
    return reports


def publish(client, group, data):
    """Publish as another process does; return how many servers' links heard it."""
    return client.publish(group_address(group), data)


def break_links(client):
    return client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


def subscribed(client, group):
    return client.pubsub_numsub(group_address(group))[0][1]


# Listening -------------------------------------------------------------------------------------


async def test_what_is_published_after_the_acknowledgement_is_heard(layer, client):
    heard = []
    await layer.listen("news", heard.append)

    assert publish(client, "news", b"\x00\xff") == 1

    await until(lambda: heard == [b"\x00\xff"])


async def test_a_slow_link_is_waited_for(valkey, settings):
    # Without the wait for the acknowledgement the message is gone before SUBSCRIBE is there.
    async with FaultProxy(valkey.port) as proxy:
        proxy.subscriber_delay_seconds = 0.3
        address = f"redis://127.0.0.1:{proxy.port}/0"
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": BACKEND, "CONFIG": {"hosts": [{"address": address}]}}
        }
        layer = get_channel_layer().on_this_loop()
        heard = []

        await layer.listen("news", heard.append)
        with valkey.client() as client:
            assert publish(client, "news", b"x") == 1

        await until(lambda: heard == [b"x"])
        await layer.flush()


async def test_the_acknowledgement_of_an_earlier_wish_is_not_taken_for_a_later_one(
    valkey, settings
):
    async with FaultProxy(valkey.port) as proxy:
        address = f"redis://127.0.0.1:{proxy.port}/0"
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": BACKEND, "CONFIG": {"hosts": [{"address": address}]}}
        }
        layer = get_channel_layer().on_this_loop()
        await layer.listen("other", lambda data: None)
        proxy.subscriber_delay_seconds = 0.2
        first = asyncio.create_task(layer.listen("news", lambda data: None))
        await asyncio.sleep(0)
        await layer.ignore("news")
        await asyncio.sleep(0.3)  # the first answer arrives after 0.4, the second after 0.7

        await layer.listen("news", lambda data: None)
        with valkey.client() as client:
            assert publish(client, "news", b"x") == 1

        first.cancel()
        await asyncio.wait([first])
        await layer.flush()


async def test_a_thousand_groups_are_acknowledged_at_once(layer, client):
    heard = []
    groups = [f"group{number}" for number in range(1000)]

    await within(asyncio.gather(*(layer.listen(group, heard.append) for group in groups)))

    assert sum(publish(client, group, group) for group in groups) == 1000
    await until(lambda: len(heard) == 1000)
    assert client.client_list(_type="pubsub")[0]["sub"] == "1000"


async def test_a_process_needs_one_link_however_many_groups(layer, client):
    for group in ("a", "b", "c"):
        await layer.listen(group, lambda data: None)

    assert len(client.client_list(_type="pubsub")) == 1


async def test_messages_of_a_group_keep_their_order(layer, client):
    heard = []
    await layer.listen("news", heard.append)

    for number in range(500):
        publish(client, "news", b"%d" % number)

    await until(lambda: len(heard) == 500)
    assert heard == [b"%d" % number for number in range(500)]


async def test_an_ignored_group_is_unsubscribed(layer, client):
    heard = []
    await layer.listen("news", heard.append)

    await layer.ignore("news")

    await until(lambda: subscribed(client, "news") == 0)
    publish(client, "news", b"late")
    await layer.listen("other", heard.append)
    publish(client, "other", b"end")
    await until(lambda: heard)
    assert heard == [b"end"]


async def test_a_new_listener_takes_the_place_of_the_old_one(layer, client):
    old, new = [], []
    await layer.listen("news", old.append)

    await layer.listen("news", new.append)
    publish(client, "news", b"x")

    await until(lambda: new == [b"x"])
    assert old == []


async def test_leaving_and_coming_back_at_once_ends_subscribed(layer, client):
    # The acknowledgement of the first SUBSCRIBE must not be taken for that of the second: between
    # them lies an UNSUBSCRIBE.
    for round_number in range(50):
        group, heard = f"news{round_number}", []
        first = asyncio.create_task(layer.listen(group, lambda data: None))
        await asyncio.sleep(0)
        leaving = asyncio.create_task(layer.ignore(group))
        await asyncio.sleep(0)
        await within(layer.listen(group, heard.append))

        assert publish(client, group, b"x") == 1

        await until(lambda heard=heard: heard == [b"x"])
        await leaving
        first.cancel()


async def test_a_listener_that_gives_up_does_not_take_the_group_from_the_next_one(layer, client):
    heard = []
    first = asyncio.create_task(layer.listen("news", lambda data: None))
    await asyncio.sleep(0)
    await layer.ignore("news")
    await within(layer.listen("news", heard.append))

    first.cancel()
    await asyncio.wait([first])
    publish(client, "news", b"x")

    await until(lambda: heard == [b"x"])


async def test_many_quick_changes_end_as_the_last_one_says(layer, client):
    heard = []
    for _ in range(20):
        await layer.listen("news", heard.append)
        await layer.ignore("news")
    await layer.listen("news", heard.append)

    assert publish(client, "news", b"x") == 1

    await until(lambda: heard == [b"x"])


async def test_two_who_listen_at_once_are_both_acknowledged(layer, client):
    await within(asyncio.gather(*(layer.listen("news", lambda data: None) for _ in range(5))))

    assert subscribed(client, "news") == 1


async def test_a_receiver_that_fails_does_not_cost_the_process_its_hearing(layer, client):
    heard = []

    def fail(data):
        raise ValueError(data)

    await layer.listen("bad", fail)
    await layer.listen("good", heard.append)

    publish(client, "bad", b"x")
    publish(client, "good", b"y")

    await until(lambda: heard == [b"y"])
    assert layer.is_linked


# The link --------------------------------------------------------------------------------------


async def test_a_killed_link_is_reported_and_taken_up_again(layer, client, links):
    heard = []
    for group in ("a", "b"):
        await layer.listen(group, heard.append)
    links.clear()

    assert break_links(client) == 1

    await until(lambda: links == [False, True])
    assert publish(client, "a", b"1") + publish(client, "b", b"2") == 2
    await until(lambda: sorted(heard) == [b"1", b"2"])


async def test_a_link_is_not_reported_up_before_everything_is_subscribed(layer, client):
    groups = [f"group{number}" for number in range(1200)]
    for group in groups:
        await layer.listen(group, lambda data: None)
    seen = []

    def watch(shard, is_up):
        if is_up:
            seen.append(int(client.client_list(_type="pubsub")[0]["sub"]))

    layer.watchers.append(watch)
    break_links(client)

    await until(lambda: seen)
    assert seen == [1200]


async def test_a_group_ignored_while_the_link_is_down_stays_ignored(layer, client, links):
    await layer.listen("kept", lambda data: None)
    await layer.listen("left", lambda data: None)
    links.clear()
    break_links(client)
    await until(lambda: links == [False])

    await layer.ignore("left")

    await until(lambda: links == [False, True])
    assert (subscribed(client, "kept"), subscribed(client, "left")) == (1, 0)


async def test_a_group_joined_while_the_link_is_down_is_acknowledged_when_it_is_up(
    layer, client, links
):
    heard = []
    await layer.listen("before", heard.append)
    links.clear()
    break_links(client)
    await until(lambda: links == [False])

    await within(layer.listen("news", heard.append))

    assert publish(client, "news", b"x") == 1
    await until(lambda: heard == [b"x"])


async def test_a_link_broken_again_and_again_heals(layer, client, links):
    heard = []
    await layer.listen("news", heard.append)
    for _ in range(4):
        links.clear()
        break_links(client)
        await until(lambda: links[-1:] == [True])

    publish(client, "news", b"x")

    await until(lambda: heard == [b"x"])


async def test_whether_the_link_is_up_can_be_asked(layer, client, links):
    assert layer.is_linked  # nothing is wanted yet
    await layer.listen("news", lambda data: None)
    assert layer.is_linked
    assert layer.is_up_for("news")
    links.clear()

    break_links(client)
    await until(lambda: links == [False])

    assert not layer.is_linked
    assert not layer.is_up_for("news")


async def test_listening_without_a_server_is_an_error_in_time(valkey, layer):
    valkey.stop()
    started_at = time.monotonic()

    with pytest.raises(BrokerUnavailable):
        await layer.listen("news", lambda data: None)

    assert time.monotonic() - started_at < 2
    assert layer.receivers == {}


async def test_a_listener_that_was_refused_is_not_subscribed_later(valkey, layer, links):
    valkey.stop()
    with pytest.raises(BrokerUnavailable):
        await layer.listen("news", lambda data: None)
    await asyncio.to_thread(valkey.start)

    await within(layer.listen("other", lambda data: None))

    with valkey.client() as client:
        assert subscribed(client, "news") == 0
        assert subscribed(client, "other") == 1


async def test_a_server_that_falls_silent_is_noticed_within_six_seconds(valkey, layer, links):
    await layer.listen("news", lambda data: None)
    links.clear()
    valkey.freeze()
    started_at = time.monotonic()

    await until(lambda: links == [False], timeout_seconds=6)

    assert time.monotonic() - started_at > 2  # and not for a short stall
    valkey.thaw()
    await until(lambda: links == [False, True])


async def test_a_silent_server_keeps_no_subscriber_waiting(valkey, layer, links, caplog):
    await layer.listen("news", lambda data: None)
    links.clear()
    valkey.freeze()
    with pytest.raises(BrokerUnavailable):
        await layer.listen("first", lambda data: None)
    started_at = time.monotonic()

    for number in range(20):
        with pytest.raises(BrokerUnavailable):
            await layer.listen(f"group{number}", lambda data: None)
    assert time.monotonic() - started_at < 5  # and not 1.5 s each
    await until(lambda: links == [False], timeout_seconds=6)
    for number in range(100):
        with pytest.raises(BrokerUnavailable):
            await layer.listen(f"group{number}", lambda data: None)
    assert time.monotonic() - started_at < 15

    valkey.thaw()
    await until(lambda: links == [False, True])
    await within(layer.listen("after", lambda data: None))


async def test_an_outage_is_logged_when_it_begins_and_not_with_each_attempt(
    valkey, layer, links, caplog
):
    await layer.listen("news", lambda data: None)
    links.clear()
    caplog.set_level(logging.DEBUG, "realtime.layer_link")
    await asyncio.to_thread(valkey.kill)

    link = f"layer link 0 (redis at 127.0.0.1:{valkey.port})"

    def told():
        lost = f"{link} lost: "
        return [record for record in caplog.records if record.message.startswith(lost)]

    await until(lambda: len(told()) >= 4)
    await asyncio.to_thread(valkey.start)
    await until(lambda: links == [False, True])

    levels = [record.levelname for record in told()]
    assert levels[:2] == ["WARNING", "WARNING"]
    assert set(levels[2:]) == {"DEBUG"}
    assert f"{link} is up again" in caplog.text


async def test_a_quiet_link_is_kept(layer, client, links, monkeypatch):
    monkeypatch.setattr("realtime.layer_link.PROBE_SECONDS", 0.1)
    monkeypatch.setattr("realtime.layer_link.SILENCE_SECONDS", 1.0)
    await layer.listen("news", lambda data: None)
    link_id = client.client_list(_type="pubsub")[0]["id"]
    links.clear()

    await asyncio.sleep(1.5)

    assert links == []
    assert client.client_list(_type="pubsub")[0]["id"] == link_id


async def test_a_link_without_any_group_is_kept_as_well(layer, client, links, monkeypatch):
    monkeypatch.setattr("realtime.layer_link.PROBE_SECONDS", 0.1)
    monkeypatch.setattr("realtime.layer_link.SILENCE_SECONDS", 1.0)
    await layer.listen("news", lambda data: None)
    await layer.ignore("news")
    links.clear()

    await asyncio.sleep(1.5)

    assert links == []


async def test_a_flushed_layer_can_be_used_again(layer, client):
    heard = []
    await layer.listen("news", heard.append)

    await layer.flush()
    assert client.client_list(_type="pubsub") == []
    await within(layer.listen("news", heard.append))
    publish(client, "news", b"x")

    await until(lambda: heard == [b"x"])


async def test_a_flush_leaves_no_task_behind(layer):
    await layer.listen("news", lambda data: None)

    await layer.flush()

    names = [task.get_name() for task in asyncio.all_tasks()]
    assert not [name for name in names if name.startswith("layer")]


# Stock consumers -------------------------------------------------------------------------------


class Chat(AsyncJsonWebsocketConsumer):
    """A consumer as Channels' tutorial writes it."""

    async def connect(self):
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard("room", self.channel_name)

    async def receive_json(self, content):
        await self.channel_layer.group_send("room", {"type": "chat.message", "text": content})

    async def chat_message(self, event):
        await self.send_json(event["text"])


@pytest.fixture
async def chat(layer, db):  # a stock consumer closes old database connections
    opened = []

    async def chat():
        communicator = WebsocketCommunicator(Chat.as_asgi(), "/chat")
        opened.append(communicator)
        await communicator.connect()
        return communicator

    yield chat
    for communicator in opened:
        await communicator.disconnect()


async def test_a_stock_consumers_group_works(chat):
    alice, bob = await chat(), await chat()

    await alice.send_json_to("hello")

    assert await alice.receive_json_from() == "hello"
    assert await bob.receive_json_from() == "hello"


async def test_who_left_the_group_hears_nothing_and_the_others_go_on(chat, client):
    alice, bob = await chat(), await chat()
    await bob.disconnect()

    await alice.send_json_to("hello")

    assert await alice.receive_json_from() == "hello"
    assert subscribed(client, "room") == 1


async def test_the_last_one_to_leave_ends_the_subscription(chat, client):
    alice = await chat()
    assert subscribed(client, "room") == 1

    await alice.disconnect()

    await until(lambda: subscribed(client, "room") == 0)


async def test_a_hub_and_stock_consumers_share_a_group(chat, layer, client):
    heard = []
    alice = await chat()
    await layer.listen("room", heard.append)

    await alice.send_json_to("one")

    assert await alice.receive_json_from() == "one"
    await until(lambda: len(heard) == 1)
    assert msgspec.msgpack.decode(heard[0]) == {"type": "chat.message", "text": "one"}
    assert client.client_list(_type="pubsub")[0]["sub"] == "2"  # the room, and her own address


async def test_a_hub_that_leaves_does_not_take_the_group_from_stock_consumers(chat, layer):
    alice = await chat()
    await layer.listen("room", lambda data: None)

    await layer.ignore("room")
    await alice.send_json_to("one")

    assert await alice.receive_json_from() == "one"


async def test_stock_consumers_that_leave_do_not_take_the_group_from_the_hub(chat, layer, client):
    heard = []
    await layer.listen("room", heard.append)
    alice = await chat()

    await alice.disconnect()
    publish(client, "room", b"x")

    await until(lambda: heard == [b"x"])


async def test_a_stock_group_outlives_a_lost_link(chat, client, links):
    alice = await chat()
    links.clear()
    break_links(client)
    await until(lambda: links == [False, True])

    await alice.send_json_to("again")

    assert await alice.receive_json_from() == "again"


async def test_a_message_to_one_consumer_arrives_there_alone(layer):
    one, other = await layer.new_channel(), await layer.new_channel()

    await layer.send(one, {"type": "x", "n": 1})

    assert await within(layer.receive(one)) == {"type": "x", "n": 1}
    assert layer.channels[other].empty()


async def test_the_hubs_own_messages_on_a_group_are_ordinary_ones(layer, broker):
    # So that a stock consumer in a channel's group can read what the broker's script sends.
    from realtime.broker import acts
    from realtime.broker.acts import Retention
    from realtime.redis_keys import of_channel

    channel = await layer.new_channel()
    await layer.group_add(of_channel("news").group, channel)

    act = acts.publish("news", b'{"data":1}', retention=Retention(5, 60))
    position = (await broker.publish(act)).position

    assert await within(layer.receive(channel)) == {
        "type": "realtime.publication",
        "offset": position.offset,
        "epoch": position.epoch,
        "body": '{"data":1}',
    }


async def test_a_consumer_that_hangs_costs_a_bounded_queue(layer):
    channel = await layer.new_channel()

    for number in range(CONSUMER_QUEUE_MAX + 10):
        layer.dispatch(channel, b"%d" % number)

    assert layer.channels[channel].qsize() == CONSUMER_QUEUE_MAX


async def test_sending_without_a_server_is_an_error_in_time(valkey, layer):
    valkey.stop()
    started_at = time.monotonic()

    with pytest.raises(BrokerUnavailable):
        await layer.group_send("room", {"type": "x"})

    assert time.monotonic() - started_at < 2


async def test_a_group_is_carried_where_the_brokers_scripts_publish(layer):
    assert layer._get_group_channel_name("news") == group_address("news")
    assert layers.HeliographChannelLayer is type(get_channel_layer())


def test_each_event_loop_has_a_layer_of_its_own(flushed_redis):
    layer = get_channel_layer()

    async def use():
        heard = []
        await layer.on_this_loop().listen("news", heard.append)
        await layer.group_send("news", {"type": "x"})
        await until(lambda: heard)
        return layer.on_this_loop()

    one, other = asyncio.run(use()), asyncio.run(use())

    assert one is not other


class Plain(AsyncWebsocketConsumer):
    groups = ["room"]

    async def chat_message(self, event):
        await self.send(text_data=event["text"])


async def test_groups_named_on_the_class_work(layer, db):
    communicator = WebsocketCommunicator(Plain.as_asgi(), "/chat")
    await communicator.connect()

    await get_channel_layer().group_send("room", {"type": "chat.message", "text": "hi"})

    assert await communicator.receive_from() == "hi"
    await communicator.disconnect()
