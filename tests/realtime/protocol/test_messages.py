"""Which zero values are written. Source: Centrifugo client protocol, zero values."""

import json

import msgspec
import pytest
from msgspec import Raw

from realtime.protocol.messages import (
    ABSENT,
    ChannelRequest,
    ClientInfo,
    CodePush,
    Command,
    ConnectResult,
    Empty,
    ErrorBody,
    HistoryResult,
    InfoPush,
    PresenceResult,
    PresenceStatsResult,
    Publication,
    Push,
    PushEnvelope,
    RefreshResult,
    Reply,
    SubscribeResult,
    is_absent,
)


def written(message):
    return json.loads(msgspec.json.encode(message))


def command(**fields):
    return msgspec.json.decode(json.dumps(fields).encode(), type=Command)


@pytest.mark.rule("zero-client-info")
def test_user_and_client_are_always_written():
    assert written(ClientInfo("", "")) == {"user": "", "client": ""}


def test_infos_are_written_when_they_are_there():
    info = ClientInfo("42", "c", conn_info=Raw(b"{}"), chan_info=Raw(b"[ 1 ]"))

    assert written(info) == {"user": "42", "client": "c", "conn_info": {}, "chan_info": [1]}


def test_an_info_that_was_stored_without_parts_is_written_without_them():
    info = msgspec.json.decode(b'{"user":"","client":"c"}', type=ClientInfo)

    assert written(info) == {"user": "", "client": "c"}


@pytest.mark.rule("zero-presence", "zero-presence-stats")
def test_the_presence_of_nobody_is_written():
    assert written(PresenceResult({})) == {"presence": {}}
    assert written(PresenceStatsResult(0, 0)) == {"num_clients": 0, "num_users": 0}


@pytest.mark.rule("zero-history")
def test_the_history_of_an_empty_channel_is_written():
    assert written(HistoryResult([], 0, "")) == {"publications": [], "offset": 0, "epoch": ""}


@pytest.mark.rule("zero-omitted")
@pytest.mark.parametrize("result", [SubscribeResult(), RefreshResult(), Empty()])
def test_a_result_that_says_nothing_is_an_empty_object(result):
    assert written(result) == {}


@pytest.mark.rule("zero-empty-result")
def test_an_empty_result_is_still_written_in_its_reply():
    assert written(Reply(4, unsubscribe=Empty())) == {"id": 4, "unsubscribe": {}}
    assert written(Reply(5, subscribe=SubscribeResult())) == {"id": 5, "subscribe": {}}
    assert written(Reply(6, refresh=RefreshResult())) == {"id": 6, "refresh": {}}
    assert written(Reply(7, presence=PresenceResult({}))) == {"id": 7, "presence": {"presence": {}}}


@pytest.mark.rule("error-null-left-out", "envelope-id-echoed", "envelope-reply-one-result")
def test_a_reply_has_no_other_keys_than_id_and_its_result():
    assert written(Reply(1, publish=Empty())) == {"id": 1, "publish": {}}


@pytest.mark.rule("envelope-error-fields")
def test_an_error_has_code_and_message_and_says_only_that_it_is_temporary():
    assert written(ErrorBody(103, "permission denied")) == {
        "code": 103,
        "message": "permission denied",
    }
    assert written(ErrorBody(100, "x", temporary=True))["temporary"] is True


@pytest.mark.rule("zero-omitted")
def test_a_connect_result_leaves_out_what_does_not_hold():
    result = ConnectResult("c", "v", ping=25, pong=True)

    assert written(result) == {"client": "c", "version": "v", "ping": 25, "pong": True}


@pytest.mark.rule("zero-omitted", "push-pub-no-offset")
def test_a_publication_without_a_stream_has_no_offset():
    assert written(Publication(Raw(b"0"))) == {"data": 0}
    assert written(Publication(Raw(b'""'))) == {"data": ""}


@pytest.mark.rule("push-pub-info-tags")
def test_a_publication_carries_what_it_has():
    publication = Publication(
        Raw(b"{}"), offset=1, info=ClientInfo("", "c"), tags={"a": ""}, epoch="abc"
    )

    assert written(publication) == {
        "data": {},
        "offset": 1,
        "info": {"user": "", "client": "c"},
        "tags": {"a": ""},
        "epoch": "abc",
    }


@pytest.mark.rule("push-leave")
def test_a_push_of_a_channel_names_it_and_one_of_the_connection_does_not():
    assert written(PushEnvelope(Push("c", leave=InfoPush(ClientInfo("", "x"))))) == {
        "push": {"channel": "c", "leave": {"info": {"user": "", "client": "x"}}}
    }
    assert written(PushEnvelope(Push(disconnect=CodePush(3001, "shutdown")))) == {
        "push": {"disconnect": {"code": 3001, "reason": "shutdown"}}
    }


@pytest.mark.rule("numbers-are-numbers")
def test_offsets_are_numbers_up_to_64_bits():
    assert msgspec.json.encode(SubscribeResult(offset=2**64 - 1)) == b'{"offset":%d}' % (2**64 - 1)


@pytest.mark.rule("fields-null-absent")
@pytest.mark.parametrize("raw", [Raw(), Raw(b""), Raw(b"null"), ABSENT])
def test_left_out_and_null_are_absent(raw):
    assert is_absent(raw)


@pytest.mark.parametrize("raw", [Raw(b"0"), Raw(b'""'), Raw(b"{}"), Raw(b"false"), Raw(b'"null"')])
def test_empty_values_are_not_absent(raw):
    assert not is_absent(raw)


@pytest.mark.rule("fields-null-absent")
def test_null_equals_absent_in_a_command():
    assert command(id=1, publish=None, presence={"channel": None}) == Command(
        id=1, presence=ChannelRequest()
    )


@pytest.mark.rule("fields-unknown-ignored")
def test_unknown_fields_are_ignored_in_a_command():
    assert command(id=1, presence={"channel": "c", "new": [1]}, ping={}) == Command(
        id=1, presence=ChannelRequest("c")
    )


@pytest.mark.rule("frame-malformed-3501", "numbers-are-numbers", "envelope-id-uint32")
@pytest.mark.parametrize(
    "fields",
    [
        {"id": -1},
        {"id": 2**32},
        {"id": "1"},
        {"id": 1.5},
        {"id": 1, "publish": []},
        {"id": 1, "publish": {"channel": 1}},
        {"id": 1, "subscribe": {"channel": "c", "recover": "yes"}},
        {"id": 1, "subscribe": {"channel": "c", "offset": -1}},
        {"id": 1, "subscribe": {"channel": "c", "offset": "1"}},
        {"id": 1, "history": {"channel": "c", "limit": 2**31}},
        {"id": 1, "connect": {"subs": {"c": 1}}},
        {"id": 1, "connect": {"headers": {"a": 1}}},
    ],
)
def test_a_command_of_another_shape_is_refused(fields):
    with pytest.raises(msgspec.DecodeError):
        command(**fields)


@pytest.mark.rule("numbers-are-numbers", "envelope-id-uint32")
def test_offsets_of_64_bits_are_understood():
    subscribe = command(id=2**32 - 1, subscribe={"channel": "c", "offset": 2**64 - 1}).subscribe

    assert subscribe.offset == 2**64 - 1
