"""Who is let in, what it is told, and what a refresh may change."""

import time

import jwt
import pytest

from realtime import services
from realtime.protocol import websocket
from realtime.protocol.codec import NATIVE_PING_FRAME
from realtime.token_verifier import TokenVerifier
from tests.realtime.client import CommandError, token
from tests.realtime.conftest import until, within
from tests.realtime.frames import RecordingWriter, message_of
from tests.realtime.test_commands import closes, in_seconds, refused
from tests.realtime.test_consumers import CONNECT, FRAME_WRITER, Server
from tests.support.tokens import private_key

CHANNELS = ["open:a", "open:b"]


async def left_out(client, given, *, code):
    """Tell whether a connect is answered with a close."""
    await client.send_commands({"id": 1, "connect": {"token": given}})
    return await closes(client, code=code)


# The reply -------------------------------------------------------------------------------------


@pytest.mark.rule("connect-server-time")
async def test_the_servers_time_is_told_where_that_is_wanted(dial, configure):
    configure(CONNECT_INCLUDES_TIME=True)
    client = await dial()

    result = await client.connect()

    assert abs(result["time"] - 1000 * time.time()) < 5000
    assert isinstance(result["time"], int)


# Limits ----------------------------------------------------------------------------------------


@pytest.mark.rule("connect-claim-unknown-channel-102", "connect-subs-all-or-nothing")
@pytest.mark.parametrize(
    ("channels", "code"),
    [(["nowhere:a"], 102), (["open:a", "$nowhere:a"], 102), (["open:" + "x" * 251], 107)],
)
async def test_a_token_with_an_impossible_channel_is_refused(dial, engine, channels, code):
    client = await dial()

    assert await refused(client, "connect", token=token("42", channels=channels)) == code

    assert engine.hub.client_counts("") == {}
    assert engine.connections.find("42") == []


@pytest.mark.rule("connect-subs-limit-3505")
async def test_more_channels_than_the_limit_close_with_3505(dial, configure):
    configure(CHANNEL_LIMIT=2)
    fitting, exceeding = await dial(), await dial()

    await fitting.connect(token("42", channels=CHANNELS))

    assert await left_out(exceeding, token("42", channels=[*CHANNELS, "open:c"]), code=3505)


@pytest.mark.rule("connect-user-limit-3504")
async def test_a_user_may_have_so_many_connections_and_no_more(dial, connect, configure):
    configure(USER_CONNECTION_LIMIT=2)
    first = await connect("42")
    await connect("42")
    third, again = await dial(), await dial()

    assert await left_out(third, token("42"), code=3504)
    for user in ("43", None, None, None):
        await connect(user)
    await first.leave()

    assert await again.connect(token("42"))


async def test_who_is_refused_does_not_count_to_the_limit(dial, connect, configure):
    configure(USER_CONNECTION_LIMIT=1)
    for given in (token("42", channels=["nowhere:a"]), token("42", expire_at=1)):
        with pytest.raises(CommandError):
            await (await dial()).connect(given)

    assert await connect("42")


@pytest.mark.rule("connect-anonymous-token-3507")
@pytest.mark.parametrize("user", [None, ""])
async def test_a_token_without_a_user_closes_with_3507_where_it_is_forbidden(
    dial, connect, configure, user
):
    configure(ALLOW_ANONYMOUS_TOKENS=False, ALLOW_ANONYMOUS=True)
    nobody, without_token = await dial(), await dial()

    assert await left_out(nobody, token(user), code=3507)
    assert await connect("42")
    assert await without_token.connect("")


# The personal channel --------------------------------------------------------------------------


@pytest.mark.rule("name-personal-channel")
async def test_every_user_has_a_personal_channel_where_that_is_on(dial, configure):
    configure(PERSONAL_CHANNELS=True)
    client = await dial()

    result = await client.connect(token("42"))

    assert result["subs"] == {"#42": {}}
    await services.apublish("#42", "for you")
    await services.apublish("#43", "not for you")
    assert (await client.push("pub", "#42"))["data"] == "for you"
    assert await client.has_nothing()


@pytest.mark.rule("name-personal-namespace")
async def test_the_personal_channel_has_the_options_of_its_namespace(dial, configure):
    configure(PERSONAL_CHANNELS=True, PERSONAL_CHANNEL_NAMESPACE="all")
    position = await services.apublish("all:#42", 1)
    client = await dial()

    result = await client.connect(
        token("42", channels=["live:a"]), subs={"all:#42": {"recover": True}}
    )

    assert result["subs"].keys() == {"live:a", "all:#42"}
    assert result["subs"]["all:#42"]["epoch"] == position.epoch
    assert len(result["subs"]["all:#42"]["publications"]) == 1


@pytest.mark.rule("name-personal-namespace", "connect-claim-unknown-channel-102")
async def test_a_personal_channel_in_an_unknown_namespace_lets_nobody_in(dial, connect, configure):
    configure(PERSONAL_CHANNELS=True, PERSONAL_CHANNEL_NAMESPACE="nowhere")
    client = await dial()

    assert await refused(client, "connect", token=token("42")) == 102
    assert await connect(None)


@pytest.mark.rule("name-personal-namespace")
async def test_a_user_with_a_colon_needs_a_namespace_for_its_personal_channel(dial, configure):
    configure(PERSONAL_CHANNELS=True)
    refusing, serving = await dial(), await dial()

    assert await refused(refusing, "connect", token=token("acme:42")) == 102
    configure(PERSONAL_CHANNEL_NAMESPACE="live")

    result = await serving.connect(token("acme:42"))
    assert result["subs"] == {"live:#acme:42": {}}


async def test_nobody_has_no_personal_channel(dial, configure):
    configure(PERSONAL_CHANNELS=True, ALLOW_ANONYMOUS=True)
    with_token, without = await dial(), await dial()

    assert "subs" not in await with_token.connect(token(None))
    assert "subs" not in await without.connect("")


async def test_what_a_token_says_of_the_personal_channel_stands(dial, configure):
    configure(PERSONAL_CHANNELS=True)
    client = await dial()

    result = await client.connect(token("42", subs={"#42": {"data": {"n": 1}}}))

    assert result["subs"] == {"#42": {"data": {"n": 1}}}


async def test_the_personal_channel_counts_to_the_limit(dial, configure):
    configure(PERSONAL_CHANNELS=True, CHANNEL_LIMIT=2)
    client = await dial()

    assert await left_out(client, token("42", channels=CHANNELS), code=3505)


@pytest.mark.rule("connect-insecure-no-expiry")
async def test_an_insecure_server_makes_the_subscriptions_of_a_token_too(dial, configure):
    configure(INSECURE=True)
    client = await dial()

    result = await client.connect(token("42", channels=["closed:a"], exp=in_seconds(100)))

    assert "expires" not in result
    assert result["subs"] == {"closed:a": {}}


# Refresh ---------------------------------------------------------------------------------------


@pytest.mark.rule("refresh-subs-differ-3010")
@pytest.mark.parametrize("channels", [["open:a"], ["open:a", "open:c"], [*CHANNELS, "open:c"], []])
async def test_a_refresh_with_other_channels_closes_with_3010(connect, engine, channels):
    client = await connect("42", channels=CHANNELS)

    given = token("42", channels=channels, exp=in_seconds(100))
    await client.send_commands({"id": 9, "refresh": {"token": given}})

    assert await closes(client, code=3010)


@pytest.mark.parametrize(
    "claims",
    [
        {"channels": CHANNELS[::-1]},
        {"subs": {channel: {"data": 1} for channel in CHANNELS}, "channels": ["ignored:x"]},
    ],
)
async def test_a_refresh_with_the_same_channels_goes_on(connect, configure, claims):
    configure(PERSONAL_CHANNELS=True)
    client = await connect("42", channels=CHANNELS)
    await client.call("unsubscribe", channel="open:a")
    await services.asubscribe("42", "open:c")
    await client.push("subscribe", "open:c")

    result = await client.call("refresh", token=token("42", exp=in_seconds(100), **claims))

    assert result["expires"] is True
    await services.apublish("open:b", 1)
    assert (await client.push("pub", "open:b"))["data"] == 1


@pytest.mark.rule("refresh-subs-differ-3010")
async def test_a_refresh_that_brings_channels_to_who_had_none_closes_with_3010(connect):
    client = await connect("42")

    await client.send_commands({"id": 9, "refresh": {"token": token("42", channels=["open:a"])}})

    assert await closes(client, code=3010)


# Handshakes ------------------------------------------------------------------------------------


@pytest.fixture
def _quick_pings(configure):
    configure(PING_INTERVAL_SECONDS=1, PONG_TIMEOUT_SECONDS=0.5)


@pytest.mark.rule("ws-native-pings-instead")
@pytest.mark.usefixtures("_quick_pings")
async def test_who_asks_for_it_is_pinged_as_websocket_does_and_need_not_answer(engine):
    writer = RecordingWriter()
    server = Server(query_string=b"cf_ws_frame_ping_pong=true", extensions={FRAME_WRITER: writer})
    server.put(CONNECT)

    await until(lambda: writer.frames.count(NATIVE_PING_FRAME) == 3)

    assert message_of(writer.frames[0])["connect"].keys() == {"client", "version"}
    assert websocket.frame(b"{}") not in writer.frames
    assert writer.closes == []
    server.put({})
    await until(lambda: writer.closes)
    assert writer.closes[0][0] == 3501
    await server.end()


@pytest.mark.parametrize("query", [b"", b"cf_ws_frame_ping_pong=false", b"cf_ws_frame_ping_pong"])
async def test_who_does_not_ask_for_it_is_pinged_as_the_protocol_does(engine, query):
    server = Server(query_string=query)
    server.put(CONNECT)

    await until(lambda: server.texts)

    assert '"ping":25,"pong":true' in server.texts[0]
    await server.end()


async def test_an_instance_without_websockets_refuses_every_handshake(engine, configure):
    configure(WEBSOCKETS=False)
    server = Server(extensions={"websocket.http.response": {}})

    await within(server.task)

    assert server.sent == [
        {"type": "websocket.http.response.start", "status": 503, "headers": []},
        {"type": "websocket.http.response.body", "body": b"No WebSockets here"},
    ]
    await services.apublish("open:a", 1)
    assert (await services.ahistory("open:a")).offset == 1


# Which refusal comes first ---------------------------------------------------------------------


@pytest.mark.rule("connect-order-of-limits")
@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"user": "", "channels": ["nowhere:a"]}, 102),
        ({"user": "", "channels": CHANNELS}, 3507),
        ({"user": "42", "channels": ["nowhere:a"]}, 102),
        ({"user": "42", "channels": CHANNELS}, 3504),
        ({"user": "43", "channels": CHANNELS, "expire_at": 1}, 3505),
        ({"user": "43", "channels": ["open:a"], "expire_at": 1}, 110),
    ],
)
async def test_of_several_refusals_the_first_in_order_is_told(
    connect, dial, configure, claims, code
):
    configure(ALLOW_ANONYMOUS_TOKENS=False, USER_CONNECTION_LIMIT=1, CHANNEL_LIMIT=1)
    await connect()
    client = await dial()
    given = token(claims.pop("user"), **claims)

    if code < 1000:
        assert await refused(client, "connect", token=given) == code
    else:
        assert await left_out(client, given, code=code)


@pytest.mark.rule("subscribe-order-of-checks")
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"channel": "regex:A", "type": 1}, 107),
        ({"channel": "closed:a", "type": 1, "token": "no token"}, 103),
        ({"channel": "closed:a", "tf": {"op": "eq"}}, 103),
        ({"channel": "open:a", "tf": {"op": "eq"}}, 107),
    ],
)
async def test_of_several_refusals_of_a_subscribe_the_first_is_told(connect, fields, code):
    alice = await connect()

    assert await refused(alice, "subscribe", **fields) == code


# Keys that cannot be had -----------------------------------------------------------------------


@pytest.fixture
def keys_away(engine, configure):
    """Return a token whose key is behind a URL where nobody answers."""

    def keys_away(**claims):
        configure(TOKEN_JWKS_URL="http://127.0.0.1:9/keys")
        engine.token_verifier = TokenVerifier()
        return jwt.encode(
            {"sub": "42", **claims}, private_key("RSA"), algorithm="RS256", headers={"kid": "k"}
        )

    return keys_away


@pytest.mark.rule("connect-keys-away-100")
async def test_a_connection_token_that_cannot_be_judged_is_no_invalid_one(connect, dial, keys_away):
    alice, other = await connect(), await dial()
    given = keys_away()

    assert await refused(other, "connect", token=given) == 100
    assert await refused(alice, "refresh", token=given) == 100


@pytest.mark.rule("subscribe-keys-away-100")
async def test_a_subscription_token_that_cannot_be_judged_is_no_invalid_one(connect, keys_away):
    alice = await connect()
    await alice.call("subscribe", channel="closed:a", token=token("42", channel="closed:a"))
    given = keys_away(channel="closed:a")

    assert await refused(alice, "sub_refresh", channel="closed:a", token=given) == 100
    assert await refused(alice, "subscribe", channel="closed:b", token=given) == 100


# What the log says of a refusal ---------------------------------------------------------------


async def test_why_a_token_was_refused_is_in_the_log_and_the_token_is_not(
    engine, dial, caplog, configure
):
    configure(TOKEN_AUDIENCE="dashboards")
    engine.token_verifier = TokenVerifier()
    caplog.set_level("INFO")
    given = token("42", aud="elsewhere")
    client = await dial()

    await client.send_commands({"id": 1, "connect": {"token": given}})
    await client.closed()

    assert "3500 invalid token: not for this audience" in caplog.text
    assert given not in caplog.text


async def test_which_channel_refused_a_connect_is_in_the_log(dial, caplog):
    caplog.set_level("INFO")
    client = await dial()

    await client.send_commands({"id": 1, "connect": {"token": token("42", channels=["nope:a"])}})
    await client.next(lambda message: "error" in message)

    (record,) = [record for record in caplog.records if record.message == "connection refused"]
    assert record.detail == "nope:a"
