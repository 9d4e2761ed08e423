"""What each command means. Source: Centrifugo client protocol, sections 3 and 4."""

import asyncio
import time

import pytest
from msgspec import Raw

from realtime import commands, services
from realtime.presence import Member
from realtime.protocol.messages import ClientInfo
from realtime.publishing import PublishOptions, prepare
from tests.realtime.client import NAMESPACES, Closed, CommandError, token
from tests.realtime.conftest import until

EVERY_COMMAND = {
    "subscribe": {"channel": "open:a"},
    "unsubscribe": {"channel": "open:a"},
    "publish": {"channel": "open:a", "data": 1},
    "presence": {"channel": "open:a"},
    "presence_stats": {"channel": "open:a"},
    "history": {"channel": "open:a"},
    "rpc": {"method": "m"},
    "send": {"data": {}},
    "refresh": {"token": "x"},
    "sub_refresh": {"channel": "open:a", "token": "x"},
}
WITH_CHANNEL = [
    "subscribe",
    "unsubscribe",
    "publish",
    "presence",
    "presence_stats",
    "history",
    "sub_refresh",
]


def in_seconds(seconds):
    return int(time.time()) + seconds


async def refused(client, method, /, **params):
    """Return the error code of a command."""
    with pytest.raises(CommandError) as outcome:
        await client.call(method, **params)
    return outcome.value.code


async def closes(client, *, code=3501):
    """Tell whether the connection is closed with a code, and told why before."""
    closed = await client.closed()
    assert closed.push == {"code": closed.code, "reason": closed.reason}
    assert closed.reason
    return closed.code == code


@pytest.fixture
async def alice(connect):
    return await connect()


@pytest.fixture
def publish(engine):
    """Publish as the server API does."""

    async def publish(channel, data, **options):
        act = prepare(
            channel,
            Raw(str(data).encode()),
            NAMESPACES[channel.partition(":")[0]],
            options=PublishOptions(**options),
        )
        return (await engine.broker.publish(act)).position

    return publish


# Processing rules ------------------------------------------------------------------------------


@pytest.mark.rule("first-command-connect")
@pytest.mark.parametrize("method", EVERY_COMMAND)
async def test_the_first_command_must_be_connect(dial, method):
    client = await dial()

    await client.send_commands({"id": 1, method: EVERY_COMMAND[method]})

    assert await closes(client)


@pytest.mark.rule("first-pong-3501")
@pytest.mark.parametrize("text", ["{}", '{"id":0}', "", "[]", "not json", '{"send":{}}'])
async def test_nothing_else_may_come_before_connect(dial, text):
    client = await dial()

    await client.send(text)

    assert await closes(client)


@pytest.mark.rule("second-connect-3501")
async def test_a_second_connect_closes(alice):
    await alice.send_commands({"id": 9, "connect": {"token": token()}})

    assert await closes(alice)


@pytest.mark.rule("frame-empty-3501", "frame-blank-line-3501", "frame-malformed-3501")
@pytest.mark.parametrize(
    "text", ["", "\n", '{"id":9,"presence":{"channel":"open:a"}}\n\n', "null", "{", '{"id":"9"}']
)
async def test_a_malformed_frame_closes(alice, text):
    await alice.send(text)

    assert await closes(alice)


@pytest.mark.rule("ws-any-opcode-in", "frame-last-newline")
async def test_binary_frames_are_read_as_text_ones(alice):
    await alice.send(b'{"id":9,"unsubscribe":{"channel":"open:a"}}\n')

    assert await alice.reply(9) == {}


@pytest.mark.rule("input-strict-utf8")
@pytest.mark.parametrize("data", [b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b"NaN", b"1e999x"])
async def test_a_payload_that_is_not_json_is_a_malformed_frame(alice, data):
    await alice.send(b'{"id":9,"publish":{"channel":"open:a","data":' + data + b"}}")

    assert await closes(alice)


@pytest.mark.rule("command-unknown-3501")
@pytest.mark.parametrize("command", ['{"id":5}', '{"id":5,"ping":{}}', '{"id":5,"connect":null}'])
async def test_a_command_that_nobody_knows_closes(alice, command):
    await alice.send(command)

    assert await closes(alice)


@pytest.mark.rule("pong-is-what-has-no-id", "pong-unexpected-3501")
@pytest.mark.parametrize("pong", ["{}", '{"id":0}', '{"id":0,"publish":{"channel":"open:a"}}'])
async def test_a_pong_without_a_ping_closes(alice, pong):
    await alice.send(pong)

    assert await closes(alice)


@pytest.mark.rule("pong-is-what-has-no-id", "pong-second-3501")
@pytest.mark.parametrize("pong", ["{}", '{"id":0}', '{"publish":{"channel":"open:a"}}'])
async def test_a_ping_is_answered_once(alice, engine, pong):
    engine.connections.find("42")[0].ping()
    await alice.ping()

    await alice.send(pong)
    assert await alice.call("unsubscribe", channel="open:a") == {}
    await alice.send(pong)

    assert await closes(alice)


@pytest.mark.rule(
    "frame-connect-then-subscribe", "envelope-id-echoed", "frame-in-order", "publish-stored"
)
async def test_commands_of_one_frame_run_in_order(dial):
    client = await dial()

    await client.send_commands(
        {"id": 1, "connect": {"token": token()}},
        {"id": 2, "subscribe": {"channel": "open:a"}},
        {"id": 3, "publish": {"channel": "open:a", "data": 1}},
        {"id": 4, "history": {"channel": "open:a", "limit": 10}},
    )
    history = await client.reply(4)

    assert [message["id"] for message in client.log if "id" in message] == [1, 2, 3, 4]
    assert len(history["publications"]) == 1


@pytest.mark.rule("command-closing-no-reply", "frame-rest-discarded")
async def test_what_follows_a_command_that_ends_the_connection_is_discarded(alice, publish, engine):
    await alice.send_commands(
        {"id": 7, "publish": {"channel": "open:a", "data": 1}},
        {"id": 8, "send": {}},
        {"id": 9, "publish": {"channel": "open:a", "data": 2}},
    )

    assert await closes(alice, code=3508)
    assert (await publish("open:a", 3)).offset == 2
    assert [message["id"] for message in alice.log if "id" in message][-1] == 7


@pytest.mark.rule("frame-rest-discarded")
async def test_nothing_is_read_after_the_close(alice, engine, publish):
    await alice.send_commands({"id": 8, "send": {}})
    await alice.send_commands({"id": 9, "publish": {"channel": "open:a", "data": 2}})

    await closes(alice, code=3508)

    await asyncio.sleep(0.05)
    assert (await publish("open:a", 3)).offset == 1


@pytest.mark.rule("channel-missing-3501", "sub-refresh-no-channel-3501")
@pytest.mark.parametrize("method", WITH_CHANNEL)
@pytest.mark.parametrize("channel", [{}, {"channel": ""}, {"channel": None}])
async def test_a_command_without_its_channel_closes(alice, method, channel):
    await alice.send_commands({"id": 9, method: {"data": 1, "token": token(), **channel}})

    assert await closes(alice)


@pytest.mark.rule("command-error-lives-on")
async def test_an_error_reply_leaves_the_connection_alive(alice):
    assert await refused(alice, "subscribe", channel="nowhere:a") == 102

    assert await alice.call("subscribe", channel="open:a")


@pytest.mark.rule("envelope-error-fields", "exception-100-temporary", "error-100")
async def test_a_failure_of_ours_is_a_temporary_error(alice, engine, monkeypatch, caplog):
    async def fail(channel):
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(engine.presence, "members", fail)

    with pytest.raises(CommandError) as outcome:
        await alice.call("presence", channel="open:a")

    assert outcome.value.error == {
        "code": 100,
        "message": "internal server error",
        "temporary": True,
    }
    assert "a secret detail" in caplog.text
    assert await alice.call("presence_stats", channel="open:a")


async def test_without_the_namespaces_channels_cannot_be_told_yet(alice, engine, monkeypatch):
    monkeypatch.setattr(engine, "snapshot", None)

    assert await refused(alice, "subscribe", channel="open:a") == 100


@pytest.mark.rule("commands-one-after-another")
async def test_commands_are_handled_one_after_another(alice, engine, monkeypatch):
    entered, go_on, order = asyncio.Event(), asyncio.Event(), []
    members = engine.presence.members

    async def slow(channel):
        order.append(channel)
        entered.set()
        await go_on.wait()
        return await members(channel)

    monkeypatch.setattr(engine.presence, "members", slow)
    await alice.send_commands({"id": 8, "presence": {"channel": "open:a"}})
    await asyncio.wait_for(entered.wait(), 5)
    await alice.send_commands({"id": 9, "presence": {"channel": "open:b"}})
    await asyncio.sleep(0.02)

    assert order == ["open:a"]
    go_on.set()
    await alice.reply(9)
    assert [message["id"] for message in alice.log[-2:]] == [8, 9]


# connect ---------------------------------------------------------------------------------------


@pytest.mark.rule(
    "ping-interval-told",
    "pong-wanted-told",
    "connect-version",
    "connect-no-expiry-silent",
    "connect-no-session-node",
    "default-ping-interval-25",
)
async def test_connect_says_what_the_client_needs_to_know(dial):
    client = await dial()

    result = await client.connect()

    assert result.keys() == {"client", "version", "ping", "pong"}
    assert len(result["client"]) == 36
    assert result["version"]
    assert (result["ping"], result["pong"]) == (25, True)


@pytest.mark.rule("connect-client-unique")
async def test_two_connections_are_two_clients(connect):
    assert (await connect()).id != (await connect()).id


@pytest.mark.rule("connect-expiry-told", "claim-exp-is-expiry")
async def test_a_token_that_expires_says_when(dial):
    client = await dial()

    result = await client.connect(token(exp=in_seconds(100)))

    assert result["expires"] is True
    assert 98 <= result["ttl"] <= 100


@pytest.mark.rule("ttl-at-most-365-days")
async def test_a_ttl_is_at_most_a_year(dial):
    client = await dial()

    result = await client.connect(token(exp=9_999_999_999))

    assert result["ttl"] == 365 * 24 * 3600


@pytest.mark.rule("claim-expire-at-zero")
async def test_expire_at_zero_lets_a_connection_outlive_its_token(dial):
    client = await dial()

    result = await client.connect(token(exp=in_seconds(100), expire_at=0))

    assert "expires" not in result
    assert "ttl" not in result


@pytest.mark.rule("connect-token-invalid-3500", "claim-channel-forbidden")
@pytest.mark.parametrize(
    "given",
    [
        "garbage",
        "a.b.c",
        token(secret="another-secret-0123456789-0123456789"),
        token(channel="open:a"),
        token(secret="x" * 40),
    ],
)
async def test_an_invalid_token_closes_with_3500(dial, given):
    client = await dial()

    await client.send_commands({"id": 1, "connect": {"token": given}})

    assert await closes(client, code=3500)


@pytest.mark.rule("connect-token-expired-109", "token-exp-expired", "token-nbf-expired")
@pytest.mark.parametrize("claims", [{"exp": 1}, {"nbf": 9_999_999_999}])
async def test_an_expired_token_is_error_109(dial, claims):
    client = await dial()

    assert await refused(client, "connect", token=token(**claims)) == 109


@pytest.mark.rule("connect-expired-110")
async def test_credentials_that_have_expired_already_are_error_110(dial):
    client = await dial()

    assert await refused(client, "connect", token=token(expire_at=1)) == 110


@pytest.mark.rule("connect-error-reads-no-more")
async def test_after_an_error_to_connect_nothing_more_is_read(dial):
    client = await dial()
    await refused(client, "connect", token=token(exp=1))

    await client.send_commands({"id": 2, "connect": {"token": token()}})

    assert await closes(client)


@pytest.mark.rule("connect-error-dropped", "close-3000")
async def test_after_an_error_to_connect_the_connection_ends_by_itself(dial, monkeypatch):
    monkeypatch.setattr("realtime.session.REFUSED_CLOSE_SECONDS", 0.2)
    client = await dial()
    await refused(client, "connect", token=token(exp=1))
    assert await client.has_nothing()

    assert await closes(client, code=3000)


@pytest.mark.rule("connect-nobody-3501")
async def test_without_a_token_the_connection_is_closed(dial):
    client = await dial()

    await client.send_commands({"id": 1, "connect": {}})

    assert await closes(client)


@pytest.mark.rule("connect-anonymous-allowed", "connect-insecure-anonymous")
@pytest.mark.parametrize("setting", ["ALLOW_ANONYMOUS", "INSECURE"])
async def test_anonymous_connections_can_be_allowed(dial, configure, engine, setting):
    configure(**{setting: True})
    client = await dial()

    await client.connect("")

    assert engine.connections.find("")


@pytest.mark.rule("token-no-sub-anonymous")
async def test_an_anonymous_token_is_a_token(connect, engine):
    await connect(None)
    await connect("")

    assert len(engine.connections.find("")) == 2


@pytest.mark.rule("connect-insecure-no-expiry", "connect-insecure-expired-refused")
async def test_an_insecure_server_still_refuses_a_bad_token_and_forgets_expiry(dial, configure):
    configure(INSECURE=True)
    client, other = await dial(), await dial()

    assert "expires" not in await client.connect(token(exp=in_seconds(100)))
    assert await refused(other, "connect", token=token(exp=1)) == 109


@pytest.mark.rule(
    "fields-unknown-ignored",
    "connect-data-accepted",
    "connect-name-version-accepted",
    "connect-headers-accepted",
    "connect-new-fields-ignored",
)
async def test_fields_that_mean_nothing_yet_are_accepted(dial):
    client = await dial()

    result = await client.connect(
        token(), name="js", version="1", data={"a": 1}, subs={}, headers={"x": "y"}, flag=1
    )

    assert "subs" not in result


# subscribe -------------------------------------------------------------------------------------


@pytest.mark.rule(
    "subscribe-no-compaction",
    "subscribe-flags-told",
    "subscribe-position-told",
    "offset-of-top",
    "recover-no-wish-top",
)
async def test_a_positioned_subscribe_says_where_it_is(alice, publish):
    position = await publish("open:a", 1)

    assert await alice.call("subscribe", channel="open:a", flag=1) == {
        "recoverable": True,
        "positioned": True,
        "epoch": position.epoch,
        "offset": 1,
    }


@pytest.mark.rule("zero-omitted", "subscribe-plain-no-position")
async def test_a_plain_subscribe_says_nothing(alice):
    assert await alice.call("subscribe", channel="live:a") == {}


@pytest.mark.rule("stream-epoch-8-letters", "stream-read-makes-epoch")
async def test_an_empty_channel_has_an_epoch_and_no_offset(alice):
    result = await alice.call("subscribe", channel="open:a")

    assert len(result["epoch"]) == 8
    assert "offset" not in result


@pytest.mark.rule("subscribe-again-105")
async def test_a_second_subscribe_is_error_105(alice):
    await alice.call("subscribe", channel="open:a")

    assert await refused(alice, "subscribe", channel="open:a") == 105
    await alice.call("unsubscribe", channel="open:a")
    assert await alice.call("subscribe", channel="open:a")


@pytest.mark.rule("subscribe-limit-106", "subscribe-105-before-106")
async def test_the_channel_limit_is_error_106(alice, configure):
    configure(CHANNEL_LIMIT=2)
    for channel in ("open:a", "open:b"):
        await alice.call("subscribe", channel=channel)

    assert await refused(alice, "subscribe", channel="open:c") == 106
    assert await refused(alice, "subscribe", channel="open:a") == 105
    await alice.call("unsubscribe", channel="open:a")
    assert await alice.call("subscribe", channel="open:c")


@pytest.mark.rule("subscribe-refused-not-counted")
async def test_a_refused_subscribe_does_not_count(alice, configure):
    configure(CHANNEL_LIMIT=1)

    assert await refused(alice, "subscribe", channel="closed:a") == 103

    assert await alice.call("subscribe", channel="open:a")


@pytest.mark.rule(
    "subscribe-name-255-bytes",
    "subscribe-namespace-102",
    "subscribe-102-before-107",
    "subscribe-non-ascii-107",
    "subscribe-regex-107",
    "subscribe-private-103",
    "subscribe-user-limited-others-103",
    "subscribe-else-103",
    "name-namespace-unknown",
)
@pytest.mark.parametrize(
    ("channel", "code"),
    [
        ("nowhere:a", 102),
        (":a", 102),
        ("nowhere:" + "x" * 300, 102),
        ("open:" + "x" * 251, 107),
        ("open:ä", 107),
        ("regex:ABC", 107),
        ("regex:a\n", 107),
        ("closed:a", 103),
        ("$open:a", 103),
        ("$a", 103),
        ("limited:a", 103),
        ("limited:a#43", 103),
        ("limited:#42#43", 103),
    ],
)
async def test_a_subscribe_that_is_refused_says_why(alice, channel, code):
    assert await refused(alice, "subscribe", channel=channel) == code


@pytest.mark.rule(
    "subscribe-name-255-bytes",
    "subscribe-user-limited-listed",
    "subscribe-for-client",
    "name-user-limited-last",
    "name-user-limited-off",
)
@pytest.mark.parametrize(
    "channel",
    [
        "open:" + "x" * 250,
        "open:b:c",
        "regex:ä",
        "plain",
        "limited:a#42",
        "limited:#41,42",
        "open:#43",
    ],
)
async def test_a_subscribe_that_is_allowed(alice, channel):
    assert await alice.call("subscribe", channel=channel) is not None


@pytest.mark.rule("subscribe-insecure", "name-private-needs-token")
async def test_an_insecure_server_asks_nobody_but_for_private_channels(dial, configure):
    configure(INSECURE=True)
    client = await dial()
    await client.connect("")

    await client.call("subscribe", channel="closed:a")

    assert await refused(client, "subscribe", channel="$closed:a") == 103


@pytest.mark.rule("subscribe-for-anonymous")
async def test_an_anonymous_user_needs_its_own_permission(dial, configure):
    configure(ALLOW_ANONYMOUS=True)
    client = await dial()
    await client.connect("")

    assert await refused(client, "subscribe", channel="open:a") == 103
    await client.call("subscribe", channel="anon:a")


@pytest.mark.rule("subscribe-type-stream", "subscribe-type-other-103")
async def test_another_subscription_type_is_error_103(alice):
    for kind in (1, 2, 3, 4):
        assert await refused(alice, "subscribe", channel="open:a", type=kind) == 103

    await alice.call("subscribe", channel="open:a", type=0)


@pytest.mark.rule("subscribe-tags-filter-107")
async def test_a_tags_filter_is_error_107_while_there_is_none(alice):
    assert await refused(alice, "subscribe", channel="open:a", tf={"key": "a", "cmp": "ex"}) == 107


@pytest.mark.rule("subscribe-delta-unknown-3501", "subscribe-delta-not-granted")
async def test_an_unknown_delta_closes_and_a_known_one_is_not_granted(alice):
    assert "delta" not in await alice.call("subscribe", channel="open:a", delta="fossil")

    await alice.send_commands({"id": 9, "subscribe": {"channel": "open:b", "delta": "zip"}})

    assert await closes(alice)


# subscribe with a token ------------------------------------------------------------------------


def sub_token(channel, user="42", **claims):
    return token(user, channel=channel, **claims)


@pytest.mark.rule("subscribe-token-allows", "name-user-limited-token")
@pytest.mark.parametrize("channel", ["closed:a", "$closed:a", "limited:a#43", "$plain"])
async def test_a_token_stands_above_the_rules(alice, channel):
    assert await alice.call("subscribe", channel=channel, token=sub_token(channel)) is not None


@pytest.mark.rule("subscribe-token-needs-namespace")
async def test_a_token_does_not_make_a_namespace(alice):
    given = sub_token("nowhere:a")

    assert await refused(alice, "subscribe", channel="nowhere:a", token=given) == 102


@pytest.mark.rule("subscribe-token-expired-109")
async def test_an_expired_subscription_token_is_error_109(alice):
    given = sub_token("closed:a", exp=1)

    assert await refused(alice, "subscribe", channel="closed:a", token=given) == 109


@pytest.mark.rule("subscribe-token-invalid-103")
async def test_an_invalid_subscription_token_is_error_103_even_where_none_is_needed(alice):
    for given in ("garbage", sub_token("open:a", secret="another-secret-0123456789-0123456789")):
        assert await refused(alice, "subscribe", channel="open:a", token=given) == 103


@pytest.mark.rule("subscribe-token-no-connection-token")
async def test_a_connection_token_is_no_subscription_token(alice):
    assert await refused(alice, "subscribe", channel="open:a", token=token()) == 103


@pytest.mark.rule(
    "subscribe-token-channel-3500",
    "subscribe-token-user-3500",
    "subscribe-token-client-3500",
    "sub-claim-channel",
    "sub-claim-sub",
    "sub-claim-client",
)
@pytest.mark.parametrize(
    "given",
    [sub_token("closed:b"), sub_token("closed:a", "43"), sub_token("closed:a", client="another")],
)
async def test_a_token_of_another_channel_user_or_client_closes(alice, given):
    await alice.send_commands({"id": 9, "subscribe": {"channel": "closed:a", "token": given}})

    assert await closes(alice, code=3500)


@pytest.mark.rule("sub-claim-client")
async def test_a_token_may_name_its_client(alice):
    given = sub_token("closed:a", client=alice.id)

    assert await alice.call("subscribe", channel="closed:a", token=given) is not None


@pytest.mark.rule("subscribe-expiry-told", "sub-claim-exp")
async def test_a_subscription_that_expires_says_when(alice):
    given = sub_token("closed:a", exp=in_seconds(100))

    result = await alice.call("subscribe", channel="closed:a", token=given)

    assert result["expires"] is True
    assert 98 <= result["ttl"] <= 100


@pytest.mark.rule("subscribe-expired-110")
async def test_a_subscription_that_has_expired_already_is_error_110(alice):
    given = sub_token("closed:a", expire_at=1)

    assert await refused(alice, "subscribe", channel="closed:a", token=given) == 110


@pytest.mark.rule("subscribe-data-told", "sub-claim-data")
async def test_a_tokens_data_comes_with_the_reply(alice):
    given = sub_token("live:a", data={"hello": [1]})

    assert await alice.call("subscribe", channel="live:a", token=given) == {"data": {"hello": [1]}}


@pytest.mark.rule("sub-claim-override")
async def test_a_tokens_overrides_hold_for_this_subscription(alice):
    on = {name: {"value": True} for name in ("force_recovery", "presence", "join_leave")}
    given = sub_token("nowish:a", override=on)

    result = await alice.call("subscribe", channel="nowish:a", token=given)

    assert result["recoverable"] is True


# Wishes ----------------------------------------------------------------------------------------


@pytest.mark.rule(
    "recoverable-implies-positioned",
    "wish-positioned-by-option",
    "wish-recoverable-by-option",
    "wish-recoverable-by-history",
    "wish-refused-silently",
    "force-needs-no-wish",
    "option-force-positioning",
    "option-allow-positioning",
    "option-force-recovery",
    "option-allow-recovery",
)
@pytest.mark.parametrize(
    ("channel", "wishes", "granted"),
    [
        ("wish:a", {}, set()),
        ("wish:a", {"positioned": True}, {"positioned"}),
        ("wish:a", {"recoverable": True}, {"positioned", "recoverable"}),
        ("nowish:a", {"positioned": True, "recoverable": True}, set()),
        ("member:a", {"recoverable": True}, {"positioned", "recoverable"}),
        ("position:a", {}, {"positioned"}),
        ("live:a", {"recoverable": True}, set()),
        ("open:a", {"positioned": False, "recoverable": False}, {"positioned", "recoverable"}),
    ],
)
async def test_a_wish_is_granted_where_the_options_allow_it(alice, channel, wishes, granted):
    result = await alice.call("subscribe", channel=channel, **wishes)

    assert {key for key in ("positioned", "recoverable") if result.get(key)} == granted


@pytest.mark.rule("wish-join-leave-by-presence", "join-only-to-who-wants")
async def test_joins_are_pushed_to_who_asks_and_may_read_presence(alice, connect):
    await alice.call("subscribe", channel="quietroom:a", join_leave=True)
    await alice.call("subscribe", channel="nowish:a", join_leave=True)
    quiet = await connect("43")
    await quiet.call("subscribe", channel="quietroom:a")
    await quiet.call("subscribe", channel="nowish:a")

    bob = await connect("44")
    await bob.call("subscribe", channel="nowish:a")
    await bob.call("subscribe", channel="quietroom:a")

    joined = [(await alice.push("join"))["info"]["client"] for _ in range(3)]
    assert joined == [alice.id, quiet.id, bob.id]
    assert await quiet.has_nothing()


# Recovery --------------------------------------------------------------------------------------


async def recover(client, position, *, channel="open:a", **fields):
    return await client.call(
        "subscribe",
        channel=channel,
        recover=True,
        offset=position.offset,
        epoch=position.epoch,
        **fields,
    )


@pytest.mark.rule(
    "subscribe-publications-oldest-first",
    "offset-of-request",
    "epoch-is-current",
    "recover-missed",
    "recover-was-recovering",
)
async def test_a_client_that_comes_back_gets_what_it_missed(alice, publish):
    first = await publish("open:a", 1)
    await publish("open:a", 2)
    await publish("open:a", 3, tags={"k": "v"})

    assert await recover(alice, first) == {
        "recoverable": True,
        "positioned": True,
        "epoch": first.epoch,
        "offset": 1,
        "recovered": True,
        "was_recovering": True,
        "publications": [{"data": 2, "offset": 2}, {"data": 3, "offset": 3, "tags": {"k": "v"}}],
    }


@pytest.mark.rule("recover-nothing-missed")
async def test_a_client_that_missed_nothing_is_recovered_without_publications(alice, publish):
    position = await publish("open:a", 1)

    result = await recover(alice, position)

    assert (result["recovered"], result["offset"]) == (True, 1)
    assert "publications" not in result


@pytest.mark.rule("subscribe-recover-defaults", "offset-of-request", "recover-empty-epoch")
async def test_recover_without_offset_and_epoch_is_since_the_beginning(alice, publish):
    await publish("open:a", 1)

    result = await alice.call("subscribe", channel="open:a", recover=True)

    assert result["recovered"] is True
    assert [each["offset"] for each in result["publications"]] == [1]
    assert "offset" not in result  # that of the request: 0


async def test_recover_without_offset_on_an_empty_channel_is_recovered(alice):
    result = await alice.call("subscribe", channel="open:a", recover=True)

    assert result["recovered"] is True
    assert result["was_recovering"] is True


@pytest.mark.rule(
    "subscribe-publications-if-recovered",
    "offset-of-top",
    "epoch-is-current",
    "recover-other-epoch",
    "recover-trimmed",
    "recover-above-top",
    "recover-failed-no-publications",
    "recover-was-recovering",
    "sentinel-never-recovers",
)
@pytest.mark.parametrize(
    "offset_of",
    [
        lambda p: p._replace(epoch="other"),
        lambda p: p._replace(epoch="_"),
        lambda p: p._replace(offset=0),
        lambda p: p._replace(offset=99),
    ],
)
async def test_who_cannot_recover_is_told_and_starts_at_the_top(alice, publish, offset_of):
    for number in range(1, 6):
        position = await publish("short:a", number)

    result = await recover(alice, offset_of(position), channel="short:a")

    assert result["was_recovering"] is True
    assert not result.get("recovered")
    assert "publications" not in result
    assert result["offset"] == 5
    assert result["epoch"] == position.epoch


@pytest.mark.rule("recover-limit")
async def test_more_than_the_limit_is_not_recovered(engine, connect, publish, configure):
    configure(RECOVERY_MAX_PUBLICATIONS=2)
    positions = [await publish("open:a", number) for number in range(4)]
    alice, bob = await connect(), await connect()

    assert (await recover(alice, positions[1]))["recovered"] is True
    assert not (await recover(bob, positions[0])).get("recovered")


@pytest.mark.rule("recover-bytes")
async def test_a_recovery_that_would_fill_the_queue_counts_as_not_recovered(
    connect, publish, configure
):
    positions = [await publish("open:a", '"' + "x" * 1000 + '"') for _ in range(5)]
    configure(QUEUE_MAX_BYTES=4500)
    alice, bob = await connect(), await connect()

    assert (await recover(alice, positions[2]))["recovered"] is True
    assert not (await recover(bob, positions[1])).get("recovered")


@pytest.mark.rule("recover-not-enabled")
async def test_recover_where_nothing_is_recoverable_is_only_noted(alice):
    assert await alice.call("subscribe", channel="live:a", recover=True) == {"was_recovering": True}


@pytest.mark.rule("reject-112", "reject-good-position")
async def test_a_client_may_ask_to_be_refused_rather_than_start_anew(alice, publish):
    for number in range(1, 6):
        position = await publish("short:a", number)

    with pytest.raises(CommandError) as outcome:
        await recover(alice, position._replace(offset=1), channel="short:a", flag=3)

    assert outcome.value.code == 112
    assert (await recover(alice, position, channel="short:a", flag=3))["recovered"] is True


@pytest.mark.rule("reject-subscribes-nothing")
async def test_nothing_is_subscribed_after_error_112(alice, publish, engine):
    position = await publish("open:a", 1)
    with pytest.raises(CommandError):
        await recover(alice, position._replace(epoch="other"), flag=2)

    await publish("open:a", 2)

    assert await alice.has_nothing()
    assert await alice.call("presence", channel="open:a") == {"presence": {}}


@pytest.mark.rule("reject-needs-recover")
async def test_flag_2_without_recover_refuses_nobody(alice):
    assert await alice.call("subscribe", channel="open:a", flag=2)


# unsubscribe -----------------------------------------------------------------------------------


@pytest.mark.rule("unsubscribe-empty-result", "unsubscribe-nothing-ok", "unsubscribe-no-push")
async def test_unsubscribing_succeeds_also_when_there_is_nothing(alice):
    assert await alice.call("unsubscribe", channel="open:a") == {}
    assert await alice.call("unsubscribe", channel="nowhere:a") == {}
    await alice.call("subscribe", channel="open:a")
    assert await alice.call("unsubscribe", channel="open:a") == {}
    assert await alice.has_nothing()


@pytest.mark.rule("order-nothing-after-unsubscribe")
async def test_nothing_follows_the_reply_to_unsubscribe(alice, publish):
    await alice.call("subscribe", channel="open:a")
    publishing = asyncio.gather(*(publish("open:a", number) for number in range(50)))

    await alice.call("unsubscribe", channel="open:a")
    await publishing
    await asyncio.sleep(0.05)

    after = alice.log[-1]
    assert "unsubscribe" in after


@pytest.mark.rule(
    "order-resubscribe-at-once", "presence-before-reply", "presence-gone-at-unsubscribe"
)
async def test_subscribing_and_unsubscribing_in_a_loop_reads_true_statistics(alice):
    for _ in range(10):
        await alice.call("subscribe", channel="open:a")
        stats = await alice.call("presence_stats", channel="open:a")
        assert stats == {"num_clients": 1, "num_users": 1}
        await alice.call("unsubscribe", channel="open:a")
        stats = await alice.call("presence_stats", channel="open:a")
        assert stats == {"num_clients": 0, "num_users": 0}


# publish ---------------------------------------------------------------------------------------


@pytest.mark.rule(
    "connect-token-names-user",
    "publish-empty-result",
    "publish-for-client",
    "publish-info",
    "push-pub",
    "push-pub-info-tags",
    "push-pub-no-internals",
)
async def test_a_publication_reaches_every_subscriber_and_its_publisher(alice, connect):
    bob = await connect("43", info={"name": "Bob"})
    for client in (alice, bob):
        await client.call("subscribe", channel="open:a")

    assert await bob.call("publish", channel="open:a", data={"x": 1.0}) == {}

    for client in (alice, bob):
        publication = await client.push("pub", "open:a")
        epoch = publication.pop("epoch")
        assert len(epoch) == 8
        assert publication == {
            "data": {"x": 1.0},
            "offset": 1,
            "info": {"user": "43", "client": bob.id, "conn_info": {"name": "Bob"}},
        }


@pytest.mark.rule("push-pub-epoch-first-only")
async def test_the_epoch_goes_with_the_first_publication_alone(alice, publish):
    await alice.call("subscribe", channel="open:a")
    for number in (1, 2):
        await publish("open:a", number)

    first, second = await alice.publications(2)

    assert "epoch" in first
    assert "epoch" not in second


@pytest.mark.rule("publish-chan-info", "info-chan-info", "sub-claim-info")
async def test_a_publisher_shows_what_its_subscription_token_says_of_it(alice):
    given = sub_token("member:a", info={"role": "mod"})
    await alice.call("subscribe", channel="member:a", token=given)

    await alice.call("publish", channel="member:a", data=1)

    assert (await alice.push("pub"))["info"]["chan_info"] == {"role": "mod"}


@pytest.mark.rule(
    "publish-namespace-102",
    "publish-name-107",
    "publish-no-data-107",
    "publish-format-107",
    "publish-else-103",
    "publish-type-107",
)
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"channel": "nowhere:a", "data": 1}, 102),
        ({"channel": "open:ä", "data": 1}, 107),
        ({"channel": "open:a"}, 107),
        ({"channel": "open:a", "data": None}, 107),
        ({"channel": "object:a", "data": [1]}, 107),
        ({"channel": "open:a", "data": 1, "type": 1}, 107),
        ({"channel": "closed:a", "data": 1}, 103),
        ({"channel": "member:a", "data": 1}, 103),
        ({"channel": "plain", "data": 1}, 103),
    ],
)
async def test_a_publication_that_is_refused_says_why_and_is_not_sent(alice, fields, code):
    assert await refused(alice, "publish", **fields) == code


@pytest.mark.rule("publish-size-107")
async def test_a_publication_that_is_too_large_is_error_107(alice, configure):
    configure(PUBLICATION_MAX_BYTES=100)

    assert await refused(alice, "publish", channel="open:a", data="x" * 99) == 107
    assert await alice.call("publish", channel="open:a", data="x" * 98) == {}


@pytest.mark.rule("payload-depth-128")
async def test_deep_nesting_is_refused(alice):
    data = "[" * 129 + "]" * 129

    await alice.send('{"id":9,"publish":{"channel":"open:a","data":' + data + "}}")

    with pytest.raises(CommandError, match="107"):
        await alice.reply(9)


@pytest.mark.rule("payload-bytes-kept")
async def test_a_payload_keeps_its_bytes_on_its_way(alice, dial, engine):
    await alice.call("subscribe", channel="live:a")
    texts = []
    receive = alice.communicator.receive_output

    async def noting(timeout=1):
        event = await receive(timeout)
        texts.append(event.get("text", ""))
        return event

    alice.communicator.receive_output = noting
    data = '{"b": 1.0,"a":98765432109876543210,"e":"\\u00e9é"}'
    await alice.send('{"id":9,"publish":{"channel":"live:a","data":' + data + "}}")

    await alice.push("pub")

    assert any('"data":' + data in text for text in texts)


@pytest.mark.rule("publish-for-subscriber")
async def test_a_subscriber_may_publish_where_subscribers_may(alice):
    await alice.call("subscribe", channel="member:a")

    assert await alice.call("publish", channel="member:a", data=1) == {}
    await alice.call("unsubscribe", channel="member:a")
    assert await refused(alice, "publish", channel="member:a", data=1) == 103


@pytest.mark.rule("redis-away-100")
async def test_a_publish_is_error_100_when_redis_is_away_and_never_an_acknowledgement(
    valkey, connect
):
    alice = await connect()
    valkey.stop()
    started_at = time.monotonic()

    assert await refused(alice, "publish", channel="open:a", data=1) == 100

    assert time.monotonic() - started_at < 2


@pytest.mark.rule("unsubscribe-2500")
async def test_a_client_outlives_an_outage_of_redis(valkey, connect, engine):
    alice = await connect()
    await alice.call("subscribe", channel="open:a")
    await asyncio.to_thread(valkey.stop)
    assert await refused(alice, "publish", channel="open:a", data=1) == 100

    await asyncio.to_thread(valkey.start)
    await until(lambda: engine.layer.is_linked)
    unsubscribed = await alice.push("unsubscribe", "open:a")
    await alice.call("subscribe", channel="open:a")
    await alice.call("publish", channel="open:a", data=2)

    assert unsubscribed == {"code": 2500, "reason": "insufficient state"}
    assert (await alice.push("pub", "open:a"))["data"] == 2


# presence --------------------------------------------------------------------------------------


@pytest.mark.rule("presence-result", "info-conn-info", "claim-info", "option-presence")
async def test_presence_shows_everybody_who_is_subscribed(alice, connect):
    bob = await connect("43", info={"name": "Bob"})
    for client in (alice, bob):
        await client.call("subscribe", channel="open:a")

    presence = (await alice.call("presence", channel="open:a"))["presence"]

    assert presence == {
        alice.id: {"user": "42", "client": alice.id},
        bob.id: {"user": "43", "client": bob.id, "conn_info": {"name": "Bob"}},
    }


@pytest.mark.rule(
    "presence-stats-result",
    "presence-per-connection",
    "presence-users-distinct",
    "presence-anonymous-is-a-user",
)
async def test_presence_counts_connections_and_users(alice, connect, configure):
    others = [await connect() for _ in range(2)] + [await connect("")]
    for client in (alice, *others[:2]):
        await client.call("subscribe", channel="anon:a")
    await others[2].call("subscribe", channel="anon:a")

    stats = await alice.call("presence_stats", channel="anon:a")

    assert stats == {"num_clients": 4, "num_users": 2}


@pytest.mark.rule("zero-presence", "zero-presence-stats", "presence-for-client")
async def test_the_presence_of_nobody_is_an_empty_object(alice):
    assert await alice.call("presence", channel="open:a") == {"presence": {}}
    assert await alice.call("presence_stats", channel="open:a") == {
        "num_clients": 0,
        "num_users": 0,
    }


@pytest.mark.rule(
    "presence-namespace-102",
    "presence-name-107",
    "presence-off-108",
    "presence-else-103",
    "option-presence",
)
@pytest.mark.parametrize("method", ["presence", "presence_stats"])
@pytest.mark.parametrize(
    ("channel", "code"),
    [("nowhere:a", 102), ("open:ä", 107), ("live:a", 108), ("closed:a", 103), ("member:a", 103)],
)
async def test_presence_that_is_refused_says_why(alice, method, channel, code):
    assert await refused(alice, method, channel=channel) == code


@pytest.mark.rule("presence-for-subscriber")
async def test_a_subscriber_may_see_presence_where_subscribers_may(alice):
    await alice.call("subscribe", channel="member:a")

    assert await alice.call("presence_stats", channel="member:a") == {
        "num_clients": 1,
        "num_users": 1,
    }


@pytest.mark.rule("presence-gone-at-disconnect")
async def test_presence_ends_with_the_connection(alice, connect, engine):
    bob = await connect("43")
    for channel in ("open:a", "open:b"):
        await bob.call("subscribe", channel=channel)

    await bob.leave()

    assert await alice.call("presence", channel="open:a") == {"presence": {}}
    assert await alice.call("presence", channel="open:b") == {"presence": {}}


@pytest.mark.rule("presence-before-reply")
async def test_presence_is_written_before_the_reply(alice, engine):
    await alice.call("subscribe", channel="open:a")

    assert (await engine.presence.members("open:a")).keys() == {alice.id}


@pytest.mark.rule("presence-renewed")
async def test_presence_outlives_its_ttl_while_it_is_renewed(connect, engine, configure):
    configure(PRESENCE_TTL_SECONDS=2)
    alice = await connect()
    await alice.call("subscribe", channel="open:a")
    (session,) = engine.connections.find("42")
    await engine.presence.add(Member("open:a", ClientInfo("43", "crashed")))

    async with asyncio.timeout(5):
        while len(await engine.presence.members("open:a")) > 1:
            await engine.walks.renew([session])
            await asyncio.sleep(0.1)

    assert (await engine.presence.members("open:a")).keys() == {alice.id}


async def test_a_renewal_under_way_does_not_bring_back_who_left(connect, engine, monkeypatch):
    alice = await connect()
    await alice.call("subscribe", channel="open:a")
    (session,) = engine.connections.find("42")
    renew = engine.presence.renew

    async def late(batch):
        await alice.call("unsubscribe", channel="open:a")
        return await renew(batch)

    monkeypatch.setattr(engine.presence, "renew", late)

    await engine.walks.renew([session])

    assert await engine.presence.members("open:a") == {}


# join and leave --------------------------------------------------------------------------------


@pytest.mark.rule(
    "push-join",
    "push-leave",
    "join-to-oneself",
    "option-join-leave",
    "option-force-push-join-leave",
)
async def test_joins_and_leaves_are_pushed_to_oneself_and_to_others(alice, connect):
    await alice.call("subscribe", channel="room:a")
    assert await alice.push("join", "room:a") == {"info": {"user": "42", "client": alice.id}}
    bob = await connect("43", info={"name": "Bob"})

    await bob.call("subscribe", channel="room:a")
    await bob.call("unsubscribe", channel="room:a")

    info = {"user": "43", "client": bob.id, "conn_info": {"name": "Bob"}}
    assert await alice.push("join", "room:a") == {"info": info}
    assert await alice.push("leave", "room:a") == {"info": info}


@pytest.mark.rule("leave-not-to-oneself")
async def test_who_leaves_does_not_get_its_own_leave(alice):
    await alice.call("subscribe", channel="room:a")
    await alice.push("join", "room:a")

    await alice.call("unsubscribe", channel="room:a")

    assert await alice.has_nothing()


@pytest.mark.rule("order-subscribe-reply-first", "join-after-reply")
async def test_the_reply_comes_before_ones_own_join(alice):
    await alice.call("subscribe", channel="room:a")
    await alice.push("join")

    assert "subscribe" in alice.log[-2]


@pytest.mark.rule("leave-at-lost-connection")
async def test_a_leave_follows_a_lost_connection(alice, connect):
    await alice.call("subscribe", channel="room:a")
    bob = await connect("43")
    await bob.call("subscribe", channel="room:a")

    await bob.leave()

    assert (await alice.push("leave", "room:a"))["info"]["client"] == bob.id


@pytest.mark.rule("order-join-before-leave")
async def test_a_join_always_comes_before_its_leave(alice, connect):
    await alice.call("subscribe", channel="room:a")
    await alice.push("join")
    bob = await connect("43")

    for _ in range(20):
        await bob.call("subscribe", channel="room:a")
        await bob.call("unsubscribe", channel="room:a")
    for _ in range(20):
        await alice.push("leave", "room:a")

    kinds = [
        kind
        for message in alice.log
        for kind in ("join", "leave")
        if message.get("push", {}).get(kind, {}).get("info", {}).get("user") == "43"
    ]
    assert kinds == ["join", "leave"] * 20


# history ---------------------------------------------------------------------------------------


@pytest.mark.rule("history-position-alone")
async def test_history_without_a_limit_is_the_position_alone(alice, publish):
    position = await publish("open:a", 1)

    assert await alice.call("history", channel="open:a") == {
        "publications": [],
        "offset": 1,
        "epoch": position.epoch,
    }


@pytest.mark.rule("zero-history", "history-position-always", "stream-top-zero")
async def test_the_history_of_an_empty_channel_has_every_field(alice):
    result = await alice.call("history", channel="open:a", limit=10)

    assert result["publications"] == []
    assert result["offset"] == 0
    assert result["epoch"]


@pytest.mark.rule(
    "history-position-alone",
    "history-since-forward",
    "history-since-reverse",
    "history-reverse-from-top",
    "history-any-epoch",
    "history-position-always",
    "history-for-client",
)
async def test_history_gives_what_was_asked_for(alice, publish):
    for number in range(1, 6):
        position = await publish("open:a", number)
    epoch = position.epoch

    async def offsets(**fields):
        result = await alice.call("history", channel="open:a", **fields)
        assert (result["offset"], result["epoch"]) == (5, epoch)
        return [publication["offset"] for publication in result["publications"]]

    assert await offsets(limit=2) == [1, 2]
    assert await offsets(limit=-1) == [1, 2, 3, 4, 5]
    assert await offsets(limit=2, reverse=True) == [5, 4]
    assert await offsets(limit=9, since={"offset": 2, "epoch": epoch}) == [3, 4, 5]
    assert await offsets(limit=9, since={"offset": 3}) == [4, 5]
    assert await offsets(limit=9, since={}) == [1, 2, 3, 4, 5]
    assert await offsets(limit=9, since={"offset": 3, "epoch": epoch}, reverse=True) == [2, 1]
    assert await offsets(since={"offset": 2, "epoch": epoch}) == []


@pytest.mark.rule("history-limit-clamped")
@pytest.mark.parametrize("limit", [-1, -(2**31), 4, 2**31 - 1])
async def test_a_limit_is_clamped(alice, publish, configure, limit):
    configure(HISTORY_MAX_PUBLICATIONS=3)
    for number in range(5):
        await publish("open:a", number)

    result = await alice.call("history", channel="open:a", limit=limit)

    assert len(result["publications"]) == 3


@pytest.mark.rule(
    "history-reverse-zero-107",
    "history-epoch-112",
    "history-namespace-102",
    "history-name-107",
    "history-off-108",
    "history-else-103",
)
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"channel": "nowhere:a"}, 102),
        ({"channel": "open:ä"}, 107),
        ({"channel": "open:a", "reverse": True, "since": {"offset": 0}}, 107),
        ({"channel": "open:a", "since": {"offset": 0, "epoch": "other"}}, 112),
        ({"channel": "live:a"}, 108),
        ({"channel": "closed:a"}, 103),
        ({"channel": "member:a"}, 103),
    ],
)
async def test_history_that_is_refused_says_why(alice, fields, code):
    assert await refused(alice, "history", limit=5, **fields) == code


@pytest.mark.rule("history-trimmed-no-error")
async def test_a_trimmed_gap_is_no_error_of_history(alice, publish):
    for number in range(1, 6):
        position = await publish("short:a", number)

    result = await alice.call(
        "history", channel="short:a", limit=9, since={"offset": 1, "epoch": position.epoch}
    )

    assert [each["offset"] for each in result["publications"]] == [3, 4, 5]


@pytest.mark.rule("publish-stored", "history-publication-shape")
async def test_a_publication_in_history_shows_its_publisher_and_tags(alice, publish):
    await alice.call("publish", channel="open:a", data=1)
    await publish("open:a", 2, tags={"k": "v"})

    result = await alice.call("history", channel="open:a", limit=5)

    assert result["publications"] == [
        {"data": 1, "offset": 1, "info": {"user": "42", "client": alice.id}},
        {"data": 2, "offset": 2, "tags": {"k": "v"}},
    ]


@pytest.mark.rule("history-reply-bounded")
async def test_a_reply_never_fills_the_queue_by_itself(alice, publish, configure):
    for _ in range(6):
        await publish("open:a", '"' + "x" * 1000 + '"')
    configure(QUEUE_MAX_BYTES=4500)

    result = await alice.call("history", channel="open:a", limit=6)

    assert [each["offset"] for each in result["publications"]] == [1, 2]
    assert result["offset"] == 6


# rpc, send -------------------------------------------------------------------------------------


@pytest.mark.rule("rpc-108")
async def test_rpc_is_not_available(alice):
    assert await refused(alice, "rpc", method="m") == 108
    assert await refused(alice, "rpc") == 108


@pytest.mark.rule("send-3508")
@pytest.mark.parametrize("text", ['{"send":{}}', '{"id":9,"send":{"data":1}}'])
async def test_send_closes_with_3508(alice, text):
    await alice.send(text)

    assert await closes(alice, code=3508)


# refresh ---------------------------------------------------------------------------------------


@pytest.mark.rule("refresh-result")
async def test_a_refresh_says_until_when(alice):
    result = await alice.call("refresh", token=token(exp=in_seconds(100)))

    assert result["expires"] is True
    assert 98 <= result["ttl"] <= 100


@pytest.mark.rule("refresh-no-expiry")
async def test_a_refresh_without_expiry_makes_a_connection_that_does_not_expire(connect):
    alice = await connect(exp=in_seconds(100))

    assert await alice.call("refresh", token=token()) == {}


@pytest.mark.rule("refresh-past-110")
async def test_a_refresh_that_has_expired_already_is_error_110(alice):
    assert await refused(alice, "refresh", token=token(expire_at=1)) == 110


@pytest.mark.rule(
    "refresh-token-missing-3501",
    "refresh-invalid-3500",
    "refresh-other-user-3500",
    "refresh-expired-3005",
)
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, 3501),
        ({"token": ""}, 3501),
        ({"token": "garbage"}, 3500),
        ({"token": token("43")}, 3500),
        ({"token": token(channel="open:a")}, 3500),
        ({"token": token(exp=1)}, 3005),
    ],
)
async def test_a_refresh_that_is_wrong_closes(alice, fields, code):
    await alice.send_commands({"id": 9, "refresh": fields})

    assert await closes(alice, code=code)


@pytest.mark.rule("refresh-info")
async def test_a_refresh_replaces_the_info_if_it_brings_one(connect):
    alice = await connect(info={"v": 1})
    await alice.call("subscribe", channel="open:a")

    await alice.call("refresh", token=token())
    await alice.call("publish", channel="open:a", data=1)
    await alice.call("refresh", token=token(info={"v": 2}))
    await alice.call("publish", channel="open:a", data=2)

    shown = [each["info"]["conn_info"] for each in await alice.publications(2)]
    assert shown == [{"v": 1}, {"v": 2}]


@pytest.mark.rule("expiry-3005-after-grace", "close-3005")
async def test_a_connection_is_closed_after_its_expiry_and_the_grace(connect, monkeypatch):
    monkeypatch.setattr("realtime.session.EXPIRED_CLOSE_SECONDS", 0.1)
    alice = await connect(exp=in_seconds(2), expire_at=in_seconds(1))

    assert await closes(alice, code=3005)


@pytest.mark.rule("refresh-lives-on")
async def test_a_refreshed_connection_is_not_closed(connect, monkeypatch):
    monkeypatch.setattr("realtime.session.EXPIRED_CLOSE_SECONDS", 0.1)
    alice = await connect(expire_at=in_seconds(1))

    await alice.call("refresh", token=token(exp=in_seconds(100)))
    await asyncio.sleep(1.3)

    assert await alice.call("unsubscribe", channel="open:a") == {}


# sub_refresh -----------------------------------------------------------------------------------


@pytest.fixture
async def subscribed(alice):
    given = sub_token("closed:a", exp=in_seconds(100))
    await alice.call("subscribe", channel="closed:a", token=given)
    return alice


@pytest.mark.rule("sub-refresh-result", "sub-refresh-no-expiry")
async def test_a_subscription_is_refreshed(subscribed):
    given = sub_token("closed:a", exp=in_seconds(200))

    result = await subscribed.call("sub_refresh", channel="closed:a", token=given)

    assert result["expires"] is True
    assert 198 <= result["ttl"] <= 200
    assert (
        await subscribed.call("sub_refresh", channel="closed:a", token=sub_token("closed:a")) == {}
    )


@pytest.mark.rule(
    "sub-refresh-token-missing-107",
    "sub-refresh-not-subscribed-103",
    "sub-refresh-past-110",
    "sub-refresh-expired-109",
)
async def test_a_sub_refresh_that_is_refused_says_why(subscribed):
    async def code(**fields):
        return await refused(subscribed, "sub_refresh", **fields)

    assert await code(channel="closed:a") == 107
    assert await code(channel="open:a", token=sub_token("open:a")) == 103
    assert await code(channel="closed:a", token=sub_token("closed:a", exp=1)) == 109
    assert await code(channel="closed:a", token=sub_token("closed:a", expire_at=1)) == 110


@pytest.mark.rule("sub-refresh-invalid-3500", "sub-refresh-user-3500", "sub-refresh-channel-3500")
@pytest.mark.parametrize(
    "given",
    ["garbage", token(), sub_token("closed:b"), sub_token("closed:a", "43")],
)
async def test_a_sub_refresh_with_a_wrong_token_closes(subscribed, given):
    await subscribed.send_commands(
        {"id": 99, "sub_refresh": {"channel": "closed:a", "token": given}}
    )

    assert await closes(subscribed, code=3500)


@pytest.mark.rule("sub-claim-client")
async def test_a_sub_refresh_with_the_token_of_another_connection_closes(connect):
    alice, other = await connect(), await connect()
    await alice.call("subscribe", channel="closed:a", token=sub_token("closed:a"))
    given = sub_token("closed:a", client=other.id)

    await alice.send_commands({"id": 99, "sub_refresh": {"channel": "closed:a", "token": given}})

    assert await closes(alice, code=3500)


@pytest.mark.rule("unsubscribe-2501", "sub-expiry-2501-after-grace")
async def test_an_expired_subscription_is_ended_and_the_client_told(engine, alice, monkeypatch):
    monkeypatch.setattr("realtime.subscriptions.EXPIRED_CLOSE_SECONDS", 0.0)
    given = sub_token("closed:a", expire_at=in_seconds(1))
    await alice.call("subscribe", channel="closed:a", token=given)
    (session,) = engine.connections.find("42")
    session.check_subscriptions()
    assert await alice.has_nothing()

    await asyncio.sleep(1.1)
    session.check_subscriptions()

    assert await alice.push("unsubscribe", "closed:a") == {
        "code": 2501,
        "reason": "subscription expired",
    }
    assert await engine.presence.members("closed:a") == {}
    assert await refused(alice, "sub_refresh", channel="closed:a", token=given) == 103


# Server API on a connection --------------------------------------------------------------------


async def test_a_disconnected_user_is_told_why(alice, connect):
    bob = await connect("43")

    await services.adisconnect("42")

    assert await closes(alice, code=3503)
    assert await bob.call("unsubscribe", channel="open:a") == {}


@pytest.mark.rule("close-application-codes", "api-disconnect-code-reason")
async def test_a_disconnect_has_the_code_and_reason_it_was_given(alice):
    await services.adisconnect("42", code=4501, reason="banned")

    closed = await alice.closed()
    assert (closed.code, closed.reason) == (4501, "banned")


@pytest.mark.rule("api-disconnect-whitelist", "api-disconnect-client")
async def test_a_disconnect_spares_whom_it_does_not_mean(alice, connect):
    spared, other = await connect(), await connect()

    await services.adisconnect("42", whitelist=[spared.id, other.id])
    await closes(alice, code=3503)
    await services.adisconnect("42", client=other.id)

    assert await closes(other, code=3503)
    assert await spared.call("unsubscribe", channel="open:a") == {}


@pytest.mark.rule("push-unsubscribe", "unsubscribe-2000", "api-unsubscribe-push")
async def test_an_unsubscribed_user_is_told_and_hears_no_more(alice, publish):
    for channel in ("open:a", "open:b"):
        await alice.call("subscribe", channel=channel)

    await services.aunsubscribe("42", "open:a")

    assert await alice.push("unsubscribe", "open:a") == {
        "code": 2000,
        "reason": "server unsubscribe",
    }
    await publish("open:a", 1)
    await publish("open:b", 2)
    assert (await alice.push("pub"))["data"] == 2
    assert (await alice.call("presence", channel="open:a")) == {"presence": {}}


@pytest.mark.rule("api-unsubscribe-after-subscribe")
async def test_an_unsubscribe_waits_for_the_subscribe_under_way(alice, engine, monkeypatch):
    entered, go_on = asyncio.Event(), asyncio.Event()
    add = engine.presence.add

    async def slow(member):
        await add(member)
        entered.set()
        await go_on.wait()

    monkeypatch.setattr(engine.presence, "add", slow)
    await alice.send_commands({"id": 9, "subscribe": {"channel": "open:a"}})
    await asyncio.wait_for(entered.wait(), 5)
    await services.aunsubscribe("42", "open:a")
    await asyncio.sleep(0.05)

    go_on.set()

    await alice.reply(9)
    assert (await alice.push("unsubscribe", "open:a"))["code"] == 2000
    assert await engine.presence.members("open:a") == {}


@pytest.mark.rule("envelope-first-command-wins")
async def test_the_handlers_are_those_of_the_protocol_in_its_order():
    assert list(commands._HANDLERS) == ["connect", *EVERY_COMMAND]


async def test_a_close_is_reported_by_every_later_call(alice):
    await alice.send_commands({"id": 8, "send": {}})
    await alice.closed()

    with pytest.raises(Closed):
        await alice.call("unsubscribe", channel="open:a")
