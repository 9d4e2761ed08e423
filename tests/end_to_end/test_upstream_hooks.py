"""A backend made for Centrifugo's proxies answers for a real server, unchanged.

Bodies are those of Centrifugo's documentation; the backend is asked over HTTP. What happens when it
fails is in ``tests/faults/test_upstreams.py``.
"""

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from centrifuge.exceptions import CentrifugeError

from tests.support import backed
from tests.support.backed import Backed
from tests.support.fault_upstream import FaultUpstream, answer, echo, sequence
from tests.support.publisher import Api
from tests.support.raw_client import Closed, CommandError
from tests.support.servers import token

pytestmark = pytest.mark.end_to_end

SECRET = "a-secret-that-the-backend-knows"
LEAVE = {"disconnect": {"code": 4501, "reason": "come no more"}}
REFUSE = {"error": {"code": 1000, "message": "not this"}}

UPSTREAMS = [
    {
        "name": "backend",
        "timeout_seconds": 3,
        "allow_private_addresses": True,
        "static_headers": {"X-Static": "of the operator"},
        "http_headers": ["x-of-handshake"],
        "emulated_headers": ["x-of-connect"],
        "signing_secret": SECRET,
        "include_connection_meta": True,
        "status_transforms": [
            {"status_code": 404, "to_error": {"code": 1404, "message": "not there"}},
            {"status_code": 410, "to_disconnect": {"code": 4510, "reason": "gone for good"}},
        ],
        "routes": [
            {"kind": "connect", "path": "/connect"},
            {"kind": "refresh", "path": "/refresh"},
            {"kind": "subscribe", "match": "asked", "path": "/subscribe"},
            {"kind": "publish", "match": "asked", "path": "/publish"},
            {"kind": "sub_refresh", "match": "asked", "path": "/sub_refresh"},
            {"kind": "rpc", "match": "backend:*", "path": "/rpc"},
        ],
    }
]
NAMESPACES = [
    {
        "name": "asked",
        "presence": True,
        "history_size": 10,
        "history_ttl": 600,
        "allow_presence_for_subscriber": True,
        "allow_history_for_subscriber": True,
        "allow_user_limited_channels": True,
    }
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, database) -> Iterator[Backed]:
    """One server all of whose hooks go to one backend."""
    folder = tmp_path_factory.mktemp("hooks")
    # Subscriptions are looked at whenever their presence is renewed.
    variables = {"REALTIME_PRESENCE_RENEWAL_SECONDS": "1"}
    with backed.running(
        folder, database, upstreams=UPSTREAMS, namespaces=NAMESPACES, variables=variables
    ) as server:
        yield server
        assert "Traceback" not in server.a.log(), server.a.log()[-5000:]


@pytest.fixture
async def upstream(pair) -> AsyncIterator[FaultUpstream]:
    """The backend, with a welcome for everybody until a test says otherwise."""
    async with FaultUpstream(port=pair.upstream_port) as upstream:
        upstream.respond("/connect", {"result": {"user": "42"}})
        upstream.respond("/subscribe", {"result": {}})
        upstream.respond("/publish", {"result": {}})
        upstream.on("/rpc", echo())
        yield upstream


@pytest.fixture
async def greeted(pair, upstream, client_of):
    """Return a maker of clients that came without a token."""

    async def greeted(kind: str = "raw", **options):
        client = await client_of(kind, pair.a.websocket_url)
        await client.connect(**options)
        await client.log.wait("connected")
        return client

    return greeted


async def refused(call) -> CommandError:
    with pytest.raises(CommandError) as raised:
        await call
    return raised.value


async def ended(client, call) -> dict:
    """Return why the connection was ended by a command."""
    with contextlib.suppress(Closed, CommandError, CentrifugeError):
        await call
    return await client.log.wait("disconnect")


def data_of(result):
    """Return the data of what an SDK hands out: JavaScript's is the whole result."""
    return result["data"] if isinstance(result, dict) and "data" in result else result


# connect -----------------------------------------------------------------------------------------


async def test_a_client_without_a_token_is_who_the_backend_says(greeted, upstream, fresh, kind):
    upstream.respond("/connect", {"result": {"user": "42", "info": {"name": "Zoe"}}})
    channel = fresh("room")

    client = await greeted(kind)
    await client.subscribed(channel)

    (entry,) = (await client.presence(channel)).values()
    assert (entry["user"], entry["conn_info"]) == ("42", {"name": "Zoe"})
    asked = upstream.asked("/connect")[0].json
    assert asked["client"] == client.client_id
    assert (asked["transport"], asked["protocol"], asked["encoding"]) == (
        "websocket",
        "json",
        "json",
    )
    assert "user" not in asked


async def test_the_backend_is_told_what_a_connect_says(greeted, upstream) -> None:
    await greeted(name="sdk", version="1.2", data={"ticket": 7}, subs={"stream:a": {}})

    asked = upstream.asked("/connect")[0].json
    assert (asked["name"], asked["version"], asked["data"]) == ("sdk", "1.2", {"ticket": 7})
    assert asked["channels"] == ["stream:a"]


async def test_the_backend_subscribes_a_client_and_greets_it(
    pair, upstream, client_of, fresh
) -> None:
    one, two = fresh("stream"), fresh("stream")
    result = {
        "user": "42",
        "data": {"hello": 1},
        "channels": [one],
        "subs": {two: {"data": {"of": "sub"}}},
    }
    upstream.respond("/connect", {"result": result})
    client = await client_of("raw", pair.a.websocket_url)

    reply = await client.connect()

    assert reply["data"] == {"hello": 1}
    assert set(reply["subs"]) == {one, two}
    assert reply["subs"][two]["data"] == {"of": "sub"}
    async with Api(pair.a.url) as api:
        await api.call("publish", channel=one, data={"id": "x"})
    await client.log.wait("pub", channel=one, id="x")


async def test_an_empty_user_is_accepted_as_an_anonymous_one(greeted, upstream) -> None:
    upstream.respond("/connect", {"result": {"user": ""}})

    client = await greeted()

    assert client.client_id


async def test_the_backend_refuses_a_connection(pair, upstream, client_of, sdk) -> None:
    upstream.respond("/connect", REFUSE)
    client = await client_of(sdk, pair.a.websocket_url)

    await client.connect()

    assert (await client.log.wait("disconnect"))["code"] == 1000
    assert client.log.of("connected") == []


async def test_the_backend_ends_a_connection(pair, upstream, client_of, kind) -> None:
    upstream.respond("/connect", LEAVE)
    client = await client_of(kind, pair.a.websocket_url)

    why = await ended(client, client.connect())

    assert (why["code"], why["reason"]) == (4501, "come no more")
    assert client.log.of("connected") == []


async def test_a_disconnect_stands_above_an_error_and_both_above_a_result(
    pair, upstream, client_of
) -> None:
    upstream.respond("/connect", {**LEAVE, **REFUSE, "result": {"user": "42"}})
    client = await client_of("raw", pair.a.websocket_url)
    assert (await ended(client, client.connect()))["code"] == 4501

    upstream.respond("/connect", {**REFUSE, "result": {"user": "42"}})
    client = await client_of("raw", pair.a.websocket_url)
    assert (await refused(client.connect())).code == 1000


async def test_without_a_result_it_is_as_if_there_were_no_backend(
    pair, upstream, client_of
) -> None:
    upstream.respond("/connect", {})
    client = await client_of("raw", pair.a.websocket_url)

    assert (await ended(client, client.connect()))["code"] == 3501


async def test_a_channel_of_an_unknown_namespace_refuses_the_connection(
    pair, upstream, client_of
) -> None:
    upstream.respond("/connect", {"result": {"user": "42", "channels": ["no-such:x"]}})
    client = await client_of("raw", pair.a.websocket_url)

    assert (await refused(client.connect())).code == 102


async def test_a_token_is_answered_without_the_backend(connect, upstream) -> None:
    client = await connect()

    assert client.client_id
    assert upstream.requests == []


async def test_only_listed_headers_are_passed_on_and_the_body_is_signed(
    pair, upstream, client_of
) -> None:
    client = await client_of("raw", pair.a.websocket_url)
    handshake = {
        "X-Of-Handshake": "a",
        "X-Of-Connect": "not from here",
        "Cookie": "session=secret",
        "Authorization": "Bearer secret",
        "X-Other": "b",
    }
    await client.open(additional_headers=handshake)

    await client.connect(
        headers={"X-Of-Connect": "c", "X-Of-Handshake": "forged", "x-static": "forged"}
    )

    (asked,) = upstream.requests
    headers = asked.headers
    assert headers["x-static"] == "of the operator"
    assert headers["x-of-handshake"] == "a"
    assert headers["x-of-connect"] == "c"
    assert headers["content-type"].startswith("application/json")
    assert {"cookie", "authorization", "x-other"} & set(headers) == set()
    fields = dict(field.split("=", 1) for field in headers["x-heliograph-signature"].split(","))
    signed = fields["t"].encode() + b"." + asked.body
    assert fields["v1"] == hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert abs(int(fields["t"]) - time.time()) < 30


async def test_a_status_means_what_the_operator_says(pair, upstream, client_of) -> None:
    upstream.respond("/connect", {"result": {"user": "42"}}, status=404)
    client = await client_of("raw", pair.a.websocket_url)
    assert (await refused(client.connect())).code == 1404

    upstream.respond("/connect", {"result": {"user": "42"}}, status=410)
    client = await client_of("raw", pair.a.websocket_url)
    why = await ended(client, client.connect())
    assert (why["code"], why["reason"]) == (4510, "gone for good")


# refresh -----------------------------------------------------------------------------------------


def soon() -> int:
    """Return the next second but one: what is over when it is given was never good."""
    return int(time.time()) + 2


async def test_the_server_asks_before_a_connection_ends_and_it_lives_on(
    pair, upstream, client_of
) -> None:
    end_at = soon()
    upstream.respond("/connect", {"result": {"user": "42", "expire_at": end_at, "meta": {"m": 1}}})
    upstream.respond("/refresh", {"result": {"expire_at": end_at + 600}})
    client = await client_of("raw", pair.a.websocket_url)

    reply = await client.connect()
    asked = (await upstream.wait_asked("/refresh")).json

    assert "expires" not in reply
    assert "ttl" not in reply
    assert (asked["client"], asked["user"]) == (client.client_id, "42")
    assert asked["meta"] == {"m": 1}
    assert time.time() >= end_at - 1
    assert data_of(await client.call("rpc", method="backend:echo", data=1)) == 1
    assert client.log.of("close") == []


@pytest.mark.parametrize(
    "said",
    [{"result": {"expired": True}}, {}, REFUSE, LEAVE],
    ids=["expired", "no result", "error", "disconnect"],
)
async def test_a_connection_that_the_backend_does_not_renew_expires(
    greeted, upstream, said
) -> None:
    upstream.respond("/connect", {"result": {"user": "42", "expire_at": soon()}})
    upstream.respond("/refresh", said)
    client = await greeted()

    assert (await client.closed())["code"] == 3005


async def test_an_sdk_comes_back_when_the_backend_let_its_connection_expire(
    greeted, upstream, sdk
) -> None:
    first = answer({"result": {"user": "42", "expire_at": soon()}})
    upstream.on("/connect", sequence([first, answer({"result": {"user": "42"}})]))
    upstream.respond("/refresh", {"result": {"expired": True}})
    client = await greeted(sdk)

    await client.log.wait("connecting", code=3005)
    await client.log.wait("connected", count=2)


async def test_a_client_may_not_refresh_what_the_backend_refreshes(greeted, upstream) -> None:
    upstream.respond("/connect", {"result": {"user": "42", "expire_at": soon() + 600}})
    client = await greeted()

    why = await ended(client, client.call("refresh", token=token("42")))

    assert why["code"] == 3501


# subscribe ---------------------------------------------------------------------------------------


async def test_the_backend_lets_a_client_in_and_says_what_it_brings(
    greeted, upstream, fresh, kind
) -> None:
    channel = fresh("asked")
    upstream.respond("/subscribe", {"result": {"info": {"role": "mod"}, "data": {"now": 1}}})
    client = await greeted(kind)

    subscribed = await client.subscribed(channel, data={"ref": 7})

    (entry,) = (await client.presence(channel)).values()
    assert entry["chan_info"] == {"role": "mod"}
    if kind != "raw":  # whose event has no data
        assert subscribed["data"] == {"now": 1}
    asked = upstream.asked("/subscribe")[0].json
    assert (asked["channel"], asked["user"], asked["data"]) == (channel, "42", {"ref": 7})
    assert asked["client"] == client.client_id


async def test_an_empty_answer_lets_a_client_in(greeted, upstream, fresh) -> None:
    channel = fresh("asked")
    upstream.respond("/subscribe", {})
    client = await greeted()

    await client.subscribe(channel)

    assert list(await client.presence(channel)) == [client.client_id]


async def test_the_backend_overrides_options_of_the_channel(greeted, upstream, fresh) -> None:
    channel = fresh("asked")
    upstream.respond("/subscribe", {"result": {"override": {"presence": {"value": False}}}})
    client = await greeted()

    await client.subscribe(channel)

    assert await client.presence(channel) == {}


async def test_the_backend_refuses_a_subscription(greeted, upstream, fresh, sdk) -> None:
    channel = fresh("asked")
    upstream.respond("/subscribe", REFUSE)
    client = await greeted(sdk)

    await client.subscribe(channel)

    assert (await client.log.wait("unsub", channel=channel))["code"] == 1000


async def test_the_backend_ends_a_connection_that_subscribes(
    greeted, upstream, fresh, kind
) -> None:
    upstream.respond("/subscribe", LEAVE)
    client = await greeted(kind)

    why = await ended(client, client.subscribe(fresh("asked")))

    assert (why["code"], why["reason"]) == (4501, "come no more")


async def test_what_is_decided_otherwise_is_not_asked(greeted, connect, upstream, fresh) -> None:
    upstream.respond("/subscribe", REFUSE)
    client = await greeted()
    by_token, by_name, private = fresh("asked"), f"{fresh('asked')}#42", f"${fresh('asked')}"

    await client.subscribe(by_token, token=token("42", channel=by_token))
    await client.subscribe(by_name)
    await client.subscribe(private, token=token("42", channel=private))
    assert (await refused(client.subscribe(f"${fresh('asked')}"))).code == 103

    assert upstream.count("/subscribe") == 0


# publish -----------------------------------------------------------------------------------------


async def test_the_backend_replaces_what_is_published(greeted, upstream, fresh, kind) -> None:
    channel = fresh("asked")
    result = {"data": {"id": "new"}, "tags": {"by": "backend"}}
    upstream.respond("/publish", {"result": result})
    client = await greeted(kind)
    await client.subscribed(channel)

    await client.publish(channel, {"id": "old"})

    event = await client.log.wait("pub", channel=channel)
    assert (event["data"], event["tags"]) == ({"id": "new"}, {"by": "backend"})
    asked = upstream.asked("/publish")[0].json
    assert (asked["channel"], asked["data"], asked["user"]) == (channel, {"id": "old"}, "42")


@pytest.mark.parametrize("said", [{"result": {}}, {}], ids=["empty result", "no result"])
async def test_an_answer_without_data_publishes_the_clients(greeted, upstream, fresh, said) -> None:
    channel = fresh("asked")
    upstream.respond("/publish", said)
    client = await greeted()
    await client.subscribe(channel)

    await client.publish(channel, {"id": "mine"})

    await client.log.wait("pub", channel=channel, id="mine")


async def test_the_backend_keeps_a_publication_out_of_the_history(greeted, upstream, fresh) -> None:
    channel = fresh("asked")
    upstream.respond("/publish", {"result": {"skip_history": True}})
    client = await greeted()
    await client.subscribe(channel)

    await client.publish(channel, {"id": "passing"})

    await client.log.wait("pub", channel=channel, id="passing")
    assert (await client.history(channel, limit=10))["publications"] == []


async def test_the_backend_refuses_a_publication(greeted, upstream, fresh, kind) -> None:
    channel = fresh("asked")
    client = await greeted(kind)
    await client.subscribed(channel)

    upstream.respond("/publish", REFUSE)
    error = await refused(client.publish(channel, {"id": "refused"}))
    upstream.respond("/publish", {"result": {}})
    await client.publish(channel, {"id": "allowed"})

    assert (error.code, error.message) == (1000, "not this")
    await client.log.wait("pub", channel=channel, id="allowed")
    assert len(client.log.published(channel)) == 1


async def test_the_backend_ends_a_connection_that_publishes(greeted, upstream, fresh, kind) -> None:
    channel = fresh("asked")
    client = await greeted(kind)
    await client.subscribed(channel)
    upstream.respond("/publish", LEAVE)

    why = await ended(client, client.publish(channel, {"id": "x"}))

    assert (why["code"], why["reason"]) == (4501, "come no more")


# sub_refresh -------------------------------------------------------------------------------------


async def test_the_server_asks_before_a_subscription_ends_and_it_lives_on(
    pair, greeted, upstream, fresh
) -> None:
    channel, end_at = fresh("asked"), soon()
    upstream.respond("/subscribe", {"result": {"expire_at": end_at}})
    upstream.respond("/sub_refresh", {"result": {"expire_at": end_at + 600}})
    client = await greeted()

    result = await client.subscribe(channel)
    asked = (await upstream.wait_asked("/sub_refresh")).json

    assert "expires" not in result
    assert (asked["channel"], asked["user"]) == (channel, "42")
    assert asked["client"] == client.client_id
    assert time.time() >= end_at - 1
    async with Api(pair.a.url) as api:
        await api.call("publish", channel=channel, data={"id": "later"})
    await client.log.wait("pub", channel=channel, id="later")
    assert client.log.of("unsub") == []


@pytest.mark.parametrize(
    "said",
    [{"result": {"expired": True}}, {}, REFUSE, LEAVE],
    ids=["expired", "no result", "error", "disconnect"],
)
async def test_a_subscription_that_the_backend_does_not_renew_expires(
    greeted, upstream, fresh, said
) -> None:
    channel = fresh("asked")
    upstream.respond("/subscribe", {"result": {"expire_at": soon()}})
    upstream.respond("/sub_refresh", said)
    client = await greeted()

    await client.subscribe(channel)

    assert (await client.log.wait("unsub", channel=channel))["code"] == 2501
    assert data_of(await client.call("rpc", method="backend:echo", data=1)) == 1


async def test_a_client_may_not_refresh_a_subscription_of_the_backend(
    greeted, upstream, fresh
) -> None:
    channel = fresh("asked")
    upstream.respond("/subscribe", {"result": {"expire_at": soon() + 600}})
    client = await greeted()
    await client.subscribe(channel)

    why = await ended(
        client, client.call("sub_refresh", channel=channel, token=token("42", channel=channel))
    )

    assert why["code"] == 3501


# rpc ---------------------------------------------------------------------------------------------


async def test_the_backend_answers_a_call(greeted, upstream, kind) -> None:
    client = await greeted(kind)

    if kind == "raw":
        result = await client.call("rpc", method="backend:sum", data={"a": [1, 2]})
    else:
        result = await client.rpc("backend:sum", {"a": [1, 2]})

    assert data_of(result) == {"a": [1, 2]}
    asked = upstream.asked("/rpc")[0].json
    assert (asked["method"], asked["data"], asked["user"]) == ("backend:sum", {"a": [1, 2]}, "42")
    assert asked["client"] == client.client_id


async def test_the_backend_refuses_a_call_or_ends_its_connection(greeted, upstream, sdk) -> None:
    client = await greeted(sdk)

    upstream.respond("/rpc", {"error": {"code": 1001, "message": "later", "temporary": True}})
    error = await refused(client.rpc("backend:x", {}))
    upstream.respond("/rpc", LEAVE)
    with contextlib.suppress(CommandError, CentrifugeError, TimeoutError):
        async with asyncio.timeout(2):
            await client.rpc("backend:x", {})

    assert (error.code, error.message, error.temporary) == (1001, "later", True)
    assert (await client.log.wait("disconnect"))["code"] == 4501


async def test_a_call_without_a_result_has_no_data(greeted, upstream) -> None:
    client = await greeted()
    upstream.respond("/rpc", {})

    assert await client.call("rpc", method="backend:x", data={}) in ({}, {"data": None})


async def test_methods_of_code_and_of_the_backend_stand_beside_each_other(
    greeted, upstream
) -> None:
    client = await greeted()

    assert await client.call("rpc", method="sum", data={"a": 1}) == {"data": 1}
    assert (await refused(client.call("rpc", method="other:x", data={}))).code == 104

    assert upstream.count("/rpc") == 0
