"""Rules of connecting, of frames and of expiry that nothing else proves."""

import time
import uuid
from types import SimpleNamespace

import pytest

from tests.realtime.client import CommandError, token
from tests.realtime.test_commands import closes, in_seconds

FORGED = token(secret="another-secret-0123456789-0123456789")


@pytest.mark.rule("connect-client-uuid")
async def test_a_client_id_is_a_random_uuid(connect):
    client = await connect()

    assert uuid.UUID(client.id).version == 4
    assert str(uuid.UUID(client.id)) == client.id


@pytest.mark.rule("connect-token-judged-first")
async def test_a_bad_token_is_refused_where_none_would_be_needed(dial, configure):
    configure(ALLOW_ANONYMOUS=True)
    forged, expired = await dial(), await dial()

    await forged.send_commands({"id": 1, "connect": {"token": FORGED}})
    with pytest.raises(CommandError, match="109"):
        await expired.connect(token(exp=1))

    assert await closes(forged, code=3500)


@pytest.mark.rule("connect-insecure-invalid-refused", "token-signature-always")
async def test_an_insecure_server_refuses_a_forged_token(dial, configure):
    configure(INSECURE=True)
    client = await dial()

    await client.send_commands({"id": 1, "connect": {"token": FORGED}})

    assert await closes(client, code=3500)


@pytest.mark.rule("token-signature-always")
async def test_an_insecure_server_refuses_a_forged_subscription_token(connect, configure):
    configure(INSECURE=True)
    client = await connect()
    forged = token("42", channel="closed:a", secret="another-secret-0123456789-0123456789")

    with pytest.raises(CommandError, match="103"):
        await client.call("subscribe", channel="closed:a", token=forged)


@pytest.mark.rule("envelope-first-command-wins")
@pytest.mark.parametrize(
    ("commands", "answered"),
    [
        ({"send": {}, "subscribe": {"channel": "open:a"}}, "subscribe"),
        ({"publish": {"channel": "open:a"}, "unsubscribe": {"channel": "a"}}, "unsubscribe"),
        ({"rpc": {}, "presence": {"channel": "open:a"}}, "presence"),
        (
            {"history": {"channel": "open:a"}, "presence_stats": {"channel": "open:a"}},
            "presence_stats",
        ),
    ],
)
async def test_the_first_command_in_the_protocols_order_counts(connect, commands, answered):
    client = await connect()

    await client.send_commands({"id": 9, **commands})
    reply = await client.next(lambda message: message.get("id") == 9)

    assert set(reply) == {"id", answered}
    assert await client.has_nothing()


@pytest.mark.rule("close-3004")
async def test_a_conversation_that_fails_is_closed_with_3004(connect, monkeypatch, caplog):
    async def fail(*_):
        raise RuntimeError("a secret detail")

    client = await connect()
    monkeypatch.setattr("realtime.commands.receive", fail)

    await client.send_commands({"id": 9, "unsubscribe": {"channel": "open:a"}})

    assert await closes(client, code=3004)
    assert "a secret detail" in caplog.text


# Expiry ----------------------------------------------------------------------------------------


@pytest.mark.rule("expiry-not-within-grace", "expiry-3005-after-grace", "default-expired-close-25")
async def test_a_connection_is_closed_25_seconds_after_its_expiry(dial, monkeypatch):
    expire_at = in_seconds(1000)
    # To the session it is so late already, to who verifies the token it is not.
    late = SimpleNamespace(time=lambda: expire_at + 24.7)
    monkeypatch.setattr("realtime.session.time", late)
    client = await dial()
    await client.connect(token(expire_at=expire_at))
    connected_at = time.monotonic()

    assert await closes(client, code=3005)

    assert 0.2 < time.monotonic() - connected_at < 3


@pytest.mark.rule(
    "sub-expiry-not-within-grace", "sub-expiry-2501-after-grace", "default-expired-sub-close-25"
)
async def test_a_subscription_is_ended_25_seconds_after_its_expiry(connect, engine, monkeypatch):
    expire_at = in_seconds(1000)
    clock = SimpleNamespace(time=lambda: expire_at + 24.9)
    client = await connect()
    given = token("42", channel="closed:a", expire_at=expire_at)
    await client.call("subscribe", channel="closed:a", token=given)
    (session,) = engine.connections.find("42")
    monkeypatch.setattr("realtime.subscriptions.time", clock)

    session.check_subscriptions()
    assert await client.has_nothing()
    clock.time = lambda: expire_at + 25.1
    session.check_subscriptions()

    assert (await client.push("unsubscribe", "closed:a"))["code"] == 2501
