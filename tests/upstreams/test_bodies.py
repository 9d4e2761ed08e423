"""The bodies of Centrifugo's proxies, both ways."""

import base64
import json

import pytest
from msgspec import Raw

from realtime.hooks import (
    ApplicationError,
    CallFailed,
    ConnectAnswer,
    Kind,
    Peer,
    PublishAnswer,
    RefreshAnswer,
    Request,
)
from realtime.protocol.disconnects import Disconnect, Disconnected
from realtime.protocol.messages import ABSENT, is_absent
from realtime.tokens import Override, SubscribeOptions
from upstreams import bodies

PEER = Peer("c1", "42", meta=Raw(b'{"plan":"gold"}'))
COMMON = {"client": "c1", "transport": "websocket", "protocol": "json", "encoding": "json"}
ASKS_LEAVE = [Kind.CONNECT, Kind.RPC, Kind.SUBSCRIBE, Kind.PUBLISH]


def sent(kind, *, has_meta=False, **fields):
    return json.loads(bodies.encoded(kind, Request(PEER, **fields), has_meta=has_meta))


def answered(kind, content):
    return bodies.decoded(kind, json.dumps(content).encode())


# Questions ---------------------------------------------------------------------------------------


def test_a_connect_tells_what_the_client_has_said_and_no_user():
    body = sent(
        Kind.CONNECT, data=Raw(b'{"a":1}'), name="js", version="5", channels=("x",), has_meta=True
    )

    assert body == COMMON | {"data": {"a": 1}, "name": "js", "version": "5", "channels": ["x"]}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.REFRESH, {}),
        (Kind.RPC, {"method": "m"}),
        (Kind.SUBSCRIBE, {"channel": "a:b", "token": "t"}),
        (Kind.PUBLISH, {"channel": "a:b"}),
        (Kind.SUB_REFRESH, {"channel": "a:b"}),
    ],
)
def test_every_other_question_tells_user_and_what_it_is_about(kind, fields):
    assert sent(kind, **fields) == COMMON | {"user": "42"} | fields
    assert sent(kind, has_meta=True, **fields)["meta"] == {"plan": "gold"}


def test_a_payload_goes_out_as_it_came_in():
    raw = b'{ "n" : 1.00, "s" : "\\u00e9" }'

    assert raw in bodies.encoded(Kind.RPC, Request(PEER, data=Raw(raw)), has_meta=False)


def test_headers_of_the_handshake_go_before_claimed_ones():
    peer = Peer(
        "c1",
        headers={"x-a": "shown", "x-b": "shown", "cookie": "secret"},
        emulated_headers={"X-A": "claimed", "X-C": "claimed", "X-D": "claimed"},
    )

    found = bodies.headers(Request(peer), emulated=("x-a", "x-c"), of_handshake=("x-a", "x-b"))

    assert found == {"x-a": "shown", "x-b": "shown", "x-c": "claimed"}


def test_a_header_with_a_line_break_is_left_out():
    peer = Peer("c1", emulated_headers={"x-a": "1\r\nX-Evil: 1", "x-b": "1"})

    assert bodies.headers(Request(peer), emulated=("x-a", "x-b"), of_handshake=()) == {"x-b": "1"}


# Answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ASKS_LEAVE)
def test_a_disconnect_goes_before_an_error_and_that_before_a_result(kind):
    leave = {"disconnect": {"code": 4501, "reason": "away"}}
    refuse = {"error": {"code": 1000, "message": "no", "temporary": True}}

    with pytest.raises(Disconnected) as left:
        answered(kind, {**leave, **refuse, "result": {}})
    with pytest.raises(ApplicationError) as refused:
        answered(kind, {**refuse, "result": {}})

    assert left.value.disconnect == Disconnect(4501, "away")
    told = refused.value
    assert (told.code, told.message, told.temporary) == (1000, "no", True)


@pytest.mark.parametrize("kind", [Kind.REFRESH, Kind.SUB_REFRESH])
def test_a_refresh_knows_no_disconnect_and_no_error(kind):
    for said in (
        {"disconnect": {"code": 4501, "reason": "away"}},
        {"error": {"code": 1000, "message": "no"}},
        {},
    ):
        assert answered(kind, said) == RefreshAnswer(is_expired=True)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Kind.CONNECT, None),
        (Kind.RPC, ABSENT),
        (Kind.SUBSCRIBE, SubscribeOptions()),
        (Kind.PUBLISH, PublishAnswer()),
    ],
)
@pytest.mark.parametrize("said", [{}, {"result": None}])
def test_no_result_means_what_the_kind_says(kind, expected, said):
    assert answered(kind, said) == expected


def test_a_connect_says_who_it_is_and_what_it_gets():
    answer = answered(
        Kind.CONNECT,
        {
            "result": {
                "user": "7",
                "expire_at": 2000000000,
                "info": {"name": "Ada"},
                "data": {"hello": 1},
                "meta": {"plan": "gold"},
                "channels": ["news"],
                "subs": {"chat:1": {"data": 5, "override": {"presence": {"value": False}}}},
            }
        },
    )

    assert answer == ConnectAnswer(
        user="7",
        expire_at=2000000000,
        info=Raw(b'{"name": "Ada"}'),
        data=Raw(b'{"hello": 1}'),
        meta=Raw(b'{"plan": "gold"}'),
        subs={
            "news": SubscribeOptions(),
            "chat:1": SubscribeOptions(data=Raw(b"5"), override=Override(presence=False)),
        },
    )


def test_a_flag_without_a_value_is_off():
    answer = answered(Kind.SUBSCRIBE, {"result": {"override": {"presence": {}}}})

    assert answer == SubscribeOptions(override=Override(presence=False))


@pytest.mark.parametrize("kind", [Kind.REFRESH, Kind.SUB_REFRESH])
def test_a_refresh_says_until_when(kind):
    answer = answered(kind, {"result": {"expire_at": 2000000000, "info": {"a": 1}}})

    assert answer == RefreshAnswer(False, 2000000000, Raw(b'{"a": 1}'))
    assert answered(kind, {"result": {"expired": True}}).is_expired


def test_a_publish_may_replace_the_data():
    answer = answered(
        Kind.PUBLISH,
        {"result": {"data": [1], "skip_history": True, "tags": {"a": "b"}, "version": 3}},
    )

    assert answer == PublishAnswer(Raw(b"[1]"), True, {"a": "b"}, "", 3)


@pytest.mark.parametrize(
    "body",
    [
        b'{"Error":{"Code":403,"Message":"no"}}',
        b'{"ERROR":{"CODE":403,"MESSAGE":"no"},"Result":{}}',
        b'{"result":null,"error":{"code":403,"message":"no","temporary":null},"disconnect":null}',
    ],
)
def test_a_refusal_is_one_however_its_names_are_written(body):
    with pytest.raises(ApplicationError) as refused:
        bodies.decoded(Kind.SUBSCRIBE, body)

    assert (refused.value.code, refused.value.message) == (403, "no")


def test_a_disconnect_may_have_null_for_a_reason():
    with pytest.raises(Disconnected) as ended:
        bodies.decoded(Kind.PUBLISH, b'{"Disconnect":{"code":4501,"reason":null}}')

    assert ended.value.disconnect.code == 4501


def test_null_is_what_was_left_out():
    assert is_absent(bodies.decoded(Kind.RPC, b'{"result":{"data":null,"b64data":null}}'))
    assert bodies.decoded(
        Kind.PUBLISH, b'{"result":{"version":null,"tags":{"A":null}}}'
    ) == PublishAnswer(tags={"A": ""})
    assert bodies.decoded(
        Kind.CONNECT, b'{"result":{"User":"7","subs":{"News":{"Override":{"Presence":null}}}}}'
    ) == ConnectAnswer("7", subs={"News": SubscribeOptions()})


def test_payloads_may_come_as_base64():
    b64 = base64.b64encode(b'{"a":1}').decode()

    assert answered(Kind.RPC, {"result": {"b64data": b64}}) == Raw(b'{"a":1}')


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"<html>",
        b"\xff",
        b'{"result":{}',
        b'{"result":[]}',
        b'{"result":{"expire_at":"soon","data":1,"version":"x"}, "disconnect": 5}',
        b'{"result":' + b"[" * 10_000,
    ],
)
def test_what_is_no_answer_is_a_failure(kind, body):
    with pytest.raises(CallFailed, match="bad answer"):
        bodies.decoded(kind, body)


@pytest.mark.parametrize(
    "said",
    [
        {"result": {"data": 1, "b64data": "no base64!"}},
        {"result": {"b64data": base64.b64encode(b"{no json").decode()}},
        {"error": {"code": 0, "message": "no"}},
        {"error": {"code": 2000, "message": "no"}},
        {"disconnect": {"code": 1000, "reason": "no"}},
        {"disconnect": {"code": 5000, "reason": "no"}},
    ],
)
def test_a_code_or_payload_that_no_client_could_take_is_a_failure(said):
    with pytest.raises(CallFailed, match="bad answer"):
        answered(Kind.RPC, said)


def test_a_disconnect_has_a_reason_in_any_case():
    with pytest.raises(Disconnected) as left:
        answered(Kind.RPC, {"disconnect": {"code": 4501}})

    assert left.value.disconnect.reason
