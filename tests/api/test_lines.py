"""``POST /api``: a command in each line, an answer in each line."""

import json

import pytest
from django.test import AsyncClient

from api.schemas import COMMANDS_MAX
from tests.api.conftest import KEY


def line(method, **params):
    return json.dumps({"method": method, "params": params}).encode()


@pytest.fixture
def post(configured):
    """Return a caller that sends lines and returns the status and the answers."""

    async def post(*lines, key=KEY):
        response = await AsyncClient().post(
            "/api", b"\n".join(lines), content_type="text/plain", headers={"X-API-Key": key}
        )
        is_text = response.headers["Content-Type"] != "application/json"
        answers = [] if is_text else map(json.loads, response.content.splitlines())
        return response.status_code, list(answers)

    return post


BAD = {"error": {"code": 107, "message": "bad request"}}
NOT_FOUND = {"error": {"code": 104, "message": "not found"}}


@pytest.mark.rule("legacy-lines", "legacy-unreadable-107", "legacy-unknown-104")
async def test_each_line_is_answered_in_its_place(post, kept):
    status, answers = await post(
        line("publish", channel=kept, data=1),
        line("publish", channel="nope:x", data=1),
        line("publish", channel=kept, data=2),
        b"{",
        b"null",
        b"[]",
        b'{"method":"publish","params":5}',
        b'{"method":"publish","params":{"channel":5}}',
        b'{"method":"publish","params":{"version":18446744073709551616}}',
        b"{}",
        line("batch", commands=[]),
        line("nothing"),
        b'{"method":"info"}',
        b'{"method":"info","params":null}',
        line("presence", channel="who:x"),
        line("history", channel=kept, limit=-1),
    )

    assert status == 200
    first, unknown, second, *others, history = answers
    assert first["result"]["offset"] == 1
    assert unknown == {"error": {"code": 102, "message": "unknown channel"}}
    assert second == {"result": {**first["result"], "offset": 2}}
    assert others == [
        *[BAD] * 6,
        *[NOT_FOUND] * 3,
        {"result": {"nodes": []}},
        {"result": {"nodes": []}},
        {"result": {"presence": {}}},
    ]
    assert [found["data"] for found in history["result"]["publications"]] == [1, 2]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\n\n"])
async def test_blank_lines_are_no_commands(post, ending):
    status, answers = await post(b"", line("publish", channel="plain:x", data=1) + ending)

    assert (status, answers) == (200, [{"result": {}}])


async def test_a_line_that_is_not_utf_8_is_no_command(post):
    status, answers = await post(
        b'{"method":"publish","params":{"channel":"plain:x","data":"\xff"}}', line("info")
    )

    assert (status, answers) == (200, [BAD, {"result": {"nodes": []}}])


@pytest.mark.rule("legacy-bounded-400")
@pytest.mark.parametrize("body", [b"", b"\n", b" \n \n"])
async def test_no_line_is_a_bad_request(post, body):
    assert await post(body) == (400, [])


@pytest.mark.rule("legacy-bounded-400")
async def test_lines_are_bounded(post):
    broadcast = line("broadcast", channels=["nope:x"] * COMMANDS_MAX, data=1)

    assert await post(*[b"{}"] * (COMMANDS_MAX + 1)) == (400, [])
    assert await post(broadcast, b"{}") == (400, [])
    assert await post(*[b"{}"] * COMMANDS_MAX) == (200, [NOT_FOUND] * COMMANDS_MAX)


async def test_without_a_key_nothing_is_done(post, kept, stored):
    assert await post(line("publish", channel=kept, data=1), key="wrong") == (401, [])

    assert await stored(kept) == []


@pytest.mark.rule("legacy-scopes-103")
async def test_what_is_outside_the_scopes_is_refused_for_itself(post, make_key, kept):
    key = await make_key("publish:kept:*")

    status, (published, refused) = await post(
        line("publish", channel=kept, data=1), line("info"), key=key
    )

    assert status == 200
    assert published["result"]["offset"] == 1
    assert refused == {"error": {"code": 103, "message": "permission denied"}}


@pytest.mark.parametrize("verb", ["get", "put", "delete"])
async def test_nothing_but_a_post_is_allowed(configured, verb):
    response = await getattr(AsyncClient(), verb)("/api", headers={"X-API-Key": KEY})

    assert response.status_code == 405
