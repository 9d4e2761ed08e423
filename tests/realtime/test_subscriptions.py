"""Subscriptions that the server API makes and ends on live connections, and their races."""

import asyncio
import contextlib

import pytest

from realtime import services
from realtime.protocol.errors import BadRequest, InternalError, UnknownChannel
from realtime.protocol.messages import StreamPosition
from realtime.tokens import Override, SubscribeOptions
from tests.realtime.client import CommandError, token
from tests.realtime.conftest import until
from tests.realtime.test_commands import closes, in_seconds, refused


@pytest.fixture
async def alice(connect):
    return await connect()


async def publish(channel, *numbers):
    for number in numbers:
        position = await services.apublish(channel, number)
    return position


def session_of(engine, user="42"):
    (session,) = engine.connections.find(user)
    return session


async def at_rest(client):
    """Wait until all that the server API has asked of a connection is done."""
    await services.aunsubscribe("42", "live:last")
    await client.push("unsubscribe", "live:last")


# The push --------------------------------------------------------------------------------------


@pytest.mark.rule("push-subscribe", "api-subscribe-push", "api-subscribe-data")
async def test_the_push_says_what_a_client_needs_to_recover(alice):
    position = await publish("open:a", 1, 2)

    await services.asubscribe("42", "open:a", data={"title": 1.0})
    await services.asubscribe("42", "live:b")
    await alice.push("subscribe", "live:b")

    assert alice.texts[1:] == [
        '{"push":{"channel":"open:a","subscribe":{"recoverable":true,"positioned":true,'
        f'"epoch":"{position.epoch}","offset":2,"data":{{"title":1.0}}}}}}}}',
        '{"push":{"channel":"live:b","subscribe":{}}}',
    ]


@pytest.mark.rule("api-subscribe-recover-since")
@pytest.mark.parametrize(
    ("since", "offset", "missed"),
    [(1, 1, [2, 3]), (3, 3, []), (0, 0, [1, 2, 3]), (9, 3, [])],
)
async def test_what_was_missed_follows_the_push_in_order(alice, since, offset, missed):
    position = await publish("open:a", 1, 2, 3)

    await services.asubscribe("42", "open:a", recover_since=StreamPosition(since, position.epoch))

    push = await alice.push("subscribe", "open:a")
    assert push.get("offset", 0) == offset
    await publish("open:a", 4)
    assert [each["offset"] for each in await alice.publications(len(missed) + 1)] == [*missed, 4]


async def test_a_position_of_another_epoch_brings_nothing_but_the_top(alice):
    position = await publish("open:a", 1, 2)

    await services.asubscribe("42", "open:a", recover_since=StreamPosition(1, "other"))

    push = await alice.push("subscribe", "open:a")
    assert (push["offset"], push["epoch"]) == (2, position.epoch)
    assert await alice.has_nothing()


@pytest.mark.rule("api-subscribe-override", "api-subscribe-info", "api-subscribe-join")
async def test_what_was_given_holds_for_the_subscription(alice, engine):
    override = Override(presence=True, join_leave=True, force_push_join_leave=True)

    await services.asubscribe("42", "nowish:a", info={"role": 1}, override=override)

    await alice.push("subscribe", "nowish:a")
    join = await alice.push("join", "nowish:a")
    assert join["info"] == {"user": "42", "client": alice.id, "chan_info": {"role": 1}}
    assert "push" in alice.log[1]
    assert "subscribe" in alice.log[1]["push"]
    assert (await engine.presence.members("nowish:a")).keys() == {alice.id}


@pytest.mark.rule("api-subscribe-result", "api-subscribe-narrowed")
async def test_only_those_who_are_meant_are_subscribed(connect, alice, engine):
    other, stranger, nobody = await connect(), await connect("43"), await connect(None)

    await services.asubscribe("42", "live:one", client=other.id)
    await services.asubscribe("42", "live:none", client=stranger.id)
    await services.asubscribe("42", "live:none", session="of-an-emulated-transport")
    await services.asubscribe("42", "live:both")
    await services.asubscribe("", "live:nobody")
    await services.asubscribe("unknown", "live:none")

    await other.push("subscribe", "live:both")
    await alice.push("subscribe", "live:both")
    await nobody.push("subscribe", "live:nobody")
    counts = {"live:one": 1, "live:both": 2, "live:nobody": 1}
    assert engine.hub.client_counts("") == counts


@pytest.mark.rule("api-subscribe-already-100")
async def test_who_is_subscribed_already_is_an_error_and_the_others_are_subscribed(alice, connect):
    other = await connect()
    await alice.call("subscribe", channel="open:a")

    with pytest.raises(InternalError) as outcome:
        await services.asubscribe("42", "open:a")

    assert outcome.value.code == 100
    await other.push("subscribe", "open:a")
    await at_rest(alice)
    assert await alice.has_nothing()
    await publish("open:a", 1)
    assert (await alice.push("pub"))["data"] == 1
    assert await alice.has_nothing()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"channel": "nowhere:a"}, UnknownChannel),
        ({"channel": ""}, BadRequest),
        ({"channel": "open:" + "x" * 251}, BadRequest),
        ({"data": "x" * 70_000}, BadRequest),
        ({"info": object()}, BadRequest),
        ({"expire_at": 1}, BadRequest),
    ],
)
async def test_what_cannot_be_subscribed_says_why_and_changes_nothing(alice, given, error):
    with pytest.raises(error):
        await services.asubscribe(**{"user": "42", "channel": "open:a", **given})

    await at_rest(alice)
    assert await alice.has_nothing()


@pytest.mark.rule("api-subscribe-expire-at")
async def test_a_subscription_may_end_by_itself(alice, engine, monkeypatch):
    await services.asubscribe("42", "open:a", expire_at=in_seconds(1000))
    await services.asubscribe("42", "open:b")
    await alice.push("subscribe", "open:b")
    monkeypatch.setattr("realtime.subscriptions.EXPIRED_CLOSE_SECONDS", -2000.0)

    session_of(engine).check_subscriptions()

    assert await closes(alice, code=3006)


async def test_beyond_the_channel_limit_nothing_is_subscribed_and_the_log_says_so(
    alice, configure, engine, caplog
):
    configure(CHANNEL_LIMIT=1)
    await alice.call("subscribe", channel="open:a")

    await services.asubscribe("42", "open:b")

    await at_rest(alice)
    assert engine.hub.client_counts("") == {"open:a": 1}
    assert "as many channels as it may" in caplog.text


@pytest.mark.rule("subscribe-again-server-side-105", "unsubscribe-server-side")
async def test_what_the_server_api_made_is_like_any_other_subscription(alice, engine):
    await services.asubscribe("42", "all:a")
    await alice.push("subscribe", "all:a")
    await alice.push("join", "all:a")

    assert await refused(alice, "subscribe", channel="all:a") == 105
    assert session_of(engine).channels() == ["all:a"]
    assert await alice.call("unsubscribe", channel="all:a") == {}

    await publish("all:a", 1)
    assert await alice.has_nothing()
    assert await engine.presence.members("all:a") == {}


@pytest.mark.rule("live-lost-server-side-3010")
async def test_a_stream_that_never_fits_closes_with_3010(alice, engine, monkeypatch):
    monkeypatch.setattr(type(engine.hub), "is_current", lambda *_: False)

    await services.asubscribe("42", "open:a")

    assert await closes(alice, code=3010)
    assert await engine.presence.members("open:a") == {}


# Races -----------------------------------------------------------------------------------------


@pytest.mark.rule("order-by-offset", "order-no-duplicates")
async def test_what_is_published_meanwhile_follows_the_push(alice, hold_read):
    await publish("open:a", 1, 2)
    held = hold_read("open:a")
    await services.asubscribe("42", "open:a", recover_since=StreamPosition(1))
    await held.until_answered()

    await publish("open:a", 3, 4)
    assert await alice.has_nothing()
    held.may_go.set()

    assert (await alice.push("subscribe"))["offset"] == 1
    assert [each["offset"] for each in await alice.publications(3)] == [2, 3, 4]
    assert await alice.has_nothing()


@pytest.mark.rule("api-unsubscribe-after-subscribe")
async def test_an_unsubscribe_during_a_subscribe_ends_it(alice, engine, hold_read):
    held = hold_read("all:a")
    await services.asubscribe("42", "all:a")
    await held.until_answered()

    await services.aunsubscribe("42", "all:a")
    await asyncio.sleep(0.05)
    held.may_go.set()

    await alice.push("subscribe", "all:a")
    assert (await alice.push("unsubscribe", "all:a"))["code"] == 2000
    await at_rest(alice)
    assert engine.hub.client_counts("") == {}
    assert await engine.presence.members("all:a") == {}


@pytest.mark.parametrize("times", [1, 3])
async def test_a_subscribe_behind_an_unsubscribe_stands(alice, engine, hold_read, times):
    await services.asubscribe("42", "open:a")
    await alice.push("subscribe", "open:a")
    held = hold_read("open:other")
    await alice.send_commands({"id": 9, "subscribe": {"channel": "open:other"}})
    await held.until_answered()

    for _ in range(times):
        await services.aunsubscribe("42", "open:a")
        await services.asubscribe("42", "open:b")
        await services.aunsubscribe("42", "open:b")
        with pytest.raises(InternalError, match="already"):
            await services.asubscribe("42", "open:a")
    await asyncio.sleep(0.05)
    held.may_go.set()

    await at_rest(alice)
    assert engine.hub.client_counts("") == {"open:a": 1, "open:other": 1}
    await publish("open:a", 1)
    assert (await alice.push("pub"))["data"] == 1


async def test_a_clients_own_unsubscribe_does_not_end_what_is_asked_for_after_it(
    alice, engine, hold_read
):
    await alice.call("subscribe", channel="open:a")
    held = hold_read("open:other")
    await alice.send_commands(
        {"id": 8, "subscribe": {"channel": "open:other"}},
        {"id": 9, "unsubscribe": {"channel": "open:a"}},
    )
    await held.until_answered()
    (session,) = engine.connections.find("42")
    held.may_go.set()
    await alice.reply(9)

    session.subscribe_later("open:a", SubscribeOptions(), None)

    await alice.push("subscribe", "open:a")
    assert engine.hub.client_counts("") == {"open:a": 1, "open:other": 1}


async def test_a_client_that_leaves_meanwhile_leaves_no_trace(alice, engine, hold_read):
    held = hold_read("all:a")
    await services.asubscribe("42", "all:a")
    await held.until_answered()

    leaving = asyncio.create_task(alice.leave())
    await asyncio.sleep(0.02)
    held.may_go.set()
    await leaving

    assert engine.hub.client_counts("") == {}
    assert await engine.presence.members("all:a") == {}
    assert len(engine.connections) == 0


async def test_subscribing_and_unsubscribing_by_turns_ends_as_the_last_one_said(alice, engine):
    session = session_of(engine)
    for _ in range(20):
        session.subscribe_later("all:a", SubscribeOptions(), None)
        session.unsubscribe_later("all:a")
        session.unsubscribe_later("all:b")
        session.subscribe_later("all:b", SubscribeOptions(), None)

    await at_rest(alice)

    assert engine.hub.client_counts("") == {"all:b": 1}
    assert await engine.presence.members("all:a") == {}
    assert (await engine.presence.members("all:b")).keys() == {alice.id}


# Redis is away ---------------------------------------------------------------------------------


@pytest.fixture
async def away(valkey, alice, engine, caplog):
    """Have Redis go away just after a subscribe of all:a has been heard."""
    await asyncio.to_thread(valkey.stop)
    session_of(engine).subscribe_later("all:a", SubscribeOptions(), None)
    await until(lambda: "not subscribed yet" in caplog.text, timeout_seconds=10)
    return valkey


async def back(valkey, engine):
    await asyncio.to_thread(valkey.start)
    await until(lambda: engine.layer.is_linked, timeout_seconds=10)


@pytest.mark.rule("api-subscribe-after-outage")
async def test_a_subscribe_is_made_once_redis_is_back(away, alice, engine):
    assert await alice.has_nothing()
    await back(away, engine)

    await alice.push("subscribe", "all:a")

    await publish("all:a", 1)
    assert (await alice.push("pub", "all:a"))["data"] == 1
    assert (await engine.presence.members("all:a")).keys() == {alice.id}


async def test_an_unsubscribe_takes_back_what_waits_for_redis(away, alice, engine, monkeypatch):
    monkeypatch.setattr("realtime.subscriptions.RETRY_MAX_SECONDS", 0.5)
    session_of(engine).unsubscribe_later("all:a")
    await alice.push("unsubscribe", "all:a")
    await back(away, engine)

    await at_peace(engine)

    assert await alice.has_nothing()
    assert engine.hub.client_counts("") == {}
    assert await alice.call("presence", channel="open:a") == {"presence": {}}


async def test_the_newest_of_several_subscribes_that_wait_is_made_once(away, alice, engine):
    for number in (1, 2):
        session_of(engine).subscribe_later("all:a", SubscribeOptions(data=str(number)), None)
    session_of(engine).unsubscribe_later("all:a")
    newest = SubscribeOptions(override=Override(presence=False))
    session_of(engine).subscribe_later("all:a", newest, None)
    await alice.push("unsubscribe", "all:a")
    await back(away, engine)

    await alice.push("subscribe", "all:a")

    await at_peace(engine)
    assert await engine.presence.members("all:a") == {}
    await alice.push("join", "all:a")
    await publish("all:a", 1)
    await alice.push("pub")
    assert await alice.has_nothing()


async def test_who_subscribes_by_itself_meanwhile_is_subscribed_once(
    away, engine, alice, monkeypatch
):
    monkeypatch.setattr("realtime.subscriptions.RETRY_SECONDS", 0.0)
    await back(away, engine)

    with contextlib.suppress(CommandError):  # the server may be first
        await alice.call("subscribe", channel="all:a", token=token("42", channel="all:a"))

    await at_peace(engine)
    assert engine.hub.client_counts("") == {"all:a": 1}
    await alice.call("unsubscribe", channel="all:a")
    assert engine.hub.client_counts("") == {}


async def test_what_waits_for_redis_ends_with_the_connection(away, alice, engine, monkeypatch):
    monkeypatch.setattr("realtime.subscriptions.RETRY_MAX_SECONDS", 0.5)
    await alice.leave()
    await back(away, engine)

    await at_peace(engine)

    assert engine.hub.client_counts("") == {}
    assert await engine.presence.members("all:a") == {}


async def at_peace(engine):
    """Wait until nothing goes on for any connection."""
    await until(lambda: not engine.tasks._tasks, timeout_seconds=15)
