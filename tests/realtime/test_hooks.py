"""Who is asked about what clients do. Source: Centrifugo proxy hooks, and protocol, section 16."""

import asyncio
import time
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from msgspec import Raw

from realtime import services
from realtime.handlers import (
    Connection,
    on_connect,
    on_disconnect,
    on_publish,
    on_subscribe,
)
from realtime.hooks import (
    ApplicationError,
    CallFailed,
    ConnectAnswer,
    Kind,
    PublishAnswer,
    RefreshAnswer,
)
from realtime.protocol.disconnects import Disconnect, Disconnected
from realtime.tokens import Override, SubscribeOptions
from tests.realtime.client import Client, CommandError, token
from tests.realtime.conftest import until, within


def in_seconds(seconds: float) -> int:
    return int(time.time() + seconds)


async def refused(call: Any) -> int:
    with pytest.raises(CommandError) as outcome:
        await call
    return int(outcome.value.code)


def session_of(engine: Any) -> Any:
    (session,) = engine.connections
    return session


@pytest.fixture
async def alice(connect):
    return await connect()


# connect -----------------------------------------------------------------------------------------


@pytest.mark.rule("connect-proxy", "connect-result-data")
async def test_without_a_token_somebody_says_who_it_is(asking, dial, engine):
    subs = {"open:a": SubscribeOptions(data=Raw(b'"hello"'))}
    answer = ConnectAnswer("7", info=Raw(b'{"n":1}'), data=Raw(b'{"d":2}'), subs=subs)
    asked = asking.add(Kind.CONNECT, answer=answer)
    client = await dial()

    result = await client.connect(
        "", data={"from": "page"}, name="js", version="1", subs={"open:b": {}}
    )

    assert result["data"] == {"d": 2}
    assert result["subs"]["open:a"]["data"] == "hello"
    (request,) = asked.requests
    assert (bytes(request.data), request.name, request.version) == (b'{"from": "page"}', "js", "1")
    assert request.channels == ("open:b",)
    assert request.peer.user == ""
    presence = await services.apresence("open:a")
    assert presence[client.id].user == "7"
    assert bytes(presence[client.id].conn_info) == b'{"n":1}'


@pytest.mark.rule("connect-proxy")
async def test_with_a_token_nobody_is_asked(asking, connect):
    asked = asking.add(Kind.CONNECT, answer=ConnectAnswer("7"))

    await connect()

    assert not asked.requests


async def test_who_nobody_knows_is_treated_as_if_nobody_had_been_asked(asking, dial, configure):
    asking.add(Kind.CONNECT, answer=None)
    client = await dial()
    await client.send_commands({"id": 1, "connect": {}})
    assert (await client.closed()).code == 3501

    configure(ALLOW_ANONYMOUS=True)
    await (await dial()).connect("")


async def test_who_was_answered_may_be_anonymous(asking, dial):
    asking.add(Kind.CONNECT, answer=ConnectAnswer(""))

    assert (await (await dial()).connect(""))["client"]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (CallFailed("away"), 100),
        (RuntimeError("broken"), 100),
        (ApplicationError(1403, "no"), 1403),
        (ConnectAnswer("7", expire_at=1), 110),
        (ConnectAnswer("7", subs={"nowhere:a": SubscribeOptions()}), 102),
        (Raw(b"{}"), 100),
    ],
)
async def test_a_refused_connect_is_an_error_reply(asking, dial, answer, code):
    asking.add(Kind.CONNECT, answer=answer)

    assert await refused((await dial()).connect("")) == code


async def test_whoever_is_asked_may_end_the_connection(asking, dial):
    asking.add(Kind.CONNECT, answer=Disconnected(Disconnect(4501, "banned")))
    client = await dial()

    await client.send_commands({"id": 1, "connect": {}})

    assert (await client.closed()).code == 4501


async def test_what_follows_a_connect_waits_for_its_answer(asking, dial):
    asked = asking.add(Kind.CONNECT, answer=ConnectAnswer("7"), waits=True)
    asking.add(Kind.RPC, "m", answer=Raw(b"1"))
    client = await dial()

    await client.send_commands(
        {"id": 1, "connect": {}},
        {"id": 2, "subscribe": {"channel": "open:a"}},
        {"id": 3, "rpc": {"method": "m"}},
    )
    await within(asked.is_asked.wait())
    assert await client.has_nothing()
    asked.may_answer.set()

    await client.reply(3)
    assert [message["id"] for message in client.log] == [1, 2, 3]


async def test_a_client_that_leaves_meanwhile_leaves_nothing(asking, dial, engine):
    asked = asking.add(Kind.CONNECT, answer=ConnectAnswer("7"), waits=True)
    client = await dial()
    await client.send_commands({"id": 1, "connect": {}})
    await within(asked.is_asked.wait())

    await client.leave()

    await until(lambda: asked.cancelled == 1)
    await until(engine.connections.is_empty.is_set)
    assert len(engine.connections) == 0


async def test_a_client_that_leaves_while_it_is_let_in_leaves_nothing(
    asking, dial, engine, hold_read
):
    subs = {"open:a": SubscribeOptions()}
    asking.add(Kind.CONNECT, answer=ConnectAnswer("7", subs=subs))
    read = hold_read("open:a")
    client = await dial()
    await client.send_commands({"id": 1, "connect": {}})
    await read.until_answered()

    leaving = asyncio.create_task(client.leave())
    await asyncio.sleep(0.05)  # for what would not wait for the connect to be done with it
    read.may_go.set()
    await leaving

    assert len(engine.connections) == 0
    assert not engine.hub.client_counts("")
    assert await services.apresence("open:a") == {}


async def test_headers_that_somebody_is_shown_are_kept(asking, dial):
    asking.shown = frozenset({"x-tenant"})
    asked = asking.add(Kind.CONNECT, answer=ConnectAnswer("7"))
    client = await dial(
        headers=[(b"host", b"testserver"), (b"x-tenant", b"one"), (b"cookie", b"a=b")]
    )

    await client.connect("", headers={"X-Claimed": "two"})

    peer = asked.requests[0].peer
    assert (peer.headers, peer.emulated_headers) == ({"x-tenant": "one"}, {"x-claimed": "two"})


@pytest.mark.parametrize("headers", [{"X" * 5000: "a"}, {"x": "a" * 5000}])
async def test_a_client_cannot_have_much_kept_as_headers(asking, dial, headers):
    asked = asking.add(Kind.CONNECT, answer=ConnectAnswer("7"))

    await (await dial()).connect("", headers=headers)

    assert not asked.requests[0].peer.emulated_headers


# refresh -----------------------------------------------------------------------------------------


@pytest.fixture
def answered(asking, dial):
    """Return a way to connect by an answer whose end is near or past, as the clock is moved."""

    async def answered(expire_at: int = 0) -> Client:
        meta = Raw(b'{"m":1}')
        asking.add(
            Kind.CONNECT,
            answer=ConnectAnswer("7", expire_at=expire_at or in_seconds(1000), meta=meta),
        )
        client = await dial()
        client.result = await client.connect("")
        return client

    return answered


@pytest.mark.rule("expiry-server-side-refresh")
async def test_who_the_server_asks_about_is_told_no_end(asking, answered):
    assert "expires" in (await answered()).result

    asking.add(Kind.REFRESH, answer=RefreshAnswer(is_expired=False))

    assert not {"expires", "ttl"} & (await answered()).result.keys()


@pytest.mark.rule("refresh-proxy-3501")
async def test_a_refresh_of_who_the_server_asks_about_ends_it(asking, answered):
    asking.add(Kind.REFRESH, answer=RefreshAnswer(is_expired=False))
    client = await answered()

    await client.send_commands({"id": 9, "refresh": {"token": token("7")}})

    assert (await client.closed()).code == 3501


@pytest.mark.rule("expiry-server-side-refresh", "refresh-proxy-3501")
async def test_the_server_asks_about_who_had_a_token_too(asking, dial, engine):
    later = in_seconds(5000)
    asked = asking.add(Kind.REFRESH, answer=RefreshAnswer(is_expired=False, expire_at=later))
    client = await dial()
    result = await client.connect(token(exp=in_seconds(1000)))
    assert not {"expires", "ttl"} & result.keys()
    session = session_of(engine)

    session.check_time()

    await until(lambda: session.due_at - engine.loop.time() > 4000)
    assert asked.requests[0].peer.user == "42"
    await client.send_commands({"id": 9, "refresh": {"token": token(exp=in_seconds(1000))}})
    assert (await client.closed()).code == 3501


@pytest.mark.rule("expiry-server-side-refresh")
@pytest.mark.parametrize(
    "answer",
    [
        RefreshAnswer(is_expired=True),
        RefreshAnswer(is_expired=False, expire_at=1),
        None,
        ApplicationError(1000, "ignored"),
    ],
)
async def test_at_its_end_the_server_asks_and_ends_it(asking, answered, engine, answer):
    asked = asking.add(Kind.REFRESH, answer=answer)
    client = await answered(in_seconds(1))  # a second, for the clock has no less

    closed = await client.closed()

    assert closed.code == 3005
    assert bytes(asked.requests[0].peer.meta) == b'{"m":1}'


async def test_at_its_end_it_may_live_on(asking, answered, engine):
    later = RefreshAnswer(
        is_expired=False, expire_at=in_seconds(5000), info=Raw(b'"new"'), meta=Raw(b'{"m":2}')
    )
    asked = asking.add(Kind.REFRESH, answer=later)
    client = await answered()
    session = session_of(engine)

    session.check_time()

    await until(lambda: bytes(session.caller.conn_info) == b'"new"')
    assert bytes(session.peer().meta) == b'{"m":2}'
    assert session.due_at - engine.loop.time() > 4000
    assert len(asked.requests) == 1
    assert await client.call("presence", channel="open:a")


async def test_where_nobody_could_be_asked_it_lives_a_minute_more(asking, answered, engine):
    asking.add(Kind.REFRESH, answer=CallFailed("away"))
    client = await answered()
    session = session_of(engine)
    before = session.due_at

    session.check_time()

    await until(lambda: session.due_at != before)
    assert 55 < session.due_at - engine.loop.time() <= 61
    assert await client.call("presence", channel="open:a")


async def test_who_answered_may_be_gone(asking, answered, engine):
    asking.add(Kind.REFRESH, answer=RefreshAnswer(is_expired=False))
    client = await answered()
    asking.answerers.clear()

    session_of(engine).check_time()

    assert (await client.closed()).code == 3005


# subscribe ---------------------------------------------------------------------------------------


@pytest.mark.rule("subscribe-proxy", "subscribe-proxy-no-wishes", "subscribe-data-accepted")
async def test_somebody_decides_who_subscribes(asking, alice):
    answer = SubscribeOptions(
        info=Raw(b'{"role":"mod"}'), data=Raw(b'"hi"'), override=Override(force_recovery=False)
    )
    asked = asking.add(Kind.SUBSCRIBE, "closed", answer=answer)
    assert await refused(alice.call("subscribe", channel="all:a")) == 103

    result = await alice.call(
        "subscribe", channel="closed:a", data={"x": 1}, recoverable=True, positioned=True
    )

    assert result == {"data": "hi"}
    (request,) = asked.requests
    assert (request.channel, bytes(request.data), request.peer.user) == (
        "closed:a",
        b'{"x": 1}',
        "42",
    )
    info = (await services.apresence("closed:a"))[alice.id]
    assert bytes(info.chan_info) == b'{"role":"mod"}'


@pytest.mark.parametrize("channel", ["$closed:a", "limited:a#42", "limited:a#43"])
async def test_nobody_is_asked_about_channels_that_are_somebodys(asking, alice, channel):
    asked = asking.add(Kind.SUBSCRIBE, "", answer=SubscribeOptions())

    outcome = None if channel.endswith("#42") else 103
    if outcome is None:
        await alice.call("subscribe", channel=channel)
    else:
        assert await refused(alice.call("subscribe", channel=channel)) == outcome

    assert not asked.requests


@pytest.mark.rule("subscribe-proxy")
async def test_a_subscription_token_stands_above_who_decides(asking, alice):
    asked = asking.add(Kind.SUBSCRIBE, "", answer=ApplicationError(1000, "no"))

    await alice.call("subscribe", channel="closed:a", token=token(channel="closed:a"))

    assert not asked.requests


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (ApplicationError(1403, "no"), 1403),
        (CallFailed("away"), 100),
        (None, 100),
        (SubscribeOptions(expire_at=1), 110),
    ],
)
async def test_a_refused_subscribe_is_an_error_and_holds_nothing(
    asking, alice, engine, answer, code
):
    asking.add(Kind.SUBSCRIBE, "open", answer=answer)

    assert await refused(alice.call("subscribe", channel="open:a")) == code
    assert session_of(engine).channels() == []


async def test_subscribes_wait_for_their_answers_beside_each_other(asking, alice):
    slow = asking.add(Kind.SUBSCRIBE, "live:slow", answer=SubscribeOptions(), waits=True)
    asking.add(Kind.SUBSCRIBE, "live", answer=SubscribeOptions())

    await alice.send_commands(
        {"id": 100, "subscribe": {"channel": "live:slow"}},
        {"id": 101, "subscribe": {"channel": "live:quick"}},
        {"id": 102, "presence": {"channel": "open:a"}},
    )
    await alice.reply(101)
    await alice.reply(102)
    slow.may_answer.set()

    await alice.reply(100)


async def test_many_subscribes_wait_for_places_and_none_is_refused(asking, alice, engine):
    slow = asking.add(Kind.SUBSCRIBE, "live", answer=SubscribeOptions(), waits=True)
    await alice.send_commands(
        *({"id": 100 + n, "subscribe": {"channel": f"live:{n}"}} for n in range(40))
    )
    await until(lambda: len(slow.requests) == 16)
    assert await alice.has_nothing()
    slow.may_answer.set()

    for n in range(40):
        await alice.reply(100 + n)
    assert len(session_of(engine).channels()) == 40


async def test_commands_of_a_channel_wait_for_its_subscribe(asking, alice, engine):
    slow = asking.add(Kind.SUBSCRIBE, "live", answer=SubscribeOptions(), waits=True)
    await alice.send_commands(
        {"id": 100, "subscribe": {"channel": "live:a"}},
        {"id": 101, "subscribe": {"channel": "live:a"}},
        {"id": 102, "unsubscribe": {"channel": "live:a"}},
    )
    await within(slow.is_asked.wait())
    slow.may_answer.set()

    await alice.reply(100)
    assert await refused(alice.reply(101)) == 105
    await alice.reply(102)
    assert session_of(engine).channels() == []


async def test_an_unsubscribe_of_the_server_comes_after_the_answer(asking, alice, engine):
    slow = asking.add(Kind.SUBSCRIBE, "live", answer=SubscribeOptions(), waits=True)
    await alice.send_commands({"id": 100, "subscribe": {"channel": "live:a"}})
    await within(slow.is_asked.wait())
    await services.aunsubscribe("42", "live:a")
    await services.asubscribe("42", "live:after")
    await alice.push("subscribe", "live:after")
    slow.may_answer.set()

    await alice.reply(100)
    assert (await alice.push("unsubscribe", "live:a"))["code"] == 2000
    assert session_of(engine).channels() == ["live:after"]


async def test_an_answer_for_who_has_left_is_dropped(asking, alice, engine):
    slow = asking.add(Kind.SUBSCRIBE, "live", answer=SubscribeOptions(), waits=True)
    await alice.send_commands({"id": 100, "subscribe": {"channel": "live:a"}})
    await within(slow.is_asked.wait())

    await alice.leave()
    slow.may_answer.set()

    await until(lambda: slow.cancelled == 1)
    await until(lambda: not engine.hub.client_counts(""))


# sub_refresh -------------------------------------------------------------------------------------


@pytest.mark.rule("expiry-server-side-refresh", "sub-refresh-proxy-3501")
async def test_the_server_asks_about_what_it_was_answered(asking, alice, engine):
    asking.add(Kind.SUBSCRIBE, "open", answer=SubscribeOptions(expire_at=in_seconds(1000)))
    later = in_seconds(5000)
    asked = asking.add(
        Kind.SUB_REFRESH, "open", answer=RefreshAnswer(is_expired=False, expire_at=later)
    )
    result = await alice.call("subscribe", channel="open:a")
    assert not {"expires", "ttl"} & result.keys()
    session = session_of(engine)
    subscription = session.subscriptions.get("open:a")
    subscription.expire_at = in_seconds(-1)

    session.check_subscriptions()

    await until(lambda: subscription.expire_at == later)
    assert asked.requests[0].channel == "open:a"
    await alice.send_commands(
        {"id": 9, "sub_refresh": {"channel": "open:a", "token": token(channel="open:a")}}
    )
    assert (await alice.closed()).code == 3501


@pytest.mark.parametrize("answer", [RefreshAnswer(is_expired=True), None])
async def test_what_nobody_lets_live_is_ended(asking, alice, engine, answer):
    asking.add(Kind.SUBSCRIBE, "open", answer=SubscribeOptions(expire_at=in_seconds(1000)))
    asking.add(Kind.SUB_REFRESH, "open", answer=answer)
    await alice.call("subscribe", channel="open:a")
    session = session_of(engine)
    session.subscriptions.get("open:a").expire_at = in_seconds(-1)

    session.check_subscriptions()

    assert (await alice.push("unsubscribe", "open:a"))["code"] == 2501


async def test_a_subscription_lives_on_where_nobody_could_be_asked(asking, alice, engine):
    asking.add(Kind.SUBSCRIBE, "open", answer=SubscribeOptions(expire_at=in_seconds(1000)))
    asking.add(Kind.SUB_REFRESH, "open", answer=CallFailed("away"))
    await alice.call("subscribe", channel="open:a")
    session = session_of(engine)
    subscription = session.subscriptions.get("open:a")
    subscription.expire_at = in_seconds(-1)

    session.check_subscriptions()

    await until(lambda: subscription.expire_at > time.time() + 50)


@pytest.mark.rule("expiry-server-side-refresh", "sub-refresh-proxy-3501")
async def test_the_server_asks_about_what_a_token_has_allowed_too(asking, alice, engine):
    later = in_seconds(5000)
    asking.add(Kind.SUB_REFRESH, "open", answer=RefreshAnswer(is_expired=False, expire_at=later))
    ticket = token(channel="open:a", exp=in_seconds(1000))
    result = await alice.call("subscribe", channel="open:a", token=ticket)
    assert not {"expires", "ttl"} & result.keys()
    session = session_of(engine)
    subscription = session.subscriptions.get("open:a")
    subscription.expire_at = in_seconds(-1)

    session.check_subscriptions()

    await until(lambda: subscription.expire_at == later)
    await alice.send_commands({"id": 9, "sub_refresh": {"channel": "open:a", "token": ticket}})
    assert (await alice.closed()).code == 3501


async def test_the_server_asks_about_what_it_has_subscribed_itself(asking, alice, engine):
    answer = RefreshAnswer(is_expired=False, expire_at=in_seconds(5000))
    asked = asking.add(Kind.SUB_REFRESH, "open", answer=answer)
    await services.asubscribe("42", "open:a", expire_at=in_seconds(1000))
    await alice.push("subscribe", "open:a")
    session = session_of(engine)
    subscription = session.subscriptions.get("open:a")
    subscription.expire_at = in_seconds(-1)

    session.check_subscriptions()

    await until(lambda: subscription.expire_at == answer.expire_at)
    assert asked.requests[0].channel == "open:a"


@pytest.mark.rule("sub-expiry-server-side-3006")
async def test_what_it_has_subscribed_itself_and_nobody_lets_live_ends_the_connection(
    asking, alice, engine
):
    asking.add(Kind.SUB_REFRESH, "open", answer=RefreshAnswer(is_expired=True))
    await services.asubscribe("42", "open:a", expire_at=in_seconds(1000))
    await alice.push("subscribe", "open:a")
    session = session_of(engine)
    session.subscriptions.get("open:a").expire_at = in_seconds(-1)

    session.check_subscriptions()

    assert (await alice.closed()).code == 3006


async def test_without_somebody_to_ask_again_the_client_brings_a_token(asking, alice):
    asking.add(Kind.SUBSCRIBE, "open", answer=SubscribeOptions(expire_at=in_seconds(1000)))

    assert (await alice.call("subscribe", channel="open:a"))["expires"] is True


# publish -----------------------------------------------------------------------------------------


@pytest.mark.rule("publish-proxy")
async def test_somebody_decides_what_is_published(asking, alice):
    answer = PublishAnswer(Raw(b'{"seen":true}'), tags={"by": "them"})
    asked = asking.add(Kind.PUBLISH, "closed", answer=answer)
    await services.asubscribe("42", "closed:a")
    await alice.push("subscribe", "closed:a")

    await alice.call("publish", channel="closed:a", data={"x": 1})

    push = await alice.push("pub", "closed:a")
    assert (push["data"], push["tags"], push["info"]["user"]) == (
        {"seen": True},
        {"by": "them"},
        "42",
    )
    (request,) = asked.requests
    assert (request.channel, bytes(request.data)) == ("closed:a", b'{"x": 1}')


async def test_a_publication_may_be_left_as_it_is_and_out_of_history(asking, alice):
    asking.add(Kind.PUBLISH, "open", answer=PublishAnswer(skip_history=True))
    await alice.call("subscribe", channel="open:a")

    await alice.call("publish", channel="open:a", data=5)

    push = await alice.push("pub", "open:a")
    assert push["data"] == 5
    assert "offset" not in push


@pytest.mark.parametrize(
    ("answer", "code"), [(ApplicationError(1422, "no"), 1422), (CallFailed("x"), 100), (None, 100)]
)
async def test_a_publication_may_be_refused(asking, alice, answer, code):
    asking.add(Kind.PUBLISH, "open", answer=answer)

    assert await refused(alice.call("publish", channel="open:a", data=5)) == code
    assert (await alice.call("history", channel="open:a"))["offset"] == 0


async def test_publications_that_somebody_is_asked_about_keep_their_order(asking, alice):
    slow = asking.add(Kind.PUBLISH, "open", answer=PublishAnswer(), waits=True)
    await alice.send_commands(
        *({"id": 100 + n, "publish": {"channel": "open:a", "data": n}} for n in range(20)),
        {"id": 200, "presence": {"channel": "open:a"}},
    )
    await within(slow.is_asked.wait())
    slow.may_answer.set()
    await alice.reply(119)

    history = await alice.call("history", channel="open:a", limit=-1)
    assert [each["data"] for each in history["publications"]] == list(range(20))


async def test_publications_to_another_channel_do_not_wait(asking, alice):
    slow = asking.add(Kind.PUBLISH, "open", answer=PublishAnswer(), waits=True)
    await alice.send_commands({"id": 100, "publish": {"channel": "open:a", "data": 1}})
    await within(slow.is_asked.wait())

    await within(alice.call("publish", channel="live:b", data=2))

    slow.may_answer.set()
    await alice.reply(100)


# Handlers ----------------------------------------------------------------------------------------


async def test_a_handler_welcomes_who_has_shown_who_it_is(handlers, dial):
    @on_connect
    async def welcome(connection: Connection) -> dict | None:
        if connection.user == "unwelcome":
            raise PermissionDenied
        return {"hello": connection.user} if connection.user == "42" else None

    assert (await (await dial()).connect())["data"] == {"hello": "42"}
    assert "data" not in await (await dial()).connect(token("43"))
    assert await refused((await dial()).connect(token("unwelcome"))) == 103


async def test_the_limit_of_a_user_holds_while_handlers_are_asked(handlers, dial, configure):
    configure(USER_CONNECTION_LIMIT=1)
    may_go, asked = asyncio.Event(), []

    @on_connect
    async def wait(connection: Connection) -> None:
        asked.append(connection.client)
        await may_go.wait()

    one, other = await dial(), await dial()
    for client in (one, other):
        await client.send_commands({"id": 1, "connect": {"token": token()}})
    await until(lambda: len(asked) == 2)
    may_go.set()

    await one.reply(1)
    assert (await other.closed()).code == 3504


@pytest.mark.parametrize("named", ["user", "client"])
async def test_who_is_told_to_go_while_handlers_are_asked_does_not_come_in(
    handlers, dial, engine, named
):
    may_go, asked = asyncio.Event(), []

    @on_connect
    async def wait(connection: Connection) -> None:
        asked.append(connection.client)
        await may_go.wait()

    client, other = await dial(), await dial()
    await client.send_commands({"id": 1, "connect": {"token": token("42")}})
    await other.send_commands({"id": 1, "connect": {"token": token("43")}})
    await until(lambda: len(asked) == 2)

    if named == "user":
        await services.adisconnect("42")
    else:
        await services.adisconnect("42", client=asked[0])

    assert (await client.closed()).code == 3503
    may_go.set()
    await other.reply(1)
    assert not engine.connections.find("42")
    assert engine.connections._arriving == {}


async def test_a_token_that_ends_while_handlers_are_asked_lets_nobody_in(handlers, dial):
    @on_connect
    async def wait(connection: Connection) -> None:
        await asyncio.sleep(2.1)  # longer than a token of whole seconds lives

    assert await refused((await dial()).connect(token(exp=in_seconds(2)))) == 110


async def test_every_farewell_is_said_whatever_else_is_asked(handlers, connect, configure):
    configure(CALLS_MAX=1)
    left = []

    @on_disconnect
    async def note(connection: Connection) -> None:
        await asyncio.sleep(0.05)  # so that they are under way together
        left.append(connection.client)

    clients = [await connect() for _ in range(10)]
    await asyncio.gather(*(client.leave() for client in clients))

    await until(lambda: sorted(left) == sorted(client.id for client in clients))


async def test_a_handler_is_told_of_who_has_left(handlers, connect, dial, engine):
    left = []

    @on_disconnect
    async def note(connection: Connection) -> None:
        left.append((connection.user, connection.client))

    client, silent = await connect(), await dial()

    await silent.leave()
    await client.leave()

    await until(lambda: left == [("42", client.id)])


async def test_a_farewell_delays_no_end(handlers, connect, engine):
    told = []

    @on_disconnect
    def note() -> None:
        told.append(True)
        raise RuntimeError("broken")

    client = await connect()

    await client.leave()

    assert engine.connections.is_empty.is_set()
    await until(lambda: told)


async def test_handlers_hear_of_subscribes_that_are_allowed(handlers, alice):
    heard = []

    @on_subscribe("open:{name}-{number:int}")
    async def guard(
        connection: Connection, channel: str, name: str, number: int, data: Any
    ) -> None:
        heard.append((channel, name, number, data))
        if number == 2:
            raise PermissionDenied

    @on_subscribe("all:{name}")
    async def never(name: str) -> None:
        heard.append(name)

    await alice.call("subscribe", channel="open:a-1", data={"k": 1})
    await alice.call("subscribe", channel="open:other")
    assert await refused(alice.call("subscribe", channel="open:a-2")) == 103
    assert await refused(alice.call("subscribe", channel="all:a")) == 103

    assert heard == [("open:a-1", "a", 1, {"k": 1}), ("open:a-2", "a", 2, None)]


async def test_handlers_change_what_is_published_where_that_is_allowed(handlers, alice):
    @on_publish("open:{name}")
    async def shout(data: Any) -> Any:
        return data.upper() if isinstance(data, str) else None

    @on_publish("open:loud")
    async def mark(connection: Connection, data: Any) -> Any:
        return f"{connection.user}: {data}"

    @on_publish("closed:{name}")
    async def never(data: Any) -> Any:
        raise AssertionError

    await alice.call("publish", channel="open:loud", data="a")
    await alice.call("publish", channel="open:other", data=5)
    assert await refused(alice.call("publish", channel="closed:a", data=1)) == 103

    loud = await alice.call("history", channel="open:loud", limit=9)
    other = await alice.call("history", channel="open:other", limit=9)
    assert [each["data"] for each in loud["publications"]] == ["42: A"]
    assert [each["data"] for each in other["publications"]] == [5]


def test_a_hook_takes_nothing_that_is_not_given(handlers):
    async def hook(unknown: str) -> None: ...

    for decorate in (on_connect, on_disconnect, on_subscribe("a:{b}"), on_publish("a:{b}")):
        with pytest.raises(ImproperlyConfigured, match="'unknown'"):
            decorate(hook)
