import asyncio
import time
from datetime import timedelta

import pytest
from django.db import DatabaseError
from django.test import AsyncClient
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from api import auth
from api.auth import Caller, KeyUsage, matches
from realtime.models import ApiKey
from realtime.protocol.errors import PermissionDenied
from tests.api.conftest import KEY

SCOPED = "a-key-with-few-scopes"
PUBLISH = '{"channel":"plain:x","data":1}'


async def status(path="/api/publish", **headers):
    """Return the status that a publish with these headers is answered with."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await AsyncClient().post(
        path, PUBLISH, content_type="application/json", headers=names
    )
    if response.status_code in (401, 403):
        assert response.content == b""
    return response.status_code


@pytest.fixture
def scoped(configured):
    """Return a maker of a key with the given scopes."""

    def scoped(*scopes, **options):
        ApiKey.create("scoped", key=SCOPED, scopes=list(scopes), **options)

    return scoped


@pytest.mark.rule("api-key-header", "api-key-authorization")
@pytest.mark.parametrize(
    "headers",
    [
        {"X_API_Key": KEY},
        {"Authorization": f"apikey {KEY}"},
        {"Authorization": f"ApiKey  {KEY}"},
    ],
)
async def test_a_key_comes_in_one_of_two_headers(configured, headers):
    assert await status(**headers) == 200


@pytest.mark.rule("api-key-query")
async def test_a_key_may_come_in_the_address(configured):
    assert await status(f"/api/publish?api_key={KEY}") == 200
    assert await status(f"/api/publish?api_key={KEY}", X_API_Key="wrong") == 200


@pytest.mark.rule("api-key-header-first", "api-key-refused-401")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X_API_Key": ""},
        {"X_API_Key": "wrong"},
        {"X_API_Key": f"{KEY} "},
        {"X_API_Key": KEY.upper()},
        {"X_API_Key": KEY[:-1]},
        {"X_API_Key": "wrong", "Authorization": f"apikey {KEY}"},
        {"X_API_Key": "é" * 40},
        {"X_API_Key": "x" * 100_000},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": "apikey"},
        {"Authorization": KEY},
    ],
)
async def test_anything_else_is_unauthorized(configured, headers):
    assert await status(**headers) == 401


@pytest.mark.rule("api-key-refused-401")
@pytest.mark.parametrize(
    "query",
    ["api_key=", "api_key=wrong", "api_key=%00", "api_key=%ED%A0%80", "a=1&" * 1001],
)
async def test_a_wrong_key_in_the_address_is_unauthorized(configured, query):
    assert await status(f"/api/publish?{query}") == 401


async def test_the_hash_of_a_key_is_no_key(configured):
    key_hash = (await ApiKey.objects.aget()).key_hash

    assert await status(X_API_Key=key_hash) == 401


@pytest.mark.rule("api-no-key-configured-401")
async def test_without_any_key_nobody_is_authorized(transactional_db, settings):
    settings.REALTIME = {**settings.REALTIME, "SNAPSHOT_POLL_SECONDS": 0}

    assert await status(X_API_Key="") == 401
    assert await status(X_API_Key=KEY) == 401


async def test_the_key_of_the_settings_may_do_everything(configured, settings):
    settings.REALTIME = {**settings.REALTIME, "API_KEY": "the-key-of-the-settings"}

    assert await status(X_API_Key="the-key-of-the-settings") == 200
    assert await status(X_API_Key="the-key-of-the-setting") == 401
    assert await status("/api/info", X_API_Key="the-key-of-the-settings") == 200


async def test_an_expired_key_is_unauthorized(scoped):
    await asyncio.to_thread(scoped, "publish", expires_at=timezone.now() + timedelta(seconds=60))
    assert await status(X_API_Key=SCOPED) == 200

    await ApiKey.objects.filter(name="scoped").aupdate(expires_at=timezone.now())
    assert await status(X_API_Key=SCOPED) == 401


async def test_a_revoked_key_is_unauthorized(configured):
    await ApiKey.objects.all().adelete()

    assert await status(X_API_Key=KEY) == 401


@pytest.mark.rule("api-key-scopes-403")
async def test_a_call_outside_the_scopes_is_forbidden(scoped):
    await asyncio.to_thread(scoped, "publish:chat:*", "history")

    assert await status(X_API_Key=SCOPED) == 403
    assert await status("/api/broadcast", X_API_Key=SCOPED) == 403
    assert await status("/api/info", X_API_Key=SCOPED) == 403
    assert await status("/api/history", X_API_Key=SCOPED) == 200


async def test_a_key_whose_scopes_were_emptied_may_do_nothing(scoped):
    await asyncio.to_thread(scoped, "publish")
    await ApiKey.objects.filter(name="scoped").aupdate(scopes=[])

    assert await status(X_API_Key=SCOPED) == 403


@pytest.mark.rule("api-key-scopes-403")
async def test_broadcast_is_refused_channel_by_channel(scoped, call):
    await asyncio.to_thread(scoped, "broadcast:plain:*")

    answer = await call("broadcast", {"channels": ["plain:x", "kept:x"], "data": 1}, key=SCOPED)

    assert answer.result["responses"] == [
        {"result": {}},
        {"error": {"code": 103, "message": "permission denied"}},
    ]


@pytest.mark.parametrize(
    ("scope", "method", "channel", "is_allowed"),
    [
        ("*", "publish", "chat:1", True),
        ("*", "info", None, True),
        ("publish", "publish", "chat:1", True),
        ("publish", "history", "chat:1", False),
        ("publish", "broadcast", "chat:1", False),
        ("publish:chat:*", "publish", "chat:1", True),
        ("publish:chat:*", "publish", "chat:", True),
        ("publish:chat:*", "publish", "chat:*", True),
        ("publish:chat:*", "publish", "chatx:1", False),
        ("publish:chat:*", "publish", "$chat:1", False),
        ("publish:chat:*", "publish", "", False),
        ("publish:chat:1", "publish", "chat:1", True),
        ("publish:chat:1", "publish", "chat:12", False),
        ("history", "history_remove", "chat:1", False),
        ("history:*", "history", "", True),
        ("info", "info", None, True),
        ("publish:*", "info", None, False),
        ("info:*", "info", None, False),
        ("", "publish", "chat:1", False),
    ],
)
def test_a_scope_covers_its_method_and_channels(scope, method, channel, is_allowed):
    caller = Caller("somebody", (scope,))

    if is_allowed:
        caller.require(method, channel)
    else:
        with pytest.raises(PermissionDenied):
            caller.require(method, channel)


@pytest.mark.parametrize(
    ("pattern", "channel", "is_match"),
    [
        ("a*c", "abc", True),
        ("a*c", "ac", True),
        ("a*a", "a", False),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "a-c-b", False),
        ("*", "", True),
        ("**", "x", True),
        ("*a*", "xay", True),
        ("*ab*ba*", "aba", False),
        ("a.c", "abc", False),
        ("a?c", "abc", False),
        ("[ab]", "a", False),
        ("a*", "a\nb", True),
        ("é*", "éa", True),
    ],
)
def test_only_the_star_is_special_in_a_pattern(pattern, channel, is_match):
    assert matches(pattern, channel) is is_match


@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=5), st.text("ab", max_size=4))
def test_stars_stand_for_any_characters(parts, filling):
    assert matches("*".join(parts), filling.join(parts))


def test_many_stars_take_no_time():
    started_at = time.perf_counter()

    assert not matches("a*" * 200 + "b", "a" * 20_000)

    assert time.perf_counter() - started_at < 0.5


async def test_the_use_of_a_key_is_written_once_a_minute(monkeypatch):
    written = []
    monkeypatch.setattr(auth, "_write_use", lambda key_id, used_at: written.append(key_id))
    clock = [1000.0]
    monkeypatch.setattr(auth.time, "monotonic", lambda: clock[0])
    usage = KeyUsage()

    for moment in (0, 0, 59, 60, 119, 121):
        clock[0] = 1000.0 + moment
        usage.note(1)
    usage.note(2)
    await asyncio.get_running_loop().shutdown_default_executor()

    assert sorted(written) == [1, 1, 1, 2]


async def test_the_use_of_a_key_reaches_the_database(configured, monkeypatch):
    monkeypatch.setattr(auth, "_usage", KeyUsage())
    assert await status(X_API_Key=KEY) == 200

    await asyncio.get_running_loop().shutdown_default_executor()

    used_at = (await ApiKey.objects.aget()).last_used_at
    assert timezone.now() - used_at < timedelta(seconds=30)


async def test_a_use_that_cannot_be_written_fails_no_request(configured, monkeypatch, caplog):
    def fail(*_, **__):
        raise DatabaseError("gone")

    monkeypatch.setattr(auth, "_usage", KeyUsage())
    monkeypatch.setattr(ApiKey.objects, "filter", fail)

    assert await status(X_API_Key=KEY) == 200
    await asyncio.get_running_loop().shutdown_default_executor()
    assert "not written: gone" in caplog.text


async def test_a_database_that_was_never_there_is_an_error_100(configured, monkeypatch):
    monkeypatch.setattr("realtime.reach._polled.get", lambda: (_ for _ in ()).throw(DatabaseError))

    response = await AsyncClient().post(
        "/api/publish", PUBLISH, content_type="application/json", headers={"X-API-Key": KEY}
    )

    assert response.json() == {"error": {"code": 100, "message": "internal server error"}}
