"""What is wrong is answered with the documented error, and nothing of it is stored."""

import base64
import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.schemas import COMMANDS_MAX, BatchRequest, MalformedBody, PublishRequest, decode

BAD_BODIES = {
    "empty": b"",
    "blank": b" \n",
    "not JSON": b"channel=x&data=1",
    "cut": b'{"channel":"kept:x","data":{"a":1}',
    "more than one": b"{}{}",
    "an array": b"[]",
    "a text": b'"publish"',
    "a number": b"5",
    "null": b"null",
    "BOM": b'\xef\xbb\xbf{"channel":"kept:x","data":1}',
    "UTF-16": '{"channel":"kept:x","data":1}'.encode("utf-16"),
    "invalid UTF-8 in data": b'{"channel":"kept:x","data":"\xff"}',
    "invalid UTF-8 in a name": b'{"\xff":1,"channel":"kept:x","data":1}',
    "invalid UTF-8 in the channel": b'{"channel":"kept:\xed\xa0\x80","data":1}',
    "lone surrogate in the channel": b'{"channel":"kept:\\ud800","data":1}',
    "lone surrogate in a tag": b'{"channel":"kept:x","data":1,"tags":{"a":"\\ud800"}}',
    "lone surrogate in data": b'{"channel":"kept:x","data":"\\ud800"}',
    "lone surrogate in a key": b'{"channel":"kept:x","data":{"\\udfff":1}}',
    "NaN": b'{"channel":"kept:x","data":NaN}',
    "Infinity": b'{"channel":"kept:x","data":-Infinity}',
    "single quotes": b"{'channel':'kept:x','data':1}",
    "a comment": b'{"channel":"kept:x","data":1} // x',
    "a trailing comma": b'{"channel":"kept:x","data":1,}',
    "a NUL byte": b'{"channel":"kept:x\x00","data":1}',
    "deep data": b'{"channel":"kept:x","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep and unknown": b'{"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "a channel of the wrong type": b'{"channel":5,"data":1}',
    "channels as a channel": b'{"channel":["kept:x"],"data":1}',
    "tags of numbers": b'{"channel":"kept:x","data":1,"tags":{"a":1}}',
    "tags as a list": b'{"channel":"kept:x","data":1,"tags":["a"]}',
    "a flag as a text": b'{"channel":"kept:x","data":1,"skip_history":"yes"}',
    "a negative version": b'{"channel":"kept:x","data":1,"version":-1}',
    "version 2^64": b'{"channel":"kept:x","data":1,"version":18446744073709551616}',
    "version 2^70": b'{"channel":"kept:x","data":1,"version":1180591620717411303424}',
    "a version of 5,000 digits": b'{"channel":"kept:x","data":1,"version":' + b"9" * 5000 + b"}",
    "a fractional version": b'{"channel":"kept:x","data":1,"version":1.5}',
    "base64 as a number": b'{"channel":"kept:x","b64data":5}',
}


@pytest.mark.rule("input-strict-utf8", "api-body-unreadable-400")
@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_body_that_cannot_be_read_is_a_bad_request(call, stored, name):
    answer = await call("publish", BAD_BODIES[name])

    assert (answer.status, answer.body) == (400, b"Bad Request")
    assert answer.content_type == "text/plain"
    assert await stored("kept:x") == []


def with_data(data):
    return b'{"channel":"kept:x","data":' + data + b"}"


def in_base64(data):
    return {"channel": "kept:x", "b64data": base64.b64encode(data).decode()}


BAD_PUBLICATIONS = {
    "no data": {"channel": "kept:x"},
    "null": {"channel": "kept:x", "data": None},
    "out of range": with_data(b"1e999"),
    "301 digits": with_data(b"1" * 301),
    "129 levels": with_data(b"[" * 129 + b"]" * 129),
    "oversize": with_data(b'"' + b"x" * 65535 + b'"'),
    "not base64": {"channel": "kept:x", "b64data": "?"},
    "base64 with a line break": {"channel": "kept:x", "b64data": "MQ==\n"},
    "base64 beyond ASCII": {"channel": "kept:x", "b64data": "é"},
    "base64 of nothing to read": in_base64(b"not json"),
    "base64 of invalid UTF-8": in_base64(b'"\xff"'),
    "base64 of a lone surrogate": in_base64(b'"\\ud800"'),
    "base64 of NaN": in_base64(b"NaN"),
    "base64 of null": in_base64(b"null"),
    "base64 of two": in_base64(b"1\n2"),
    "base64 of depth": in_base64(b"[" * 5000),
    "a long idempotency key": {"channel": "kept:x", "data": 1, "idempotency_key": "k" * 257},
    "a long channel": {"channel": "kept:" + "x" * 251, "data": 1},
    "many tags": {"channel": "kept:x", "data": 1, "tags": {"a": "b" * 5000}},
}


@pytest.mark.rule(
    "payload-not-json-refused",
    "payload-depth-128",
    "payload-digits-300",
    "publish-options-bounded",
    "api-publish-no-data-107",
)
@pytest.mark.parametrize("name", BAD_PUBLICATIONS)
async def test_a_publication_that_others_could_not_take_is_error_107(call, stored, name):
    content = BAD_PUBLICATIONS[name]
    if isinstance(content, bytes):
        body = content
    else:
        body = json.dumps(content, separators=(",", ":")).encode()

    single = await call("publish", body)
    batch = await call("batch", b'{"commands":[{"publish":' + body + b"}]}")
    broadcast = await call(
        "broadcast", body.replace(b'"channel":"kept:x"', b'"channels":["kept:x"]')
    )

    error = {"error": {"code": 107, "message": "bad request"}}
    assert single.json == error
    assert batch.json == {"replies": [error]}
    assert broadcast.status == 200
    assert error in (broadcast.json, *broadcast.json.get("result", {}).get("responses", ()))
    assert await stored("kept:x") == []


@pytest.mark.rule("option-format-json-object")
async def test_a_format_is_kept_to(call, stored):
    for data in (5, [1], "text"):
        answer = await call("publish", {"channel": "json:x", "data": data})
        assert answer.error["code"] == 107
    await call("publish", {"channel": "json:x", "data": {}})

    assert await stored("json:x") == [{}]


@pytest.mark.rule("name-nothing-else-reserved")
@pytest.mark.parametrize("channel", ["kept:a\0b", "kept:a\nb", "kept:*?[{}", "kept:é", "kept:😀"])
async def test_a_strange_name_is_a_name_of_its_own(call, stored, channel):
    assert (await call("publish", {"channel": channel, "data": channel})).result["offset"] >= 1

    assert (await stored(channel))[-1] == channel
    assert await stored("kept:a") == []


@pytest.mark.parametrize(
    "content",
    [
        {"limit": 2**31},
        {"limit": 2**70},
        {"limit": "1"},
        {"limit": 1.5},
        {"since": {"offset": 2**64}},
        {"since": {"offset": 2**70}},
        {"since": {"offset": -1}},
        {"since": {"offset": "1"}},
        {"since": []},
        {"since": {"epoch": 5}},
        {"reverse": 1},
    ],
)
async def test_a_history_request_of_the_wrong_form_is_a_bad_request(call, content):
    answer = await call("history", {"channel": "kept:x", **content})

    assert (answer.status, answer.body) == (400, b"Bad Request")


@pytest.mark.parametrize("offset", [2**53, 2**63, 2**64 - 1])
async def test_a_position_far_ahead_has_nothing_after_it(call, kept, offset):
    await call("publish", {"channel": kept, "data": 1})

    answer = await call("history", {"channel": kept, "limit": -1, "since": {"offset": offset}})

    assert answer.result["publications"] == []


async def test_an_epoch_of_any_text_is_another_epoch(call, kept):
    for epoch in ("x" * 100_000, "\0", "é"):
        answer = await call("history", {"channel": kept, "since": {"offset": 1, "epoch": epoch}})
        assert answer.error["code"] == 112


async def test_reverse_from_nowhere_is_error_107(call):
    answer = await call("history", {"channel": "kept:x", "since": {"offset": 0}, "reverse": True})

    assert answer.error["code"] == 107


@pytest.mark.parametrize(
    "content",
    [
        {"user": 42},
        {"user": "42", "whitelist": "a"},
        {"user": "42", "whitelist": [1]},
        {"user": "42", "disconnect": 3500},
        {"user": "42", "disconnect": {"code": -1}},
        {"user": "42", "disconnect": {"code": 2**32}},
        {"user": "42", "disconnect": {"code": "3500"}},
        {"user": "42", "disconnect": {"code": 3500, "reason": 5}},
    ],
)
async def test_a_disconnect_of_the_wrong_form_is_a_bad_request(call, content):
    assert (await call("disconnect", content)).status == 400


async def test_users_of_any_text_can_be_addressed(call):
    for user in ("a\0b", "é", "x" * 10_000):
        assert (await call("disconnect", {"user": user})).result == {}
        assert (await call("unsubscribe", {"user": user, "channel": "plain:x"})).result == {}


@pytest.mark.parametrize("pattern", ["[", "*" * 200, "\0", "[!", "a" * 255, "{a,b}"])
async def test_any_pattern_is_a_pattern(call, pattern):
    assert (await call("channels", {"pattern": pattern})).result["channels"] == {}


@pytest.mark.rule("api-channels-pattern-107")
async def test_a_pattern_is_no_longer_than_a_name(call):
    answer = await call("channels", {"pattern": "é" * 128})

    assert answer.error == {"code": 107, "message": "bad request"}


@pytest.mark.rule("api-broadcast-bounded-107")
async def test_a_broadcast_is_bounded(call):
    def content(count):
        return {"channels": ["nope:x"] * count, "data": 1}

    assert (await call("broadcast", content(COMMANDS_MAX + 1))).error["code"] == 107
    found = (await call("broadcast", content(COMMANDS_MAX))).result["responses"]

    assert [each["error"]["code"] for each in found] == [102] * COMMANDS_MAX


@pytest.mark.rule("api-body-too-large-413")
async def test_a_body_beyond_the_limit_is_refused_whole(call, settings, stored):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000

    answer = await call("publish", {"channel": "kept:x", "data": "x" * 1000})

    assert answer.status == 413
    assert await stored("kept:x") == []


async def test_one_malformed_command_makes_a_batch_unreadable(call, stored):
    good = b'{"publish":{"channel":"kept:x","data":1}}'

    for bad in (b'{"publish":{"channel":5}}', b"5", b"[]", b'{"history":{"since":5}}', b"NaN"):
        answer = await call("batch", b'{"commands":[' + good + b"," + bad + b"]}")
        assert (answer.status, answer.body) == (400, b"Bad Request")
    assert await stored("kept:x") == []


async def test_wide_numbers_inside_a_batch_are_refused_too(call):
    for bad in (
        b'{"publish":{"channel":"kept:x","data":1,"version":18446744073709551616}}',
        b'{"history":{"channel":"kept:x","since":{"offset":18446744073709551616}}}',
    ):
        assert (await call("batch", b'{"commands":[null,' + bad + b"]}")).status == 400


async def test_of_repeated_fields_one_counts(call, stored):
    await call("publish", b'{"channel":"nope:x","channel":"kept:x","data":1,"data":2}')

    assert await stored("kept:x") == [2]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["channel", "data", "tags", "version", "b64data"]), JSON))
def test_any_json_is_read_or_malformed(content):
    for body in (content, {"commands": [{"publish": content}]}):
        for expected in (PublishRequest, BatchRequest):
            with contextlib.suppress(MalformedBody):
                decode(json.dumps(body).encode("utf-8", "surrogatepass"), expected)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_malformed(body):
    with contextlib.suppress(MalformedBody):
        decode(body, PublishRequest)
