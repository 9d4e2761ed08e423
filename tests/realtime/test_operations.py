"""What operators ask of connections: who there is, another end, and to go."""

import time
import uuid

import pytest

from realtime import services
from realtime.control import ID_MAX_BYTES, WHITELIST_MAX
from realtime.operations import PAGE_MAX
from realtime.protocol.errors import BadRequest
from realtime.protocol.messages import StreamPosition
from tests.realtime.test_commands import closes, in_seconds


@pytest.fixture
async def alice(connect):
    return await connect()


# Who there is ----------------------------------------------------------------------------------


async def test_every_connection_is_shown_with_its_channels(connect, engine):
    alice, nobody = await connect("42"), await connect(None)
    bob = await connect("43", channels=["all:x"])
    await alice.call("subscribe", channel="open:a")
    await services.asubscribe("42", "live:b")
    await alice.push("subscribe")

    found, missing = await services.aconnections()

    assert missing == []
    assert [each.client for each in found] == sorted([alice.id, bob.id, nobody.id])
    shown = {each.client: (each.user, each.node, sorted(each.channels)) for each in found}
    assert shown == {
        alice.id: ("42", engine.uid, ["live:b", "open:a"]),
        bob.id: ("43", engine.uid, ["all:x"]),
        nobody.id: ("", engine.uid, []),
    }


async def test_connections_are_found_by_user_and_by_channel(connect):
    one, other, bob, nobody = [await connect(user) for user in ("42", "42", "43", None)]
    for client in (one, bob):
        await client.call("subscribe", channel="open:a")

    async def clients(**wanted):
        return {each.client for each in (await services.aconnections(**wanted))[0]}

    assert await clients(user="42") == {one.id, other.id}
    assert await clients(user="") == {nobody.id}
    assert await clients(user="44") == set()
    assert await clients(channel="open:a") == {one.id, bob.id}
    assert await clients(user="42", channel="open:a") == {one.id}
    assert await clients(channel="open:b") == set()


async def test_pages_together_show_everybody_once(connect):
    everybody = sorted([(await connect(str(number))).id for number in range(7)])
    pages, after = [], ""
    while True:
        page, _ = await services.aconnections(after=after, limit=3)
        if not page:
            break
        pages.append([each.client for each in page])
        after = pages[-1][-1]

    assert pages == [everybody[:3], everybody[3:6], everybody[6:]]
    assert (await services.aconnections(limit=10**9))[0]
    assert PAGE_MAX == 1000


async def test_pages_are_cut_from_more_connections_than_one_slice(engine, connect, monkeypatch):
    monkeypatch.setattr("realtime.slices.SLICE_SECONDS", 0)
    everybody = sorted([(await connect()).id for _ in range(5)])

    page, _ = await services.aconnections(user="42", after=everybody[0], limit=3)

    assert [each.client for each in page] == everybody[1:4]


async def test_who_was_refused_or_has_left_is_not_shown(connect, dial):
    left = await connect()
    await left.leave()
    refused = await dial()
    await refused.send_commands({"id": 1, "connect": {"token": "garbage"}})
    await closes(refused, code=3500)

    assert await services.aconnections() == ([], [])


# One client ------------------------------------------------------------------------------------


async def test_one_client_is_closed_whoever_it_is(connect):
    one, other, nobody = await connect(), await connect(), await connect(None)

    await services.adisconnect_client(one.id)
    await services.adisconnect_client(nobody.id, code=4501, reason="banned")
    await services.adisconnect_client(str(uuid.uuid4()))
    await services.adisconnect_client("")

    assert await closes(one, code=3503)
    assert await closes(nobody, code=4501)
    assert await other.call("unsubscribe", channel="open:a") == {}


# Another end -----------------------------------------------------------------------------------


@pytest.mark.rule("push-refresh", "api-refresh-push", "api-refresh-expire-at")
async def test_another_end_is_pushed_and_holds(connect, monkeypatch):
    client = await connect(exp=in_seconds(1000))

    await services.arefresh("42")
    await client.push("refresh")
    await services.arefresh("42", expire_at=in_seconds(100))
    await client.push("refresh")

    assert client.texts[1] == '{"push":{"refresh":{}}}'
    assert client.texts[2] in [
        f'{{"push":{{"refresh":{{"expires":true,"ttl":{ttl}}}}}}}' for ttl in (99, 100)
    ]
    monkeypatch.setattr("realtime.session.EXPIRED_CLOSE_SECONDS", -100.0)
    await services.arefresh("42", expire_at=in_seconds(101))
    assert await closes(client, code=3005)


@pytest.mark.rule("api-refresh-expire-at")
async def test_an_end_that_is_taken_back_closes_nobody(connect, monkeypatch):
    monkeypatch.setattr("realtime.session.EXPIRED_CLOSE_SECONDS", 0.0)
    client = await connect(exp=in_seconds(1), expire_at=in_seconds(2))

    await services.arefresh("42", expire_at=0)

    await client.push("refresh")
    assert await client.has_nothing(seconds=2.5)


@pytest.mark.rule("api-refresh-expired-3005", "api-refresh-past-3005", "api-refresh-narrowed")
@pytest.mark.parametrize(
    "how", [{"expired": True}, {"expire_at": 1}, {"expire_at": int(time.time())}]
)
async def test_an_end_in_the_past_closes_at_once(connect, how):
    one, other, stranger = await connect(), await connect(), await connect("43")

    await services.arefresh("42", client=one.id, **how)
    assert await closes(one, code=3005)
    await services.arefresh("42", session="of-an-emulated-transport", **how)
    assert await other.call("unsubscribe", channel="open:a") == {}
    await services.arefresh("42", **how)

    assert await closes(other, code=3005)
    assert await stranger.call("unsubscribe", channel="open:a") == {}


@pytest.mark.rule("api-refresh-info")
async def test_info_is_what_others_see_from_now_on(connect, engine):
    client = await connect(info={"name": "old"})
    await client.call("subscribe", channel="open:a")

    await services.arefresh("42")
    await client.push("refresh")
    await client.call("publish", channel="open:a", data=1)
    await services.arefresh("42", info={"name": "new"})
    await client.push("refresh")
    await client.call("publish", channel="open:a", data=2)

    seen = [each["info"]["conn_info"]["name"] for each in await client.publications(2)]
    assert seen == ["old", "new"]


@pytest.mark.parametrize("info", [object(), "x" * 70_000])
async def test_an_info_that_cannot_be_sent_is_refused_and_changes_nothing(alice, info):
    with pytest.raises(BadRequest):
        await services.arefresh("42", info=info)

    assert await alice.has_nothing()


# Bounds ----------------------------------------------------------------------------------------

LONG = "é" * (ID_MAX_BYTES // 2) + "xx"  # one byte too many
LONG_USER = "é" * (32 * 1024) + "x"
TOO_MUCH = {
    "channel of an unsubscribe": lambda: services.aunsubscribe("42", "open:" + "x" * 251),
    "user of an unsubscribe": lambda: services.aunsubscribe(LONG_USER, "open:a"),
    "client of an unsubscribe": lambda: services.aunsubscribe("42", "open:a", client=LONG),
    "session of an unsubscribe": lambda: services.aunsubscribe("42", "open:a", session=LONG),
    "channel of a subscribe": lambda: services.asubscribe("42", "open:" + "x" * 251),
    "user of a subscribe": lambda: services.asubscribe(LONG_USER, "open:a"),
    "client of a subscribe": lambda: services.asubscribe("42", "open:a", client=LONG),
    "session of a subscribe": lambda: services.asubscribe("42", "open:a", session=LONG),
    "epoch of a subscribe": lambda: services.asubscribe(
        "42", "open:a", recover_since=StreamPosition(1, "e" * 257)
    ),
    "user of a refresh": lambda: services.arefresh(LONG_USER),
    "client of a refresh": lambda: services.arefresh("42", client=LONG),
    "session of a refresh": lambda: services.arefresh("42", session=LONG),
    "client of an expiry": lambda: services.arefresh("42", client=LONG, expired=True),
    "user of a disconnect": lambda: services.adisconnect(LONG_USER),
    "client of a disconnect": lambda: services.adisconnect("42", client=LONG),
    "session of a disconnect": lambda: services.adisconnect("42", session=LONG),
    "kept client": lambda: services.adisconnect("42", whitelist=["c", LONG]),
    "kept clients": lambda: services.adisconnect("42", whitelist=["c"] * (WHITELIST_MAX + 1)),
    "client alone": lambda: services.adisconnect_client(LONG),
    "no Unicode": lambda: services.adisconnect("\ud800"),
    "pattern": lambda: services.achannels("x" * 256),
}


@pytest.mark.rule("api-ids-bounded-107", "api-channels-pattern-107")
@pytest.mark.parametrize("name", TOO_MUCH)
async def test_what_all_instances_would_have_to_keep_is_bounded(alice, name):
    with pytest.raises(BadRequest):
        await TOO_MUCH[name]()

    await services.aunsubscribe("42", "open:last")
    await alice.push("unsubscribe", "open:last")


async def test_what_is_just_within_the_bounds_is_taken(connect):
    user = "x" * 10_000
    client = await connect(user)
    others = [LONG[:-1]] * (WHITELIST_MAX - 1)

    await services.adisconnect(LONG_USER[:-1])
    await services.adisconnect(user, whitelist=[client.id, *others])
    await services.aunsubscribe(user, "open:" + "x" * 250)

    assert await client.push("unsubscribe", "open:" + "x" * 250)
    assert await services.achannels("x" * 255) == ({}, [])
