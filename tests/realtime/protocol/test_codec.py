import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from realtime.protocol import codec, websocket
from realtime.protocol.disconnects import (
    BAD_REQUEST,
    INVALID_TOKEN,
    UNSUBSCRIBED_INSUFFICIENT_STATE,
    Disconnected,
)
from realtime.protocol.errors import BadRequest, InternalError, PermissionDenied
from realtime.protocol.messages import ABSENT, ClientInfo, Publication
from tests.realtime.frames import message_of


def refused(frame):
    with pytest.raises(Disconnected) as outcome:
        list(codec.decode_commands(frame))
    return outcome.value.disconnect is BAD_REQUEST


# Commands in -----------------------------------------------------------------------------------


@pytest.mark.rule("frame-several-commands")
def test_commands_of_one_frame_keep_their_order():
    frame = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"c"}}'

    commands = list(codec.decode_commands(frame))

    assert [command.id for command in commands] == [1, 2]
    assert commands[1].subscribe.channel == "c"


@pytest.mark.rule("ws-any-opcode-in", "frame-last-newline")
@pytest.mark.parametrize("frame", ['{"id":1}\n', b'{"id":1}\n', b'{"id":1}', ' {"id":1} '])
def test_a_last_newline_and_either_kind_of_frame_are_fine(frame):
    assert [command.id for command in codec.decode_commands(frame)] == [1]


@pytest.mark.rule("pong-is-what-has-no-id")
def test_an_empty_object_is_a_pong():
    (pong,) = codec.decode_commands("{}")

    assert not pong.id


@pytest.mark.rule(
    "frame-empty-3501",
    "frame-blank-line-3501",
    "frame-malformed-3501",
    "input-strict-utf8",
    "frame-deep-3501",
)
@pytest.mark.parametrize(
    "frame",
    [
        "",
        "\n",
        "\n\n",
        '{"id":1}\n\n',
        '\n{"id":1}',
        '{"id":1}\n\n{"id":2}',
        "[]",
        "1",
        "null",
        '"x"',
        "{",
        '{"id":1}{"id":2}',
        '{"id":1} {"id":2}',
        "{'id':1}",
        '{"id":NaN}',
        "\ufeff{}",
        b"\xff",
        b'{"id":1,"publish":{"channel":"\xff"}}',
        b'{"id":1,"publish":{"data":"\xed\xa0\x80"}}',
        '{"id":1,"publish":{"channel":"\\ud800"}}',
        '{"id":1,"publish":{"data":' + "[" * 100_000 + "]" * 100_000 + "}}",
        '{"id":1,"subscribe":{"channel":"c","offset":18446744073709551616}}',
        '{"id":1,"history":{"channel":"c","since":{"offset":18446744073709551616}}}',
    ],
)
def test_a_malformed_frame_closes_with_bad_request(frame):
    assert refused(frame)


def test_nothing_of_a_frame_with_a_malformed_line_is_carried_out():
    assert refused('{"id":1,"connect":{}}\n{')


@given(st.text(max_size=30) | st.binary(max_size=30))
@example("\ud800")
def test_any_frame_is_understood_or_refused(frame):
    with contextlib.suppress(Disconnected):
        list(codec.decode_commands(frame))


@pytest.mark.rule("payload-bytes-kept")
def test_the_payload_of_a_command_keeps_its_bytes():
    data = '{"b": 1.0,"a":98765432109876543210}'

    (command,) = codec.decode_commands('{"id":1,"publish":{"channel":"c","data":' + data + "}}")

    assert bytes(command.publish.data) == data.encode()


# Payloads --------------------------------------------------------------------------------------


@pytest.mark.rule("payload-bytes-kept")
@pytest.mark.parametrize(
    "text",
    [
        "0",
        "1.0",
        "-0",
        "1e2",
        '"\\u00e9"',
        '"é"',
        '{"b":1,"a":2}',
        " [ 1 , 2 ] ",
        "9" * 300,
        "true",
    ],
)
def test_a_payload_keeps_its_bytes(text):
    assert codec.payload(text.encode()) == text.encode()


@pytest.mark.rule("payload-not-json-refused", "payload-depth-128", "payload-digits-300")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"{",
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"\xff",
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\n"',
        b'"\x00"',
        b"01",
        b"1.",
        b"[1,]",
        b"1 2",
        b"\xef\xbb\xbf1",
        b"9" * 301,
        b"[" + b"1," * 500 + b"9" * 301 + b"]",
        b"0." + b"1" * 300,
        b"[" * 129 + b"]" * 129,
        b'{"a":' * 129 + b"1" + b"}" * 129,
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_what_some_receiver_cannot_read_is_refused(content):
    with pytest.raises(BadRequest):
        codec.payload(content)


@pytest.mark.rule("payload-depth-128", "payload-digits-300")
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 128 + b"]" * 128,
        b'{"a":' * 128 + b"1" + b"}" * 128,
        b"[" + b"[]," * 200 + b"[]]",
        b'"' + b"[" * 500 + b'"',
        b'["' + b'\\"[' * 300 + b'"]',
        b'"' + b"9" * 1000 + b'"',
        b'{"' + b"9" * 1000 + b'":1}',
        b"[" + b"1234567890," * 100 + b"1]",
    ],
)
def test_depth_and_digits_are_counted_where_they_count(content):
    assert codec.payload(content) == content


@pytest.mark.rule("payload-newlines-removed")
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_no_newline_separates_the_tokens_of_a_payload(newline):
    content = newline.join([b"{", b'"a":', b'"\\n\\r",', b'"b":[', b"1,2]", b"}"])

    payload = codec.payload(content)

    assert payload == b'{"a":"\\n\\r","b":[1,2]}'


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
json_like = st.text(
    st.sampled_from('{}[]",:0123456789.-+eEtrufalsn\\/ \n\r\t\x0b\x7f\u2028é😀\ud83d'), max_size=20
)


def strict(text):
    """Decode as a browser does: no NaN, no numbers out of range."""

    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


@given(json_like)
def test_what_is_accepted_is_read_the_same_by_another_decoder(text):
    try:
        payload = codec.payload(text.encode("utf-8", "surrogatepass"))
    except BadRequest:
        return

    value = strict(payload)
    assert value == strict(text)
    assert b"\n" not in payload


@given(json_values, st.sampled_from([None, 0, 2]))
def test_json_is_accepted(value, indent):
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return

    payload = codec.payload(text.encode())

    assert strict(payload) == value


def test_a_payload_that_was_left_out_is_none():
    assert codec.optional_payload(ABSENT) is None
    assert codec.optional_payload(Raw(b"null")) is None
    assert bytes(codec.optional_payload(Raw(b"[ 1 ]"))) == b"[ 1 ]"


# Frames out ------------------------------------------------------------------------------------


@pytest.mark.rule("ping-empty-object")
def test_a_ping_is_an_empty_object():
    assert websocket.frame(b"{}") == codec.PING_FRAME


@pytest.mark.rule("payload-raw-json", "push-pub")
def test_a_publication_travels_with_the_publishers_bytes():
    data = b'{"b":1.0, "a":[ ]}'

    frame = codec.publication_frame("news", Publication(Raw(data), offset=3))

    assert data in frame
    assert message_of(frame) == {
        "push": {"channel": "news", "pub": {"data": {"b": 1.0, "a": []}, "offset": 3}}
    }


@pytest.mark.rule("out-no-empty-line")
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), json_values)
def test_no_frame_holds_a_newline(channel, value):
    data = Raw(codec.payload(json.dumps(value, indent=1).encode("utf-8", "replace")))
    info = ClientInfo(channel, "c\n", conn_info=data)

    for frame in (
        codec.publication_frame(channel, Publication(data, info=info, tags={channel: channel})),
        codec.join_frame(channel, info),
        codec.leave_frame(channel, info),
    ):
        assert all(b"\n" not in payload for _, payload in websocket.split(frame))


def test_what_is_stored_comes_back():
    info = ClientInfo("42", "c", conn_info=Raw(b'{"a": 1}'))
    publication = Publication(Raw(b"[ 1 ]"), info=info, tags={"a": "b"})

    stored = codec.encode_publication(publication)

    assert codec.encode_publication(codec.decode_publication(stored)) == stored
    assert codec.encode_info(codec.decode_info(codec.encode_info(info))) == codec.encode_info(info)
    assert len(stored) == codec.encoded_size(publication)


@pytest.mark.rule("push-unsubscribe")
def test_the_pushes_that_end_something():
    assert message_of(codec.unsubscribe_frame("news", UNSUBSCRIBED_INSUFFICIENT_STATE)) == {
        "push": {"channel": "news", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
    }
    assert message_of(codec.disconnect_frame(INVALID_TOKEN)) == {
        "push": {"disconnect": {"code": 3500, "reason": "invalid token"}}
    }


@pytest.mark.rule("error-103")
def test_an_error_reply_never_gives_away_its_detail():
    frame = codec.error_frame(7, PermissionDenied("the token of mallory"))

    assert message_of(frame) == {"id": 7, "error": {"code": 103, "message": "permission denied"}}


@pytest.mark.rule("envelope-error-fields", "exception-100-temporary")
def test_an_internal_error_is_temporary():
    error = message_of(codec.error_frame(7, InternalError()))["error"]

    assert error == {"code": 100, "message": "internal server error", "temporary": True}
