"""The door for Python code: from views, threads, commands, with and without an instance."""

import asyncio
import threading
import time

import msgspec
import pytest
import redis
from asgiref.sync import sync_to_async
from django.db import DatabaseError, transaction
from django.test import AsyncClient, Client

from realtime import reach, services
from realtime.models import Namespace
from realtime.protocol.errors import (
    BadRequest,
    BrokerUnavailable,
    InternalError,
    NotAvailable,
    UnknownChannel,
    UnrecoverablePosition,
)
from realtime.protocol.messages import StreamPosition
from realtime.services import PublishItem, PublishOptions
from tests.realtime.client import SNAPSHOT
from tests.realtime.conftest import until


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server, protocol=2) as client:
        yield client


@pytest.fixture
def namespaces(redis_server, monkeypatch, settings):
    """Have the namespaces of ``client`` configured, without a database and an instance."""
    settings.ROOT_URLCONF = "tests.realtime.urls"
    monkeypatch.setattr("realtime.snapshot.load_if_changed", lambda known: SNAPSHOT)
    monkeypatch.setattr(reach, "_polled", reach._PolledSnapshot())


@pytest.fixture
def history(namespaces):
    """Return what a channel's stream holds, read in a loop of its own."""

    def history(channel="open:a"):
        result = asyncio.run(services.ahistory(channel, limit=-1))
        return [msgspec.json.decode(each.data) for each in result.publications]

    return history


def connections(client):
    return client.info("clients")["connected_clients"]


# Publish, in a process that runs no instance ---------------------------------------------------


def test_a_thread_publishes(history):
    position = services.publish("open:a", {"n": 1})

    assert position.offset == 1
    assert len(position.epoch) == 8
    assert history() == [{"n": 1}]


async def test_a_coroutine_publishes(namespaces):
    first = await services.apublish("open:a", 1)
    second = await services.apublish("open:a", 2)

    assert second == StreamPosition(2, first.epoch)
    assert (await services.ahistory("open:a")).offset == 2


def test_a_channel_without_history_has_no_position(namespaces):
    assert services.publish("live:a", 1) == StreamPosition(0, "")


@pytest.mark.rule("name-without-namespace")
def test_a_channel_without_a_namespace_is_one_of_the_empty_name(namespaces):
    assert services.publish("plain", 1) == StreamPosition(0, "")


@pytest.mark.rule("api-no-permissions")
def test_nobodys_permission_is_asked(history):
    services.publish("closed:a", 1)
    services.publish("$closed:a", 1)

    assert history("closed:a") == [1]
    assert history("$closed:a") == [1]


def test_raw_json_is_published_as_it_is(history):
    services.publish("open:a", msgspec.Raw(b'{"a":  1.0}'))

    result = asyncio.run(services.ahistory("open:a", limit=1))
    assert bytes(result.publications[0].data) == b'{"a":  1.0}'


@pytest.mark.parametrize(
    ("channel", "data", "error"),
    [
        ("nowhere:a", 1, UnknownChannel),
        ("", 1, BadRequest),
        ("open:" + "x" * 251, 1, BadRequest),
        ("open:\ud800", 1, BadRequest),
        ("open:a", None, BadRequest),
        ("open:a", object(), BadRequest),
        ("open:a", "x" * 70_000, BadRequest),
        ("open:a", float("nan"), BadRequest),
        ("object:a", [], BadRequest),
    ],
)
def test_what_cannot_be_published_says_why(namespaces, channel, data, error):
    with pytest.raises(error):
        services.publish(channel, data)
    with pytest.raises(error):
        asyncio.run(services.apublish(channel, data))
    with pytest.raises(error):
        services.publish_on_commit(channel, data)


def test_options_travel_along(history):
    first = services.publish("open:a", 1, idempotency_key="k", version=5)
    again = services.publish("open:a", 2, idempotency_key="k")
    old = services.publish("open:a", 3, version=5)
    skipped = services.publish("open:a", 4, skip_history=True)
    services.publish("open:a", 5, tags={"k": "v"})

    assert again == old == first
    assert skipped == StreamPosition(0, "")
    result = asyncio.run(services.ahistory("open:a", limit=-1))
    assert [each.tags for each in result.publications] == [None, {"k": "v"}]


async def test_many_are_published_in_order_each_with_its_outcome(namespaces):
    items = [
        PublishItem("open:a", 1),
        PublishItem("nowhere:a", 1),
        PublishItem("open:a", 2),
        PublishItem("open:b", 1),
        PublishItem("open:a", None),
        PublishItem("live:a", 1),
    ]

    outcomes = await services.apublish_many(items)

    assert [each.offset for each in outcomes if isinstance(each, StreamPosition)] == [1, 2, 1, 0]
    assert isinstance(outcomes[1], UnknownChannel)
    assert isinstance(outcomes[4], BadRequest)
    assert await services.apublish_many([]) == []


async def test_others_are_served_while_many_publications_are_prepared(namespaces, monkeypatch):
    turns, seen = 0, []
    act_of = services.act_of

    async def turn():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def watched(*args, **named):
        seen.append(turns)
        return act_of(*args, **named)

    monkeypatch.setattr(services, "act_of", watched)
    turning = asyncio.create_task(turn())

    await services.apublish_many([PublishItem("live:a", 1)] * 1000)
    turning.cancel()

    assert max(map(seen.count, seen)) <= services.PREPARE_SLICE


async def test_the_same_for_many_channels_is_encoded_once(namespaces, monkeypatch):
    encoded = []
    body_of = services.body_of

    def watched(data, namespace, *, options):
        encoded.append((bytes(data), options.tags))
        return body_of(data, namespace, options=options)

    monkeypatch.setattr(services, "body_of", watched)
    data, tagged = msgspec.Raw(b"[]"), PublishOptions(tags={"k": "v"})

    outcomes = await services.apublish_many(
        [
            *[PublishItem(f"open:{number}", data) for number in range(100)],
            PublishItem("live:a", data),
            PublishItem("object:a", data),
            PublishItem("object:b", data),
            PublishItem("open:a", data),
            PublishItem("open:a", msgspec.Raw(b"[1]")),
            PublishItem("open:a", msgspec.Raw(b"[1]"), tagged),
        ]
    )

    assert [type(each) for each in outcomes] == [
        *[StreamPosition] * 101,
        BadRequest,
        BadRequest,
        *[StreamPosition] * 3,
    ]
    assert encoded == [(b"[]", None)] * 5 + [(b"[1]", None), (b"[1]", {"k": "v"})]
    result = await services.ahistory("open:a", limit=-1)
    assert [(bytes(each.data), each.tags) for each in result.publications] == [
        (b"[]", None),
        (b"[1]", None),
        (b"[1]", {"k": "v"}),
    ]


@pytest.mark.parametrize("path", ["say", "say_in_thread", "say_async"])
def test_views_publish(history, path):
    assert Client().get(f"/{path}").json() == {"offset": 1}
    assert Client().get(f"/{path}").json() == {"offset": 2}
    assert len(history()) == 2


@pytest.mark.parametrize("path", ["say", "say_in_thread", "say_async"])
async def test_views_under_asgi_publish(namespaces, path):
    answer = await AsyncClient().get(f"/{path}")

    assert answer.json() == {"offset": 1}


def test_the_number_of_connections_stays_what_it_is(namespaces, client):
    services.publish("live:a", 0)
    before = connections(client)

    for number in range(100):
        services.publish("live:a", number)
    assert connections(client) == before
    for _ in range(5):
        asyncio.run(services.apublish("live:a", 1))
        asyncio.run(services.apublish_many([PublishItem("live:a", 1)] * 10))

    assert connections(client) == before


def test_threads_share_a_bounded_number_of_connections(namespaces, client):
    before = connections(client)

    def publish():
        for number in range(20):
            services.publish("live:a", number)

    threads = [threading.Thread(target=publish) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert connections(client) - before <= 32


def test_a_publish_without_redis_is_an_error_within_two_seconds(valkey, namespaces):
    valkey.stop()
    started_at = time.monotonic()

    with pytest.raises(BrokerUnavailable):
        services.publish("open:a", 1)

    assert time.monotonic() - started_at < 2


def test_a_publish_heals_after_redis_was_away(valkey, namespaces):
    services.publish("open:a", 1)
    valkey.stop()
    with pytest.raises(BrokerUnavailable):
        services.publish("open:a", 2)
    valkey.start()

    assert services.publish("open:a", 2).offset == 2


# On commit -------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
class TestOnCommit:
    def test_nothing_is_published_before_the_commit_and_once_after_it(self, history):
        with transaction.atomic():
            services.publish_on_commit("open:a", 1)
            assert history() == []

        assert history() == [1]

    def test_nothing_is_published_after_a_rollback(self, history):
        with transaction.atomic():
            services.publish_on_commit("open:a", 1)
            transaction.set_rollback(True)

        assert history() == []

    def test_what_is_rolled_back_to_a_savepoint_is_not_published(self, history):
        with transaction.atomic():
            services.publish_on_commit("open:a", "kept")
            with transaction.atomic():
                services.publish_on_commit("open:a", "undone")
                transaction.set_rollback(True)

        assert history() == ["kept"]

    def test_without_a_transaction_it_is_published_at_once(self, history):
        services.publish_on_commit("open:a", 1)

        assert history() == [1]

    def test_the_order_of_the_calls_is_kept(self, history):
        with transaction.atomic():
            for number in range(5):
                services.publish_on_commit("open:a", number)

        assert history() == [0, 1, 2, 3, 4]

    def test_the_data_is_that_of_the_call(self, history):
        data = {"state": "called"}
        with transaction.atomic():
            services.publish_on_commit("open:a", data)
            data["state"] = "changed later"

        assert history() == [{"state": "called"}]

    def test_a_view_publishes_on_commit(self, history):
        Client().get("/say_on_commit")

        assert history() == ["committed"]

    def test_a_commit_stands_when_redis_is_away(self, valkey, namespaces, caplog):
        valkey.stop()

        with transaction.atomic():
            Namespace.objects.create(name="made")
            services.publish_on_commit("open:a", 1)

        assert Namespace.objects.filter(name="made").exists()
        assert "Error calling" in caplog.text

    async def test_a_coroutine_publishes_on_commit_in_a_thread(self, namespaces):
        def change():
            with transaction.atomic():
                services.publish_on_commit("open:a", 1)

        await sync_to_async(change)()

        assert (await services.ahistory("open:a")).offset == 1


# Beside an instance ----------------------------------------------------------------------------


@pytest.mark.rule("info-not-from-api")
async def test_everything_that_is_published_here_reaches_the_clients(engine, connect):
    alice = await connect()
    await alice.call("subscribe", channel="open:a")

    await services.apublish("open:a", 1)
    await asyncio.to_thread(services.publish, "open:a", 2)
    await asyncio.to_thread(asyncio.run, services.apublish("open:a", 3))
    await services.apublish_many([PublishItem("open:a", 4), PublishItem("open:a", 5)])

    assert [each["data"] for each in await alice.publications(5)] == [1, 2, 3, 4, 5]
    assert "info" not in await one_more(alice)


async def one_more(client):
    await services.apublish("open:a", 6)
    return await client.push("pub")


async def test_the_instances_connections_are_used(engine, client):
    await services.apublish("live:a", 0)
    before = connections(client)

    await asyncio.gather(*(services.apublish("live:a", number) for number in range(50)))

    assert connections(client) - before <= 4


@pytest.mark.rule("api-presence-result", "api-presence-stats-result")
async def test_presence_is_read(engine, connect):
    alice = await connect()
    await alice.call("subscribe", channel="open:a")

    assert (await services.apresence("open:a")).keys() == {alice.id}
    stats = await services.apresence_stats("open:a")
    assert (stats.num_clients, stats.num_users) == (1, 1)
    for read in (services.apresence, services.apresence_stats):
        with pytest.raises(NotAvailable):
            await read("live:a")
        with pytest.raises(UnknownChannel):
            await read("nowhere:a")


@pytest.mark.rule("api-channels-counts", "api-channels-pattern")
async def test_channels_are_counted_over_all_instances(engine, connect):
    alice, bob = await connect(), await connect("43")
    for client, channel in ((alice, "open:a"), (bob, "open:a"), (bob, "live:b")):
        await client.call("subscribe", channel=channel)
    await until(lambda: engine.hub.client_counts(""))

    assert await services.achannels() == ({"open:a": 2, "live:b": 1}, [])
    assert await services.achannels("live:*") == ({"live:b": 1}, [])


@pytest.mark.rule("api-info-nodes")
async def test_every_instance_gives_its_figures(engine, connect):
    alice, _ = await connect(), await connect("")
    await alice.call("subscribe", channel="open:a")

    (node,), missing = await services.ainfo()

    assert missing == []
    assert (node.uid, node.num_clients, node.num_users) == (engine.uid, 2, 2)
    assert (node.num_subs, node.num_channels) == (1, 1)
    assert node.name
    assert node.version
    assert node.uptime >= 0


@pytest.mark.django_db
async def test_readiness_names_what_is_needed(engine):
    readiness = await services.areadiness()

    assert readiness.keys() == {"redis", "layer", "control", "database", "draining", "instance"}
    assert {name: state for name, state in readiness.items() if state != "ok"} == {}


@pytest.mark.django_db
async def test_readiness_says_what_is_wrong(valkey, engine, connect):
    engine.is_draining = True
    await asyncio.to_thread(valkey.stop)
    await until(lambda: not engine.layer.is_linked)

    readiness = await services.areadiness()

    wrong = {name for name, state in readiness.items() if state != "ok"}
    assert wrong == {"redis", "layer", "draining"}


# History ---------------------------------------------------------------------------------------


async def test_history_is_read_in_both_directions(namespaces):
    for number in range(1, 6):
        position = await services.apublish("open:a", number)

    async def offsets(**how):
        result = await services.ahistory("open:a", **how)
        assert (result.offset, result.epoch) == position
        return [each.offset for each in result.publications]

    assert await offsets() == []
    assert await offsets(limit=-1) == [1, 2, 3, 4, 5]
    assert await offsets(limit=2, since=StreamPosition(2)) == [3, 4]
    assert await offsets(limit=2, reverse=True) == [5, 4]
    assert await offsets(limit=9, reverse=True, since=StreamPosition(3, position.epoch)) == [2, 1]


@pytest.mark.parametrize(
    ("channel", "how", "error"),
    [
        ("nowhere:a", {}, UnknownChannel),
        ("live:a", {}, NotAvailable),
        ("open:a", {"reverse": True, "since": StreamPosition(0)}, BadRequest),
        ("open:a", {"since": StreamPosition(0, "other")}, UnrecoverablePosition),
    ],
)
async def test_history_that_cannot_be_read_says_why(namespaces, channel, how, error):
    await services.apublish("open:a", 1)

    with pytest.raises(error):
        await services.ahistory(channel, limit=5, **how)


@pytest.mark.rule("stream-remove-keeps-position")
async def test_history_is_removed_and_its_position_stays(namespaces):
    position = await services.apublish("open:a", 1)

    await services.ahistory_remove("open:a")

    result = await services.ahistory("open:a", limit=-1)
    assert (result.publications, result.offset, result.epoch) == ([], *position)
    with pytest.raises(NotAvailable):
        await services.ahistory_remove("live:a")


# Configuration ---------------------------------------------------------------------------------


def test_a_process_without_an_instance_looks_again_after_a_second(
    redis_server, monkeypatch, configure
):
    known = []
    monkeypatch.setattr(reach, "_polled", reach._PolledSnapshot())
    monkeypatch.setattr(
        "realtime.snapshot.load_if_changed", lambda last: known.append(last) or SNAPSHOT
    )
    configure(SNAPSHOT_POLL_SECONDS=60)

    assert services.snapshot() is services.snapshot() is SNAPSHOT
    assert known == [None]
    configure(SNAPSHOT_POLL_SECONDS=0)
    services.snapshot()

    assert known == [None, SNAPSHOT]


async def test_a_database_that_does_not_answer_is_an_internal_error(redis_server, monkeypatch):
    def fail(known):
        raise DatabaseError

    monkeypatch.setattr(reach, "_polled", reach._PolledSnapshot())
    monkeypatch.setattr("realtime.snapshot.load_if_changed", fail)

    with pytest.raises(InternalError):
        await services.apublish("open:a", 1)


async def test_the_instances_snapshot_is_used_where_there_is_one(engine, monkeypatch):
    monkeypatch.setattr(reach, "_polled", None)

    assert services.snapshot() is engine.snapshot
    assert await services.asnapshot() is engine.snapshot
