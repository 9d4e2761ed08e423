"""Rules of subscribing, of names and of what is pushed that nothing else proves."""

from dataclasses import replace

import pytest
from django.test import AsyncClient

from realtime import services
from realtime.snapshot import Snapshot
from tests.realtime.client import NAMESPACES, token
from tests.realtime.test_commands import closes, in_seconds, refused


@pytest.fixture
async def alice(connect):
    return await connect()


def sub_token(channel, user="42", **claims):
    return token(user, channel=channel, **claims)


# Subscribing -----------------------------------------------------------------------------------


@pytest.mark.rule("subscribe-data-accepted")
async def test_data_of_a_subscribe_is_accepted(alice):
    assert await alice.call("subscribe", channel="live:a", data={"any": [1]}) == {}


@pytest.mark.rule("wish-positioned-by-history")
async def test_who_may_read_history_may_be_positioned(alice):
    wished = await alice.call("subscribe", channel="member:a", positioned=True)
    not_wished = await alice.call("subscribe", channel="member:b")

    assert wished["positioned"] is True
    assert "recoverable" not in wished
    assert not_wished == {}


@pytest.mark.rule("sub-token-wishes")
@pytest.mark.parametrize(
    ("channel", "is_granted"), [("wish:a", True), ("nowish:a", False), ("member:a", True)]
)
async def test_a_wish_is_judged_with_a_token_as_without_one(alice, channel, is_granted):
    result = await alice.call(
        "subscribe", channel=channel, token=sub_token(channel), recoverable=True
    )

    assert result.get("recoverable", False) is is_granted


@pytest.mark.rule("sub-claim-sub")
async def test_a_token_without_a_user_is_for_connections_without_one(alice, connect):
    nobody = await connect(None)
    given = sub_token("closed:a", None)

    assert await nobody.call("subscribe", channel="closed:a", token=given) is not None
    await alice.send_commands({"id": 9, "subscribe": {"channel": "closed:a", "token": given}})
    assert await closes(alice, code=3500)


@pytest.mark.rule("sub-claim-expire-at")
async def test_expire_at_of_a_subscription_stands_above_exp(alice):
    later = sub_token("closed:a", exp=in_seconds(50), expire_at=in_seconds(500))
    never = sub_token("closed:b", exp=in_seconds(50), expire_at=0)

    assert (await alice.call("subscribe", channel="closed:a", token=later))["ttl"] > 100
    assert "expires" not in await alice.call("subscribe", channel="closed:b", token=never)


@pytest.mark.rule("recover-hole-3010")
async def test_a_stream_that_never_fits_what_arrives_closes_with_3010(alice, engine, monkeypatch):
    monkeypatch.setattr(type(engine.hub), "is_current", lambda *_: False)

    await alice.send_commands({"id": 9, "subscribe": {"channel": "open:a"}})

    assert await closes(alice, code=3010)
    assert await engine.presence.members("open:a") == {}


# Names and formats -----------------------------------------------------------------------------


@pytest.mark.rule("name-private-is-another")
async def test_a_private_channel_is_another_than_the_one_without_the_dollar(alice):
    await alice.call("subscribe", channel="open:a")
    await alice.call("subscribe", channel="$open:a", token=sub_token("$open:a"))

    await services.apublish("open:a", "public")
    await services.apublish("$open:a", "private")

    assert (await alice.push("pub", "open:a"))["data"] == "public"
    assert (await alice.push("pub", "$open:a"))["data"] == "private"
    assert await alice.has_nothing()


@pytest.mark.rule("option-format-json")
@pytest.mark.parametrize("data", [{"a": 1}, [1], "text", 0, False])
async def test_the_format_json_takes_any_json(alice, engine, monkeypatch, data):
    namespaces = {**NAMESPACES, "json": replace(NAMESPACES["open"], publication_data_format="json")}
    monkeypatch.setattr(engine, "snapshot", Snapshot(2, namespaces))
    await alice.call("subscribe", channel="json:a")

    await alice.call("publish", channel="json:a", data=data)

    assert (await alice.push("pub"))["data"] == data
    assert await refused(alice, "publish", channel="json:a", data=None) == 107


# Pushes ----------------------------------------------------------------------------------------


@pytest.mark.rule("push-pub-no-internals")
async def test_nothing_internal_is_pushed_with_a_publication(alice):
    await alice.call("subscribe", channel="open:a")

    await services.apublish(
        "open:a", 1, tags={"k": "v"}, idempotency_key="i", version=3, version_epoch="e"
    )
    await services.apublish("open:a", 2)

    first, second = await alice.publications(2)
    assert len(first.pop("epoch")) == 8
    assert first == {"data": 1, "offset": 1, "tags": {"k": "v"}}
    assert second == {"data": 2, "offset": 2}


@pytest.mark.rule("join-only-if-announced")
async def test_nobody_is_announced_where_the_namespace_does_not_say_so(alice, connect):
    await alice.call("subscribe", channel="open:a", join_leave=True)
    bob = await connect("43")

    await bob.call("subscribe", channel="open:a", join_leave=True)
    await bob.leave()

    assert await alice.call("presence_stats", channel="open:a") == {
        "num_clients": 1,
        "num_users": 1,
    }
    assert await alice.has_nothing()


# Server API ------------------------------------------------------------------------------------


@pytest.mark.rule("api-unsubscribe-not-subscribed")
async def test_an_unsubscribe_is_told_also_to_who_is_not_subscribed(alice):
    await services.aunsubscribe("42", "open:a")

    assert await alice.push("unsubscribe", "open:a") == {
        "code": 2000,
        "reason": "server unsubscribe",
    }


@pytest.mark.rule("api-unsubscribe-empty-channel")
async def test_an_unsubscribe_of_no_channel_ends_none(alice):
    await alice.call("subscribe", channel="open:a")

    await services.aunsubscribe("42", "")
    await services.aunsubscribe("42", "open:b")

    await alice.push("unsubscribe", "open:b")
    await services.apublish("open:a", 1)
    assert (await alice.push("pub", "open:a"))["data"] == 1


@pytest.mark.rule("api-anonymous-user")
async def test_the_empty_user_stands_for_connections_without_one(alice, connect):
    nobody = await connect(None)

    await services.adisconnect("")

    assert await closes(nobody, code=3503)
    assert await alice.call("unsubscribe", channel="open:a") == {}


@pytest.mark.rule("api-node-zero-values")
async def test_every_field_of_a_node_is_written_when_it_is_zero(engine, configure):
    configure(API_KEY="the-key-of-this-test")

    response = await AsyncClient().post(
        "/api/info",
        "{}",
        content_type="application/json",
        headers={"X-API-Key": "the-key-of-this-test"},
    )

    (node,) = response.json()["result"]["nodes"]
    counts = {"num_clients": 0, "num_users": 0, "num_subs": 0, "num_channels": 0}
    assert node == {
        **counts,
        **{name: node[name] for name in ("uid", "name", "version", "uptime")},
    }
