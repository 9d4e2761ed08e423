"""Resources at ``/api/v1/``: what they answer, and what they refuse."""

import contextlib
import json
from urllib.parse import quote

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError
from django.test import AsyncClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api import cursors
from api.problems import Refused
from realtime import services
from realtime.models import Namespace
from realtime.protocol.errors import BrokerUnavailable, LimitExceeded
from tests.api.conftest import KEY

PROBLEM = "application/problem+json"
NONE = object()


class Resources:
    """Asks for resources; the paths are below ``/api/v1/``."""

    def __init__(self, key=KEY):
        self.key = key

    async def ask(self, verb, path, *, body=NONE, headers=None, media_type="application/json"):
        sent = b"" if body is NONE else body if isinstance(body, bytes) else json.dumps(body)
        given = {"X-API-Key": self.key} if self.key else {}
        return await AsyncClient().generic(
            verb,
            f"/api/v1/{path}",
            sent,
            content_type=media_type,
            headers={**given, **(headers or {})},
        )

    async def get(self, path, **options):
        return await self.ask("GET", path, **options)

    async def publish(self, channel, body, **options):
        return await self.ask(
            "POST", f"channels/{quote(channel, '')}/publications", body=body, **options
        )

    async def pages(self, channel, query=""):
        """Return the data of every page, following the cursor."""
        found, path = [], f"channels/{channel}/publications?{query}"
        while path:
            answer = await self.get(path)
            assert answer.status_code == 200, answer.content
            found.append([each["data"] for each in answer.json()["publications"]])
            link = answer.headers.get("Link", "")
            assert bool(link) is ("next" in answer.json())
            path = link.removeprefix("</api/v1/").removesuffix('>; rel="next"')
        return found


@pytest.fixture
def resources(configured):
    return Resources()


def problem(answer, status, name, *, field=None, place=None, code=None):
    """Check that an answer is a problem, and return what it says."""
    assert answer.status_code == status, answer.content
    assert answer.headers["Content-Type"] == PROBLEM
    said = answer.json()
    assert said["status"] == status
    assert said["type"] == f"urn:heliograph:problem:{name}"
    assert said["title"]
    assert said.get("code") == code
    if field is not None:
        assert [(each["in"], each["field"]) for each in said["errors"]] == [(place, field)]
        assert all(each["detail"] for each in said["errors"])
    return said


# Publish ----------------------------------------------------------------------------------------


async def test_a_publication_is_created_with_its_position(resources, kept, stored):
    first = await resources.publish(kept, {"data": {"n": 1}})
    second = await resources.publish(kept, {"data": {"n": 2}})

    assert (first.status_code, first.headers["Content-Type"]) == (201, "application/json")
    assert first.json()["offset"] == 1
    assert second.json() == {"offset": 2, "epoch": first.json()["epoch"]}
    assert await stored(kept) == [{"n": 1}, {"n": 2}]


async def test_what_is_not_kept_has_no_position(resources, kept, stored):
    plain = await resources.publish("plain:x", {"data": 1})
    skipped = await resources.publish(kept, {"data": 1, "skip_history": True})

    assert plain.json() == skipped.json() == {"offset": 0, "epoch": ""}
    assert await stored(kept) == []


@pytest.mark.parametrize(
    "data",
    ['{ "b" : 1.50, "a":1.0 }', "18446744073709551615", '"\\u00e9"', "[1e2]", "false", '"é"', '""'],
)
async def test_the_publishers_bytes_are_kept(resources, kept, data):
    await resources.publish(kept, f'{{"data":{data}}}'.encode())

    answer = await resources.get(f"channels/{kept}/publications")

    assert f'"data":{data}}}'.encode() in answer.content


async def test_every_field_of_a_publication_counts(resources, kept, call):
    for version, epoch in ((2, "a"), (1, "a"), (1, "b")):
        await resources.publish(
            kept,
            {"data": epoch, "tags": {"t": "u"}, "version": version, "version_epoch": epoch},
        )

    found = (await call("history", {"channel": kept, "limit": -1})).result["publications"]

    assert [each["data"] for each in found] == ["a", "b"]
    assert found[0]["tags"] == {"t": "u"}


async def test_null_equals_absent(resources, kept, stored):
    names = ["tags", "skip_history", "idempotency_key", "version", "version_epoch"]

    await resources.publish(kept, {"data": 1, **dict.fromkeys(names)})

    assert await stored(kept) == [1]


@pytest.mark.parametrize("quoted", ["k", '"k"'])
async def test_the_header_is_the_key_of_the_body(resources, kept, stored, quoted):
    by_header = await resources.publish(kept, {"data": 1}, headers={"Idempotency-Key": quoted})
    by_body = await resources.publish(kept, {"data": 1, "idempotency_key": "k"})
    by_both = await resources.publish(
        kept, {"data": 1, "idempotency_key": "k"}, headers={"Idempotency-Key": quoted}
    )

    assert by_header.json() == by_body.json() == by_both.json()
    assert await stored(kept) == [1]


async def test_two_keys_for_one_publication_are_refused(resources, kept, stored):
    answer = await resources.publish(
        kept, {"data": 1, "idempotency_key": "a"}, headers={"Idempotency-Key": "b"}
    )

    problem(answer, 422, "invalid-input", place="header", field="Idempotency-Key")
    assert await stored(kept) == []


async def test_a_key_in_the_header_that_is_too_long_is_the_headers_fault(resources, kept, stored):
    answer = await resources.publish(kept, {"data": 1}, headers={"Idempotency-Key": "k" * 257})

    problem(answer, 422, "invalid-input", place="header", field="Idempotency-Key")
    assert await stored(kept) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "data"),
        ({"data": None}, "data"),
        (b'{"data":1e999}', "data"),
        (b'{"data":' + b"1" * 301 + b"}", "data"),
        (b'{"data":' + b"[" * 129 + b"]" * 129 + b"}", "data"),
        ({"data": "x" * 70_000}, "data"),
        ({"data": 1, "tags": {"a": 1}}, "tags"),
        ({"data": 1, "tags": ["a"]}, "tags"),
        ({"data": 1, "tags": {"a": "b" * 5000}}, "tags"),
        ({"data": 1, "skip_history": "yes"}, "skip_history"),
        ({"data": 1, "idempotency_key": 5}, "idempotency_key"),
        ({"data": 1, "idempotency_key": "k" * 257}, "idempotency_key"),
        ({"data": 1, "version": -1}, "version"),
        ({"data": 1, "version": 2**64}, "version"),
        ({"data": 1, "version": 1.5}, "version"),
        ({"data": 1, "version": 1, "version_epoch": "e" * 257}, "version_epoch"),
        ({"data": 1, "skipHistory": True}, "skipHistory"),
        ({"data": 1, "channel": "kept:x"}, "channel"),
        ([], ""),
        (b"null", ""),
        (5, ""),
    ],
)
async def test_a_body_that_is_not_acceptable_names_its_field(resources, kept, stored, body, field):
    answer = await resources.publish(kept, body)

    said = answer.json()
    problem(answer, 422, "invalid-input", place="body", field=field, code=said.get("code"))
    assert await stored(kept) == []


async def test_a_format_is_kept_to(resources, stored):
    answer = await resources.publish("json:x", {"data": 5})

    problem(answer, 422, "invalid-input", place="body", field="data", code=107)
    assert await stored("json:x") == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"data":1}{}',
        b"data=1",
        b'{"data":"\xff"}',
        b'{"data":"\\ud800"}',
        b'\xef\xbb\xbf{"data":1}',
        b"NaN",
    ],
)
async def test_a_body_that_is_no_json_is_malformed(resources, kept, stored, body):
    answer = await resources.publish(kept, body)

    assert problem(answer, 400, "malformed-body")["detail"]
    assert await stored(kept) == []


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"],
)
async def test_another_media_type_is_refused(resources, kept, stored, media_type):
    answer = await resources.publish(kept, {"data": 1}, media_type=media_type)

    problem(answer, 415, "not-json")
    assert await stored(kept) == []


async def test_a_content_encoding_is_refused(resources, kept):
    answer = await resources.publish(kept, {"data": 1}, headers={"Content-Encoding": "gzip"})

    problem(answer, 415, "not-json")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_a_media_type_may_be_written_in_several_ways(resources, kept, media_type):
    answer = await resources.publish(kept, {"data": 1}, media_type=media_type)

    assert answer.status_code == 201


async def test_a_body_beyond_the_limit_is_refused_whole(resources, kept, stored, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000

    answer = await resources.publish(kept, {"data": "x" * 1000})

    problem(answer, 413, "body-too-large")
    assert await stored(kept) == []


# Channels in addresses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a/b", "/", "a//b", "a/publications", "publications/presence", "#1,2", "?x=1", "%2F", "50%",
     "a b", "a\nb", "a\0b", "..", ".", "a:b:c", "$x", "+", "&", ";p=1"],
)  # fmt: skip
async def test_any_name_is_a_name_of_its_own(resources, stored, name):
    channel = f"kept:{name}"

    created = await resources.publish(channel, {"data": name})
    read = await resources.get(f"channels/{quote(channel, '')}/publications?limit=1&order=desc")

    assert created.status_code == 201
    assert [each["data"] for each in read.json()["publications"]] == [name]
    assert (await stored(channel))[-1] == name


async def test_a_name_that_is_too_long_is_refused(resources):
    answer = await resources.publish("kept:" + "x" * 251, {"data": 1})

    problem(answer, 422, "invalid-input", place="path", field="channel", code=107)


@pytest.mark.parametrize("resource", ["publications", "presence", "presence?counts=only"])
async def test_a_channel_of_no_namespace_is_not_found(resources, resource):
    answer = await resources.get(f"channels/nope:x/{resource}")

    problem(answer, 404, "unknown-channel", code=102)


@pytest.mark.parametrize("resource", ["publications", "presence", "presence?counts=only"])
async def test_what_is_switched_off_is_a_conflict(resources, resource):
    answer = await resources.get(f"channels/plain:x/{resource}")

    problem(answer, 409, "not-available", code=108)


# History ----------------------------------------------------------------------------------------


@pytest.fixture
async def filled(resources, kept):
    """Return a channel with the publications 1 to 7."""
    for number in range(1, 8):
        await resources.publish(kept, {"data": number, "tags": {"n": str(number)}})
    return kept


async def test_pages_go_through_all_of_it_in_both_directions(resources, filled):
    assert await resources.pages(filled) == [[1, 2, 3, 4, 5, 6, 7]]
    assert await resources.pages(filled, "limit=3") == [[1, 2, 3], [4, 5, 6], [7]]
    assert await resources.pages(filled, "limit=3&order=desc") == [[7, 6, 5], [4, 3, 2], [1]]
    assert await resources.pages(filled, "limit=7&order=desc") == [[7, 6, 5, 4, 3, 2, 1]]


async def test_a_page_shows_each_publication_and_the_top(resources, filled):
    page = (await resources.get(f"channels/{filled}/publications?limit=1")).json()

    assert page["publications"] == [{"offset": 1, "data": 1, "tags": {"n": "1"}}]
    assert page["offset"] == 7
    assert set(page) == {"publications", "offset", "epoch", "next"}


async def test_an_empty_history_is_a_page(resources, kept):
    for order in ("asc", "desc"):
        page = (await resources.get(f"channels/{kept}/publications?order={order}")).json()
        assert page == {"publications": [], "offset": 0, "epoch": page["epoch"]}


async def test_what_is_published_meanwhile_comes_at_the_end(resources, filled):
    first = (await resources.get(f"channels/{filled}/publications?limit=5")).json()
    await resources.publish(filled, {"data": 8})

    rest = await resources.pages(filled, f"limit=5&cursor={first['next']}")

    assert rest == [[6, 7, 8]]


async def test_a_cursor_behind_which_something_was_dropped_is_gone(resources, call):
    await sync_to_async(Namespace.objects.create)(name="short", history_size=3, history_ttl=60)
    for number in (1, 2, 3):
        await resources.publish("short:x", {"data": number})
    first = (await resources.get("channels/short:x/publications?limit=1")).json()
    path = f"channels/short:x/publications?limit=1&cursor={first['next']}"
    await resources.publish("short:x", {"data": 4})
    assert (await resources.get(path)).json()["publications"][0]["data"] == 2

    await resources.publish("short:x", {"data": 5})

    problem(await resources.get(path), 410, "unrecoverable-position", code=112)


async def test_a_cursor_of_a_removed_history_is_gone(resources, filled, call):
    first = (await resources.get(f"channels/{filled}/publications?limit=1")).json()
    await call("history_remove", {"channel": filled})

    answer = await resources.get(f"channels/{filled}/publications?cursor={first['next']}")

    problem(answer, 410, "unrecoverable-position", code=112)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_cursor_of_another_epoch_is_gone(resources, filled, order):
    cursor = cursors.Cursor(order, 3, "elsewhere").encoded()

    answer = await resources.get(f"channels/{filled}/publications?order={order}&cursor={cursor}")

    problem(answer, 410, "unrecoverable-position", code=112)


async def test_nothing_follows_a_cursor_at_the_top(resources, filled):
    epoch = (await resources.get(f"channels/{filled}/publications")).json()["epoch"]
    cursor = cursors.Cursor("asc", 7, epoch).encoded()

    page = (await resources.get(f"channels/{filled}/publications?cursor={cursor}")).json()

    assert page == {"publications": [], "offset": 7, "epoch": epoch}


async def test_a_cursor_ahead_of_the_stream_is_gone(resources, filled):
    epoch = (await resources.get(f"channels/{filled}/publications")).json()["epoch"]
    cursor = cursors.Cursor("asc", 2**64 - 1, epoch).encoded()

    answer = await resources.get(f"channels/{filled}/publications?cursor={cursor}")

    problem(answer, 410, "unrecoverable-position", code=112)


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "%00",
        "é",
        "W10",
        "bnVsbA",
        cursors.Cursor("desc", 3, "e").encoded(),
        cursors.Cursor("asc", 0, "e").encoded(),
        cursors.Cursor("asc", 2**64, "e").encoded(),
        cursors.Cursor("asc", -1, "e").encoded(),
    ],
)
async def test_a_text_that_is_no_cursor_is_refused(resources, filled, cursor):
    answer = await resources.get(f"channels/{filled}/publications?cursor={cursor}")

    problem(answer, 422, "invalid-input", place="query", field="cursor")


@given(st.text(max_size=40))
def test_any_text_is_a_cursor_or_refused(text):
    for order in ("asc", "desc"):
        with contextlib.suppress(Refused):
            cursors.decode(text, order=order)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=1e3", "limit"),
        ("order=down", "order"),
    ],
)
async def test_a_parameter_that_is_not_acceptable_is_named(resources, kept, query, field):
    answer = await resources.get(f"channels/{kept}/publications?{query}")

    problem(answer, 422, "invalid-input", place="query", field=field)


# ETags ------------------------------------------------------------------------------------------


async def test_who_has_the_page_already_is_told_so(resources, filled):
    path = f"channels/{filled}/publications?limit=3"
    tag = (await resources.get(path)).headers["ETag"]

    for header in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        answer = await resources.get(path, headers={"If-None-Match": header})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == tag
    assert (await resources.get(path, headers={"If-None-Match": '"x"'})).status_code == 200


async def test_a_publication_makes_another_tag(resources, filled):
    path = f"channels/{filled}/publications?limit=3"
    tag = (await resources.get(path)).headers["ETag"]

    await resources.publish(filled, {"data": 8})

    answer = await resources.get(path, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.json()["offset"]) == (200, 8)


async def test_what_was_removed_is_not_said_to_be_still_there(resources, filled, call):
    path = f"channels/{filled}/publications"
    tag = (await resources.get(path)).headers["ETag"]

    await call("history_remove", {"channel": filled})

    answer = await resources.get(path, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.json()["publications"]) == (200, [])


async def test_a_condition_that_does_not_hold_is_a_problem(resources, filled):
    path = f"channels/{filled}/publications"

    answer = await resources.get(path, headers={"If-Match": '"x"'})

    problem(answer, 412, "precondition-failed")


# Presence ---------------------------------------------------------------------------------------


async def test_presence_of_nobody_writes_its_zeros(resources):
    answer = await resources.get("channels/who:x/presence")
    counts = await resources.get("channels/who:x/presence?counts=only")

    assert answer.json() == {"num_clients": 0, "num_users": 0, "clients": []}
    assert counts.json() == {"num_clients": 0, "num_users": 0}


async def test_another_word_for_counts_is_refused(resources):
    answer = await resources.get("channels/who:x/presence?counts=all")

    problem(answer, 422, "invalid-input", place="query", field="counts")


# Connections ------------------------------------------------------------------------------------


async def test_without_instances_there_are_no_connections(resources):
    assert (await resources.get("connections")).json() == {"connections": []}


async def test_connections_are_asked_for_as_the_address_says(resources, monkeypatch):
    asked = []

    async def aconnections(**wanted):
        asked.append(wanted)
        found = [services.ConnectionInfo(f"c{n}", "42", "n", ["kept:a"]) for n in (1, 2)]
        return found, ["uid"]

    monkeypatch.setattr(services, "aconnections", aconnections)

    full = await resources.get("connections?user=42&channel=kept:a&limit=2&cursor=c0")
    last = await resources.get("connections?user=")

    connection = {"client": "c1", "user": "42", "node": "n", "channels": ["kept:a"]}
    assert full.json() == {
        "connections": [connection, {**connection, "client": "c2"}],
        "next": "c2",
        "unanswered": ["uid"],
    }
    assert "next" not in last.json()
    assert asked == [
        {"user": "42", "channel": "kept:a", "limit": 2, "after": "c0"},
        {"user": "", "channel": "", "limit": 100, "after": ""},
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", (3503, "force disconnect")),
        ("?code=4500", (4500, "force disconnect")),
        ("?code=3000&reason=go%20away", (3000, "go away")),
        ("?reason=bye", (3503, "bye")),
    ],
)
async def test_a_connection_is_closed_as_the_address_says(resources, monkeypatch, query, expected):
    said = []

    async def adisconnect_client(client, *, code, reason):
        said.append((client, code, reason))

    monkeypatch.setattr(services, "adisconnect_client", adisconnect_client)

    answer = await resources.ask("DELETE", f"connections/some-client{query}")

    assert (answer.status_code, answer.content) == (202, b"")
    assert said == [("some-client", *expected)]


async def test_closing_is_accepted_when_nobody_is_there(resources):
    assert (await resources.ask("DELETE", "connections/nobody")).status_code == 202


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("code=2999", "code"),
        ("code=5000", "code"),
        ("code=x", "code"),
        ("reason=" + "x" * 124, "reason"),
        ("reason=%7B%7D", "reason"),
    ],
)
async def test_a_close_that_no_frame_could_carry_is_refused(resources, query, field):
    answer = await resources.ask("DELETE", f"connections/some-client?{query}")

    said = answer.json()
    problem(answer, 422, "invalid-input", place="query", field=field, code=said.get("code"))


async def test_a_client_that_is_too_long_to_be_one_is_refused(resources):
    answer = await resources.ask("DELETE", "connections/" + "c" * 256)

    problem(answer, 422, "invalid-input", place="path", field="client", code=107)


# Namespaces -------------------------------------------------------------------------------------


async def test_namespaces_are_listed_with_their_options(resources):
    listed = (await resources.get("namespaces")).json()["namespaces"]

    assert [each["name"] for each in listed] == ["json", "kept", "plain", "who"]
    kept = listed[1]
    assert (kept["options"]["history_size"], kept["options"]["presence"]) == (100, False)
    assert (await resources.get("namespaces/kept")).json() == kept


async def test_the_namespace_without_a_name_is_in_the_list(resources):
    await sync_to_async(Namespace.objects.create)(name="", presence=True)

    listed = (await resources.get("namespaces")).json()["namespaces"]

    assert (listed[0]["name"], listed[0]["options"]["presence"]) == ("", True)


@pytest.mark.parametrize("name", ["nope", "kept:", "KEPT"])
async def test_a_namespace_that_is_none_is_not_found(resources, name):
    problem(await resources.get(f"namespaces/{name}"), 404, "not-found")


@pytest.mark.parametrize("path", ["namespaces", "namespaces/kept"])
async def test_namespaces_are_read_again_only_after_a_change(resources, path):
    tag = (await resources.get(path)).headers["ETag"]
    same = await resources.get(path, headers={"If-None-Match": tag})
    assert (same.status_code, same.content) == (304, b"")

    await sync_to_async(Namespace.objects.filter(name="kept").update)(presence=True)

    changed = await resources.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, b'"presence":true' in changed.content) == (200, True)


# Keys and scopes --------------------------------------------------------------------------------

ASKED = {
    "publish": ("POST", "channels/kept:x/publications"),
    "history": ("GET", "channels/kept:x/publications"),
    "presence": ("GET", "channels/who:x/presence"),
    "presence_stats": ("GET", "channels/who:x/presence?counts=only"),
    "connections": ("GET", "connections"),
    "disconnect": ("DELETE", "connections/some-client"),
    "namespaces": ("GET", "namespaces"),
}


async def ask(key, method):
    verb, path = ASKED[method]
    return await Resources(key).ask(verb, path, body={"data": 1} if verb == "POST" else NONE)


@pytest.mark.parametrize("method", ASKED)
async def test_a_scope_opens_its_resource_and_no_other(make_key, method):
    key = await make_key(method)
    others = await make_key(*(set(ASKED) - {method}))

    assert (await ask(key, method)).status_code in (200, 201, 202)
    problem(await ask(others, method), 403, "permission-denied", code=103)


@pytest.mark.parametrize("method", ["publish", "history", "presence", "presence_stats"])
async def test_a_scope_may_be_for_some_channels(make_key, method):
    inside = await make_key(f"{method}:*:x")
    outside = await make_key(f"{method}:*:y")

    assert (await ask(inside, method)).status_code in (200, 201)
    problem(await ask(outside, method), 403, "permission-denied", code=103)


async def test_one_namespace_needs_the_scope_too(make_key):
    answer = await Resources(await make_key("history")).get("namespaces/kept")

    said = problem(answer, 403, "permission-denied", code=103)
    assert said["detail"].endswith("lacks the scope namespaces")


async def test_scopes_are_looked_at_before_the_body(make_key):
    resources = Resources(await make_key("publish:plain:*"))

    answer = await resources.publish("kept:x", b"{")

    problem(answer, 403, "permission-denied", code=103)


@pytest.mark.parametrize("method", ASKED)
@pytest.mark.parametrize("key", ["", "wrong"])
async def test_without_an_accepted_key_nothing_is_answered(configured, method, key):
    answer = await ask(key, method)

    problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "apikey"


async def test_a_key_comes_in_one_of_two_headers(configured):
    answer = await Resources("").get("namespaces", headers={"Authorization": f"apikey {KEY}"})

    assert answer.status_code == 200


async def test_a_key_in_the_address_does_not_count(configured):
    answer = await Resources("").get(f"namespaces?api_key={KEY}")

    problem(answer, 401, "unauthorized")


async def test_cookies_and_forged_origins_play_no_part(configured, kept):
    client = AsyncClient(enforce_csrf_checks=True)

    answer = await client.post(
        f"/api/v1/channels/{kept}/publications",
        {"data": 1},
        content_type="application/json",
        headers={"X-API-Key": KEY, "Origin": "https://evil.example"},
    )

    assert answer.status_code == 201


# Addresses and methods --------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "path",
    ["", "nothing", "channels", "channels/", "channels/x", "channels//publications",
     "channels/publications", "connections/", "namespaces/a/b", "docs/x"],
)  # fmt: skip
async def test_an_address_that_is_none_is_not_found(configured, verb, path):
    problem(await Resources("").ask(verb, path), 404, "not-found")


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("PUT", "channels/kept:x/publications", "GET, HEAD, POST"),
        ("DELETE", "channels/kept:x/publications", "GET, HEAD, POST"),
        ("POST", "channels/kept:x/presence", "GET, HEAD"),
        ("OPTIONS", "namespaces", "GET, HEAD"),
        ("PATCH", "namespaces/kept", "GET, HEAD"),
        ("GET", "connections/some-client", "DELETE"),
        ("HEAD", "connections/some-client", "DELETE"),
    ],
)
async def test_another_method_is_not_allowed(resources, verb, path, allowed):
    answer = await resources.ask(verb, path)

    problem(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == allowed


async def test_head_is_answered_as_get(resources, filled):
    path = f"channels/{filled}/publications"

    head, get = await resources.ask("HEAD", path), await resources.get(path)

    assert (head.status_code, head.headers["ETag"]) == (200, get.headers["ETag"])


async def test_what_a_key_shows_is_kept_by_nobody_else(resources, kept):
    shown = await resources.get(f"channels/{kept}/publications")
    refused = await resources.get("nothing")

    assert shown.headers["Cache-Control"] == "private, no-cache"
    assert refused.headers["Cache-Control"] == "no-store"


# Failures ---------------------------------------------------------------------------------------


async def test_redis_that_does_not_answer_is_unavailable(resources, monkeypatch, kept):
    async def apublish(*_, **__):
        raise BrokerUnavailable("a secret detail")

    monkeypatch.setattr(services, "apublish", apublish)

    answer = await resources.publish(kept, {"data": 1})

    problem(answer, 503, "unavailable", code=100)
    assert answer.headers["Retry-After"] == "1"
    assert b"secret" not in answer.content


async def test_a_database_that_was_never_there_is_unavailable(resources, monkeypatch):
    monkeypatch.setattr("realtime.reach._polled.get", lambda: (_ for _ in ()).throw(DatabaseError))

    problem(await resources.get("namespaces"), 503, "unavailable", code=100)


@pytest.mark.parametrize("error", [RuntimeError("a secret detail"), LimitExceeded("a secret")])
async def test_an_unexpected_failure_is_logged_and_not_told(
    resources, monkeypatch, caplog, kept, error
):
    async def apublish(*_, **__):
        raise error

    monkeypatch.setattr(services, "apublish", apublish)

    answer = await resources.publish(kept, {"data": 1})

    problem(answer, 500, "failed")
    assert b"secret" not in answer.content
    assert "a secret" in caplog.text


async def test_debug_shows_no_more(resources, monkeypatch, kept, settings):
    async def apublish(*_, **__):
        raise RuntimeError("a secret detail")

    settings.DEBUG = True
    monkeypatch.setattr(services, "apublish", apublish)

    answer = await resources.publish(kept, {"data": 1})

    assert b"secret" not in answer.content
    problem(answer, 500, "failed")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(suppress_health_check=list(HealthCheck), max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(["data", "tags", "version", "more"]), JSON) | JSON)
async def test_any_json_is_published_or_a_problem(resources, content):
    answer = await resources.publish(
        "plain:x", json.dumps(content).encode("utf-8", "surrogatepass")
    )

    assert answer.status_code in (201, 400, 422)
    if answer.status_code != 201:
        assert answer.headers["Content-Type"] == PROBLEM


# Parameters that are none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("POST", "channels/open:a/publications"),
        ("GET", "channels/open:a/publications"),
        ("GET", "channels/open:a/presence"),
        ("GET", "connections"),
        ("DELETE", "connections/x"),
        ("GET", "namespaces"),
        ("GET", "namespaces/open"),
    ],
)
async def test_a_parameter_that_is_none_is_refused(resources, verb, path):
    body = {"data": 1} if verb == "POST" else NONE

    answer = await resources.ask(verb, f"{path}?users=99", body=body)

    problem(answer, 422, "invalid-input", place="query", field="users")
