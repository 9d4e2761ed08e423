"""Calls that are carried out before Django: answered as Django answers, whatever is asked."""

import asyncio
import json
import logging

import pytest
from asgiref.sync import sync_to_async

from api.asgi import NAMES, ServerApi
from api.methods import METHODS
from project.asgi import http as django
from realtime import instance, services
from realtime.models import ApiKey
from tests.api.conftest import KEY

NARROW = "a-key-that-may-do-little"
HOST = (b"host", b"localhost")
WITH_KEY = [HOST, (b"x-api-key", KEY.encode())]
PUBLISH = b'{"channel":"plain:x","data":1}'
UNKNOWN = b'{"channel":"nope:x","data":1}'
TRANSPORT = (b"x-centrifugo-error-mode", b"Transport")


@pytest.fixture
async def engine(configured, settings):
    """Run an instance on this loop."""
    settings.REALTIME = {**settings.REALTIME, "SNAPSHOT_POLL_SECONDS": 0.05}
    await sync_to_async(ApiKey.create)("narrow", key=NARROW, scopes=["publish:kept:*"])
    running = await instance.ensure_started()
    assert await running.until_prepared(seconds=10)
    yield running
    await instance.stop_current()


def request(path="/api/publish", *, method="POST", headers=WITH_KEY, query=b"", root_path=""):
    """Return a request's scope, as Daphne makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": root_path,
        "headers": list(headers),
        "client": ["127.0.0.1", 50000],
        "server": ["127.0.0.1", 8000],
    }


async def ask(application, scope, *chunks):
    """Return the status, headers and body that a request is answered with; None for no answer."""
    parts = chunks or (b"",)
    coming = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]
    sent = []

    async def receive():
        if coming:
            return coming.pop(0)
        return await asyncio.Future()  # the client waits

    async def send(message):
        sent.append(message)

    async with asyncio.timeout(10):
        await application(scope, receive, send)
    if not sent:
        return None
    start, *bodies = sent
    headers = sorted((name.lower(), value) for name, value in start["headers"])
    return start["status"], headers, b"".join(part["body"] for part in bodies)


async def nobody(scope, receive, send):
    raise AssertionError(f"Django was asked for {scope['path']}")


def long_body(size_bytes):
    return b'{"channel":"plain:x","data":1,"x":"' + b"x" * (size_bytes - 37) + b'"}'


ROUTED = {
    "publish": (request(), PUBLISH),
    "a body in pieces": (request(), PUBLISH[:10], b"", PUBLISH[10:]),
    "an unknown channel": (request(), UNKNOWN),
    "no data": (request(), b"{}"),
    "error as a status": (request(headers=[*WITH_KEY, TRANSPORT]), UNKNOWN),
    "error as a status, of no method": (request("/api/rpc", headers=[*WITH_KEY, TRANSPORT]), b"{}"),
    "authorization": (
        request(headers=[HOST, (b"authorization", b"ApiKey " + KEY.encode())]),
        PUBLISH,
    ),
    "a key in the address": (request(headers=[HOST], query=b"api_key=" + KEY.encode()), PUBLISH),
    "the second key in the address": (
        request(
            headers=[HOST, (b"x-api-key", b"wrong")],
            query=b"api_key=%61&api_key=" + KEY.encode(),
        ),
        PUBLISH,
    ),
    "a port": (request(headers=[(b"host", b"localhost:8000"), *WITH_KEY[1:]]), PUBLISH),
    "a form": (
        request(headers=[*WITH_KEY, (b"content-type", b"multipart/form-data; boundary=x")]),
        PUBLISH,
    ),
    "broadcast": (request("/api/broadcast"), b'{"channels":["plain:x","nope:x"],"data":1}'),
    "batch": (request("/api/batch"), b'{"commands":[{"publish":' + PUBLISH + b"},null,{}]}"),
    "an empty batch": (request("/api/batch"), b"{}"),
    "lines": (request("/api"), b'{"method":"publish","params":' + PUBLISH + b"}\n{}\n["),
    "history": (request("/api/history"), b'{"channel":"plain:x"}'),
    "presence": (request("/api/presence"), b'{"channel":"who:x"}'),
    "at the limit": (request(), long_body(2_621_440)),
}
HANDED_ON = {
    "no key": (request(headers=[HOST]), PUBLISH),
    "a wrong key": (request(headers=[HOST, (b"x-api-key", b"wrong")]), PUBLISH),
    "two keys": (request(headers=[*WITH_KEY, (b"x-api-key", b"b")]), PUBLISH),
    "a header with an underscore": (request(headers=[HOST, (b"x_api_key", KEY.encode())]), PUBLISH),
    "outside the scopes": (request(headers=[HOST, (b"x-api-key", NARROW.encode())]), PUBLISH),
    "no JSON": (request(), b"["),
    "no JSON, in pieces": (request(), b"[", b"]"),
    "not UTF-8": (request(), b'{"channel":"plain:x","data":"\xff"}'),
    "no lines": (request("/api"), b"\n"),
    "no body": (request(),),
    "too large": (
        request(headers=[*WITH_KEY, (b"content-length", b"2621441")]),
        long_body(2_621_441),
    ),
    "too large, without a length": (request(), *[b" " * 65536] * 50),
    "too large, without a key": (request(headers=[HOST]), *[b" " * 65536] * 50),
    "a length that is none": (request(headers=[*WITH_KEY, (b"content-length", b"x")]), b"["),
    "a cookie": (request(headers=[*WITH_KEY, (b"cookie", b"sessionid=x; theme=y")]), PUBLISH),
    "no such method": (request("/api/nothing"), b"{}"),
    "a slash behind": (request("/api/publish/"), PUBLISH),
    "a slash alone": (request("/api/"), PUBLISH),
    "a name in capitals": (request("/api/Publish"), PUBLISH),
    "a host that is not ours": (
        request(headers=[(b"host", b"evil.example"), *WITH_KEY[1:]]),
        PUBLISH,
    ),
    "no host": (request(headers=WITH_KEY[1:]), PUBLISH),
    "two hosts": (request(headers=[HOST, *WITH_KEY]), PUBLISH),
    "a query that is not ASCII": (request(query=b"api_key=\xff"), PUBLISH),
    "many fields in the address": (request(headers=[HOST], query=b"a=1&" * 1001), PUBLISH),
    "mounted elsewhere": (request("/here/api/publish", root_path="/here"), PUBLISH),
    "a root path": (request(root_path="/here"), PUBLISH),
    **{
        f"{method} {path}": (request(path, method=method), b"")
        for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "post")
        for path in ("/api", "/api/publish", "/api/batch")
    },
    "a resource": (request("/api/v1/namespaces", method="GET"), b""),
}


@pytest.mark.parametrize("name", [*ROUTED, *HANDED_ON])
async def test_an_answer_is_djangos_to_the_byte(engine, caplog, name):
    scope, *chunks = {**ROUTED, **HANDED_ON}[name]
    caplog.set_level(logging.INFO, "django.request")

    def said():
        told = [(each.levelname, each.getMessage()) for each in caplog.records]
        caplog.clear()
        return told

    expected, told = await ask(django, {**scope}, *chunks), said()

    assert await ask(ServerApi(django), {**scope}, *chunks) == expected
    assert said() == told


@pytest.mark.parametrize("name", ROUTED)
async def test_what_can_be_carried_out_does_not_reach_django(engine, name):
    scope, *chunks = ROUTED[name]

    status, headers, body = await ask(ServerApi(nobody), scope, *chunks)

    assert (b"content-length", str(len(body)).encode()) in headers
    assert status < 400 or "status" in name


@pytest.mark.parametrize("name", HANDED_ON)
async def test_what_is_refused_reaches_django_as_it_came(engine, name):
    scope, *chunks = HANDED_ON[name]
    reached = []

    async def record(scope, receive, send):
        body, has_more = b"", True
        while has_more:
            message = await receive()
            body += message["body"]
            has_more = message["more_body"]
        reached.append((scope, body))

    assert await ask(ServerApi(record), scope, *chunks) is None

    assert reached == [(scope, b"".join(chunks))]


async def test_every_method_has_its_route(engine):
    assert set(NAMES.values()) == {*METHODS, "batch", ""}


async def test_a_publication_is_stored_once(engine, kept):
    body = json.dumps({"channel": kept, "data": {"n": 1}}).encode()

    status, _, answer = await ask(ServerApi(nobody), request(), body)

    assert (status, json.loads(answer)["result"]["offset"]) == (200, 1)
    assert (await services.ahistory(kept)).offset == 1


async def test_a_refused_batch_does_nothing(engine, kept):
    line = json.dumps({"publish": {"channel": kept, "data": 1}})
    body = f'{{"commands":[{",".join([line] * 10_001)}]}}'.encode()

    assert (await ask(ServerApi(django), request("/api/batch"), body))[0] == 400

    assert (await services.ahistory(kept)).offset == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("SECURE_SSL_REDIRECT", True),
        ("SECURE_HSTS_SECONDS", 60),
        ("USE_X_FORWARDED_HOST", True),
        ("FORCE_SCRIPT_NAME", "/here"),
        ("ALLOWED_HOSTS", ["other.example"]),
        ("DATA_UPLOAD_MAX_MEMORY_SIZE", len(PUBLISH) - 1),
    ],
)
async def test_a_rule_of_the_site_is_djangos_to_apply(engine, settings, setting, value):
    setattr(settings, setting, value)
    reached = []

    async def record(scope, receive, send):
        reached.append(scope)

    await ask(ServerApi(record), request(), PUBLISH)

    assert len(reached) == 1


async def test_without_an_instance_django_looks_after_the_database(configured):
    with pytest.raises(AssertionError, match="Django was asked"):
        await ask(ServerApi(nobody), request(), PUBLISH)

    assert (await ask(ServerApi(django), request(), PUBLISH))[0] == 200


async def test_an_error_of_ours_is_logged_and_answered_as_djangos(engine, monkeypatch, caplog):
    async def fail(_):
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(services, "apublish_item", fail)

    answers = [await ask(each, request(), PUBLISH) for each in (django, ServerApi(nobody))]

    assert answers[0] == answers[1]
    assert answers[0][2] == b'{"error":{"code":100,"message":"internal server error"}}'
    assert caplog.text.count("server API: publish failed") == 2


# Clients that leave ---------------------------------------------------------------------------


async def test_who_leaves_before_the_body_is_there_asked_for_nothing(engine):
    coming = [
        {"type": "http.request", "body": PUBLISH, "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive():
        return coming.pop(0)

    async with asyncio.timeout(5):
        await ServerApi(django)(request(), receive, nobody)

    assert not coming


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/batch", b'{"commands":[{"info":{}},{"info":{}}]}'),
        ("/api", b'{"method":"info"}\n{"method":"info"}'),
    ],
)
async def test_nothing_more_is_done_for_who_has_left(engine, monkeypatch, path, body):
    begun, has_left, ended = asyncio.Event(), asyncio.Event(), []
    coming = [{"type": "http.request", "body": body, "more_body": False}]

    async def ainfo():
        begun.set()
        try:
            await asyncio.Future()
        finally:
            ended.append("info")

    async def receive():
        if coming:
            return coming.pop(0)
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        raise AssertionError("there is nobody to answer")

    monkeypatch.setattr(services, "ainfo", ainfo)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(ServerApi(nobody)(request(path), receive, send))
        await begun.wait()
        has_left.set()

    await asyncio.sleep(0)
    assert ended == ["info"]
