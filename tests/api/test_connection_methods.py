import base64
import json

import pytest

from realtime import services
from realtime.protocol.errors import InternalError
from realtime.protocol.messages import StreamPosition
from realtime.tokens import Override

IN_BASE64 = base64.b64encode(b'{"b": 1.0}').decode()


@pytest.fixture
def said(monkeypatch):
    """Return what services are asked, in order: their names and arguments."""
    asked = []

    def listen(name):
        async def service(*args, **named):
            asked.append((name, args, named))

        monkeypatch.setattr(services, name, service)

    for name in ("asubscribe", "arefresh", "adisconnect"):
        listen(name)
    return asked


async def test_subscribe_hands_on_every_field(call, said):
    content = {
        "user": "42",
        "channel": "plain:x",
        "client": "c",
        "session": "s",
        "expire_at": 4_000_000_000,
        "info": {"a": 1},
        "data": {"b": 2},
        "recover_since": {"offset": 5, "epoch": "e"},
        "override": {"presence": {"value": True}, "force_recovery": {"value": False}},
    }

    answer = await call("subscribe", content)

    assert answer.body == b'{"result":{}}'
    ((_, args, named),) = said
    assert args == ("42", "plain:x")
    assert (named["client"], named["session"], named["expire_at"]) == ("c", "s", 4_000_000_000)
    assert json.loads(bytes(named["info"])) == {"a": 1}
    assert json.loads(bytes(named["data"])) == {"b": 2}
    assert named["recover_since"] == StreamPosition(5, "e")
    assert named["override"] == Override(presence=True, force_recovery=False)


async def test_subscribe_needs_a_channel_alone(call, said):
    await call("subscribe", {"channel": "plain:x"})

    assert said == [
        (
            "asubscribe",
            ("", "plain:x"),
            {
                "client": "",
                "session": "",
                "expire_at": 0,
                "info": None,
                "data": None,
                "recover_since": None,
                "override": Override(),
            },
        )
    ]


async def test_base64_stands_above_info_and_data(call, said):
    both = {"info": 1, "b64info": IN_BASE64, "data": 2, "b64data": IN_BASE64}

    await call("subscribe", {"user": "42", "channel": "plain:x", **both})

    ((_, _, named),) = said
    assert bytes(named["info"]) == bytes(named["data"]) == b'{"b": 1.0}'


@pytest.mark.parametrize(
    ("flag", "expected"), [(None, None), ({}, False), ({"value": None}, False)]
)
async def test_a_flag_without_a_value_is_off(call, said, flag, expected):
    await call("subscribe", {"channel": "plain:x", "override": {"presence": flag}})

    ((_, _, named),) = said
    assert named["override"] == Override(presence=expected)


@pytest.mark.rule("api-subscribe-past-107", "api-subscribe-payloads-bounded")
@pytest.mark.parametrize(
    "content",
    [
        {"b64info": "?"},
        {"b64data": "?"},
        {"b64info": base64.b64encode(b"not json").decode()},
        {"info": "x" * 70_000},
        {"data": "x" * 70_000},
        {"expire_at": 1},
        {"expire_at": -1},
    ],
)
async def test_a_subscription_that_could_not_be_made_is_error_107(call, content):
    answer = await call("subscribe", {"user": "42", "channel": "plain:x", **content})

    assert answer.error == {"code": 107, "message": "bad request"}


@pytest.mark.parametrize(
    "content",
    [
        {"expire_at": "1"},
        {"expire_at": 2**63},
        {"expire_at": 1.5},
        {"override": {"presence": True}},
        {"override": []},
        {"recover_since": {"offset": 2**64}},
        {"recover_since": {"offset": -1}},
        {"user": 42},
    ],
)
async def test_a_subscription_of_the_wrong_form_is_a_bad_request(call, content):
    body = {"user": "42", "channel": "plain:x", **content}

    single = await call("subscribe", body)
    batch = await call("batch", {"commands": [{"subscribe": body}]})

    assert (single.status, single.body) == (400, b"Bad Request")
    assert (batch.status, batch.body) == (400, b"Bad Request")


@pytest.mark.rule("api-subscribe-already-100")
async def test_subscribed_already_is_error_100(call, monkeypatch):
    async def asubscribe(*_, **__):
        raise InternalError("already subscribed")

    monkeypatch.setattr(services, "asubscribe", asubscribe)

    answer = await call("subscribe", {"user": "42", "channel": "plain:x"})

    assert answer.error == {"code": 100, "message": "internal server error"}


@pytest.mark.rule("api-subscribe-nobody")
async def test_subscribe_and_refresh_are_done_when_nobody_is_there(call):
    assert (await call("subscribe", {"user": "42", "channel": "plain:x"})).result == {}
    assert (await call("refresh", {"user": "42"})).result == {}


async def test_refresh_hands_on_every_field(call, said):
    content = {
        "user": "42",
        "client": "c",
        "session": "s",
        "expired": True,
        "expire_at": 4_000_000_000,
        "info": {"a": 1},
    }

    answer = await call("refresh", content)

    assert answer.body == b'{"result":{}}'
    ((_, args, named),) = said
    assert args == ("42",)
    assert json.loads(bytes(named.pop("info"))) == {"a": 1}
    assert named == {
        "client": "c",
        "session": "s",
        "expired": True,
        "expire_at": 4_000_000_000,
    }


async def test_refresh_needs_nothing(call, said):
    await call("refresh", {"info": None})

    nothing = {"client": "", "session": "", "expired": False, "expire_at": 0, "info": None}
    assert said == [("arefresh", ("",), nothing)]


@pytest.mark.rule("api-ids-bounded-107")
@pytest.mark.parametrize(
    ("method", "content"),
    [
        ("subscribe", {"user": "u" * 65_537}),
        ("subscribe", {"client": "c" * 256}),
        ("unsubscribe", {"channel": "plain:" + "x" * 1_000_000}),
        ("unsubscribe", {"session": "s" * 256}),
        ("refresh", {"user": "u" * 65_537}),
        ("disconnect", {"whitelist": ["c" * 256]}),
        ("disconnect", {"whitelist": ["c"] * 1001}),
    ],
)
async def test_what_all_instances_would_have_to_keep_is_bounded(call, method, content):
    answer = await call(method, {"user": "42", "channel": "plain:x", **content})

    assert answer.error == {"code": 107, "message": "bad request"}


@pytest.mark.rule("batch-nested-rpc")
async def test_new_methods_go_in_a_batch(call, said):
    commands = [
        {"subscribe": {"user": "42", "channel": "plain:x"}},
        {"refresh": {"user": "42"}},
        {"rpc": {"method": "nothing"}},
        {"rpc": {}},
        {"map_publish": {"channel": "plain:x", "key": "k"}},
    ]

    answer = await call("batch", {"commands": commands})

    not_found = {"error": {"code": 104, "message": "not found"}}
    assert answer.json["replies"] == [
        {"subscribe": {}},
        {"refresh": {}},
        not_found,
        {"error": {"code": 107, "message": "bad request"}},
        not_found,
    ]
    assert [name for name, *_ in said] == ["asubscribe", "arefresh"]


@pytest.mark.parametrize(
    ("method", "scope"),
    [
        ("subscribe", "subscribe:kept:*"),
        ("refresh", "disconnect"),
        ("rpc", "refresh"),
    ],
)
async def test_outside_the_scopes_nothing_is_done(call, said, make_key, method, scope):
    key = await make_key(scope)

    answer = await call(method, {"user": "42", "channel": "plain:x", "method": "x"}, key=key)

    assert (answer.status, answer.body) == (403, b"")
    assert said == []


async def test_a_scope_of_subscribe_has_channels(call, said, make_key):
    key = await make_key("subscribe:plain:*", "refresh")

    assert (await call("subscribe", {"user": "42", "channel": "plain:x"}, key=key)).result == {}
    assert (await call("refresh", {"user": "42"}, key=key)).result == {}
