"""How a connection begins and ends, as each kind of client sees it."""

import asyncio
import contextlib
import json
import time

import pytest
from websockets.exceptions import InvalidStatus

from tests.support import processes, world
from tests.support.raw_client import Closed, CommandError
from tests.support.servers import token

pytestmark = pytest.mark.end_to_end


async def test_a_client_with_a_token_is_connected(connect, kind) -> None:
    client = await connect(kind)

    assert client.client_id


@pytest.mark.rule(
    "ping-interval-told", "pong-wanted-told", "connect-version", "connect-no-expiry-silent"
)
async def test_the_connect_reply_tells_what_a_client_needs(pair, client_of) -> None:
    client = await client_of("raw", pair.a.websocket_url)

    reply = await client.connect(token("ada"), name="raw", version="1")

    assert reply["client"]
    assert reply["version"]
    assert (reply["ping"], reply["pong"]) == (4, True)
    assert "expires" not in reply


@pytest.mark.rule("connect-expiry-told")
async def test_a_token_with_an_end_tells_when_it_must_be_renewed(pair, client_of) -> None:
    client = await client_of("raw", pair.a.websocket_url)

    reply = await client.connect(token("ada", exp=int(time.time()) + 600))

    assert reply["expires"] is True
    assert 590 <= reply["ttl"] <= 600


@pytest.mark.rule(
    "connect-token-invalid-3500",
    "claim-channel-forbidden",
    "close-ranges",
    "close-3500",
    "close-terminal-stops-sdks",
)
@pytest.mark.parametrize(
    "bad",
    ["not.a.token", token("ada")[:-4] + "AAAA", token("ada", channel="stream:x")],
    ids=["malformed", "forged", "of a subscription"],
)
async def test_an_invalid_token_ends_the_connection_for_good(pair, client_of, kind, bad) -> None:
    client = await client_of(kind, pair.a.websocket_url)

    with contextlib.suppress(Closed):  # the raw client's command has no answer
        await client.connect(bad)

    ended = await client.log.wait("disconnect")
    assert (ended["code"], ended["reason"]) == (3500, "invalid token")
    assert client.log.of("connected") == []


@pytest.mark.rule("connect-token-expired-109")
async def test_an_expired_token_is_an_error_that_a_new_token_mends(pair, client_of) -> None:
    client = await client_of("raw", pair.a.websocket_url)

    with pytest.raises(CommandError) as raised:
        await client.connect(token("ada", exp=int(time.time()) - 60))

    assert raised.value.code == 109
    await client.close()
    assert (await client.connect(token("ada")))["client"]


@pytest.mark.rule("expiry-sdk-refreshes")
async def test_an_sdk_replaces_an_expired_token(connect) -> None:
    async def get_token() -> str:
        return token("ada")

    client = await connect("python", claims={"exp": int(time.time()) - 60}, get_token=get_token)

    assert client.client_id


@pytest.mark.rule("connect-nobody-3501")
async def test_a_connection_without_a_token_is_refused(pair, client_of) -> None:
    client = await client_of("raw", pair.a.websocket_url)
    await client.open()

    await client.send_commands({"connect": {}})

    assert (await client.closed())["code"] == 3501


@pytest.mark.rule("push-disconnect", "close-reason-in-frame")
async def test_a_close_says_why_in_a_push_and_in_its_frame(pair, client_of) -> None:
    client = await client_of("raw", pair.a.websocket_url)
    await client.open()

    await client.send_commands({"connect": {"token": "nonsense"}})
    closed = await client.closed()

    (told,) = client.log.of("disconnect")
    assert (told["code"], told["reason"]) == (3500, "invalid token")
    assert (closed["code"], closed["reason"]) == (3500, "invalid token")


@pytest.mark.rule(
    "frame-malformed-3501",
    "envelope-id-uint32",
    "first-command-connect",
    "first-pong-3501",
    "command-unknown-3501",
)
@pytest.mark.parametrize(
    "first",
    [
        '{"id":1,"subscribe":{"channel":"stream:x"}}',
        '{"id":1,"publish":{"channel":"stream:x","data":1}}',
        '{"id":1,"history":{"channel":"stream:x"}}',
        '{"id":1,"presence":{"channel":"stream:x"}}',
        "{}",
        "[]",
        "nonsense",
        "\n",
        '{"id":1}',
        '{"id":-1,"connect":{}}',
        '{"id":1,"connect":7}',
    ],
)
async def test_what_is_no_connect_ends_a_new_connection(pair, client_of, first) -> None:
    client = await client_of("raw", pair.a.websocket_url)
    await client.open()

    await client.send_text(first)

    assert (await client.closed())["code"] == 3501


@pytest.mark.rule("second-connect-3501")
async def test_a_second_connect_ends_the_connection(connect) -> None:
    client = await connect()

    await client.send_commands({"connect": {"token": token("eve")}})

    assert (await client.closed())["code"] == 3501


@pytest.mark.on_the_least
@pytest.mark.rule("stale-3502")
async def test_a_silent_connection_is_stale(pair, client_of) -> None:
    client = await client_of("raw", pair.a.websocket_url)
    await client.open()

    closed = await client.closed()

    assert closed["code"] == 3502


@pytest.mark.on_the_least
@pytest.mark.rule("pong-missing-3012", "close-3012")
async def test_an_unanswered_ping_ends_the_connection(connect) -> None:
    client = await connect()
    client.answers_pings = False

    await client.log.wait("ping")
    closed = await client.closed()

    assert (closed["code"], closed["reason"]) == (3012, "no pong")


@pytest.mark.on_the_least
@pytest.mark.rule("pong-in-time-lives")
async def test_answered_pings_keep_a_connection(connect) -> None:
    client = await connect()

    await client.log.wait("ping", count=2, timeout_seconds=12)

    assert client.log.of("close") == []


@pytest.mark.rule("pong-unexpected-3501")
async def test_a_pong_that_nobody_asked_for_ends_the_connection(connect) -> None:
    client = await connect()

    await client.send_text("{}")

    assert (await client.closed())["code"] == 3501


@pytest.mark.rule("frame-several-commands", "frame-connect-then-subscribe")
async def test_connect_and_subscribe_may_share_a_frame(pair, client_of, fresh) -> None:
    client = await client_of("raw", pair.a.websocket_url)
    await client.open()
    channels = [fresh("stream"), fresh("stream")]

    numbers = await client.send_commands(
        {"connect": {"token": token("ada")}},
        *({"subscribe": {"channel": channel}} for channel in channels),
    )

    for number in numbers:
        await client.reply(number)
    assert [e["event"] for e in client.log.events if e["event"] in ("connected", "subscribed")] == [
        "connected",
        "subscribed",
        "subscribed",
    ]


@pytest.mark.rule("ws-any-opcode-in")
async def test_commands_may_come_in_a_binary_frame(connect) -> None:
    client = await connect()

    (number,) = await client.send_commands(
        {"presence_stats": {"channel": "stream:binary"}}, is_binary=True
    )

    assert await client.reply(number) == {"num_clients": 0, "num_users": 0}


@pytest.mark.rule("ws-message-beyond-64k-1009")
async def test_a_message_beyond_the_bound_is_closed_with_1009(connect) -> None:
    client = await connect()

    await client.send_text(json.dumps({"id": 99, "rpc": {"data": "x" * 70_000}}))

    assert (await client.closed())["code"] == 1009


async def test_a_message_just_below_the_bound_is_taken(connect, fresh) -> None:
    client = await connect()
    channel = fresh("stream")
    await client.subscribe(channel)

    await client.publish(channel, "x" * 65_000)

    assert len((await client.log.wait("pub"))["data"]) == 65_000


@pytest.mark.rule("ws-protobuf-refused-400")
async def test_protobuf_is_refused_at_the_handshake(pair, client_of) -> None:
    client = await client_of("raw", pair.a.websocket_url)

    with pytest.raises(InvalidStatus) as raised:
        await client.open(subprotocols=["centrifuge-protobuf"])

    assert raised.value.response.status_code == 400


@pytest.mark.rule("origin-refused-403")
async def test_a_foreign_origin_is_refused_and_the_own_one_is_not(pair, client_of) -> None:
    client = await client_of("raw", pair.a.websocket_url)

    with pytest.raises(InvalidStatus) as raised:
        await client.open(origin="https://evil.example")
    await client.open(origin=f"http://127.0.0.1:{pair.a.port}")

    assert raised.value.response.status_code == 403


@pytest.mark.rule("rpc-108")
async def test_a_command_that_is_not_built_is_told_apart(connect) -> None:
    client = await connect()

    with pytest.raises(CommandError) as raised:
        await client.call("rpc", method="anything", data={})

    assert raised.value.code == 108


async def test_the_server_says_it_is_alive_and_ready(pair) -> None:
    assert pair.a.get("/health")[0] == 200
    status, body = pair.a.get("/ready")

    assert status == 200
    for part in ("redis", "layer", "database", "draining"):
        assert part in body


async def test_connects_and_closes_are_logged_with_their_codes(pair, connect) -> None:
    client = await connect(user="logged-user")
    client_id = client.client_id

    await client.send_text("nonsense")
    await client.closed()

    def lines_about_it() -> list[str]:
        return [line for line in pair.a.log().splitlines() if client_id in line]

    await asyncio.to_thread(
        processes.wait_until,
        lambda: any("3501" in line and '"closed"' in line for line in lines_about_it()),
        timeout_seconds=5,
        what=lambda: "\n".join(lines_about_it()),
    )
    text = pair.a.log()
    assert any('"connected"' in line and "logged-user" in line for line in lines_about_it())
    assert world.TOKEN_SECRET not in text
    assert token("logged-user") not in text
