"""Bad input is refused with its documented error and reaches nobody.

Judged by those who would suffer: a subscriber of each official SDK stays connected throughout and
sees nothing but the good publication that follows each bad one.
"""

import io
import json

import pytest

from tests.support.publisher import Api
from tests.support.raw_client import Closed, CommandError

pytestmark = [pytest.mark.end_to_end, pytest.mark.on_the_ends]

DEEP = b"[" * 129 + b"]" * 129
DATA = {
    "NaN": b"NaN",
    "infinity": b"-Infinity",
    "a word": b"nul",
    "single quotes": b"'x'",
    "a hole": b'{"a":}',
    "a trailing comma": b"[1,]",
    "two values": b"1 2",
    "invalid UTF-8": b'"\xff\xfe"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "a lone surrogate": b'"\\ud800"',
    "a lone surrogate as a name": b'{"\\udc00":1}',
    "a control character": b'"\x01"',
    "a null character": b"\x00",
    "deep nesting": DEEP,
    "very deep nesting": b"[" * 30_000,
    "deep objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "a huge number": b"1" * 301,
    "a huge number with a point": b"0." + b"1" * 5_000,
    "too many bytes": b'"' + b"x" * 65_536 + b'"',
    "null": b"null",
    "nothing": b"",
}
FIELDS = {
    "no data": b'{"channel":"%s"}',
    "tags that are no texts": b'{"channel":"%s","data":1,"tags":{"a":1}}',
    "a lone surrogate in a tag": b'{"channel":"%s","data":1,"tags":{"a":"\\ud800"}}',
    "a version that is a text": b'{"channel":"%s","data":1,"version":"x"}',
    "a negative version": b'{"channel":"%s","data":1,"version":-1}',
    "a version beyond 64 bits": b'{"channel":"%s","data":1,"version":18446744073709551616}',
    "a key that is too long": b'{"channel":"%s","data":1,"idempotency_key":"' + b"k" * 257 + b'"}',
    "base64 that is none": b'{"channel":"%s","b64data":"*"}',
    "base64 of no JSON": b'{"channel":"%s","b64data":"/w=="}',
    "a flag that is a text": b'{"channel":"%s","data":1,"skip_history":"x"}',
    "a list": b'["%s"]',
    "a text": b'"%s"',
    "rubbish behind": b'{"channel":"%s","data":1}x',
}
CHANNELS = {
    "no channel": b'{"data":1}',
    "an empty channel": b'{"channel":"","data":1}',
    "a channel that is a number": b'{"channel":7,"data":1}',
    "an unknown namespace": b'{"channel":"nowhere:x","data":1}',
    "a lone surrogate in the channel": b'{"channel":"stream:\\ud800","data":1}',
}
BODIES = (
    {name: b'{"channel":"%s","data":' + data + b"}" for name, data in DATA.items()}
    | FIELDS
    | CHANNELS
)
# Strange, but within the documented bounds: it has to arrive.
STRANGE = [
    b"[" * 128 + b"]" * 128,
    b"1" * 300,
    b"-1.5e-300",
    b'"\\u0000\\u2028\\ud83d\\ude00"',
    b'{"__proto__":{"x":1},"constructor":2,"":3}',
    b'"' + b"x" * 60_000 + b'"',
]


@pytest.fixture(params=["js", "python"])
async def victim(request, pair, connect, fresh):
    """Return an official SDK that is subscribed, on the other instance, and its channel."""
    client = await connect(request.param, to=pair.b)
    channel = fresh("stream")
    await client.subscribed(channel)
    return client, channel


async def is_unharmed(client, channel: str, api) -> None:
    """One good publication arrives, as the first that was ever stored, on the first connection."""
    await api.call("publish", channel=channel, data={"id": "good"})
    await client.log.wait("pub", id="good")
    assert [event["id"] for event in client.log.of("pub")] == ["good"]
    assert [event["offset"] for event in client.log.of("pub")] == [1]
    assert len(client.log.of("connected")) == 1
    assert client.log.of("error") + client.log.of("sub_error") + client.log.of("unsub") == []


@pytest.mark.rule("payload-not-json-refused", "publish-size-107")
async def test_bad_bodies_are_refused_and_reach_nobody(victim, api_a) -> None:
    client, channel = victim
    accepted = []

    for name, body in BODIES.items():
        status, text = await api_a.status("publish", body.replace(b"%s", channel.encode()))
        if status == 400:
            continue
        answer = json.loads(text)
        if status != 200 or answer.get("error", {}).get("code") not in (102, 107):
            accepted.append((name, status, text[:200]))

    assert accepted == []
    await is_unharmed(client, channel, api_a)


async def test_a_body_beyond_all_bounds_is_refused(victim, api_a) -> None:
    client, channel = victim

    body = b'{"channel":"%s","data":"' + b"x" * 4_000_000 + b'"}'
    status, _ = await api_a.status("publish", io.BytesIO(body.replace(b"%s", channel.encode())))

    assert status == 413
    await is_unharmed(client, channel, api_a)


@pytest.mark.rule("batch-failure-alone")
async def test_bad_commands_in_a_batch_do_not_harm_the_good(victim, api_a) -> None:
    client, channel = victim
    bad = [
        {"publish": {"channel": channel}},
        {"publish": {"channel": channel, "data": None}},
        {"publish": {"channel": channel, "data": json.loads(DEEP)}},
        {"publish": {"channel": channel, "data": 10**300}},
        {"publish": {"channel": channel, "data": "x" * 65_536}},
        {},
        None,
    ]

    replies = (await api_a.call("batch", commands=bad))["replies"]

    assert all(reply["error"]["code"] in (104, 107) for reply in replies), replies
    await is_unharmed(client, channel, api_a)


async def test_a_batch_that_cannot_be_read_is_refused_as_a_whole(victim, api_a) -> None:
    client, channel = victim
    good = {"publish": {"channel": channel, "data": 1}}

    for bad in ({"publish": {"channel": 7, "data": 1}}, {"publish": []}, 7):
        status, text = await api_a.status("batch", json.dumps({"commands": [good, bad]}))
        assert (status, text) == (400, "Bad Request")

    await is_unharmed(client, channel, api_a)


@pytest.mark.rule("input-strict-utf8", "frame-deep-3501")
async def test_bad_frames_are_refused_and_reach_nobody(victim, pair, connect, api_a) -> None:
    client, channel = victim
    accepted = []

    for name, data in DATA.items():
        sender = await connect(to=pair.a)
        sender.log.events.clear()
        frame = b'{"id":9,"publish":{"channel":"%s","data":' + data + b"}}"
        # A binary frame, because the client's library refuses to send such text.
        await sender.send_text(frame.replace(b"%s", channel.encode()))
        ended = await sender.log.until(
            lambda sender=sender: next(
                (
                    e
                    for e in sender.log.events
                    if e["event"] == "close"
                    or (e["event"] == "frame" and e["direction"] == "in" and '"id":9' in e["text"])
                ),
                None,
            )
        )
        is_refused = (
            ended["code"] in (3501, 1009, 1007)
            if ended["event"] == "close"
            else json.loads(ended["text"])["error"]["code"] == 107
            if "error" in ended["text"]
            else False
        )
        if not is_refused:
            accepted.append((name, ended))
        await sender.close()

    assert accepted == []
    await is_unharmed(client, channel, api_a)


@pytest.mark.parametrize(
    "fields",
    [
        {"channel": 7},
        {"channel": "stream:x", "offset": -1},
        {"channel": "stream:x", "offset": 2**64},
        {"channel": "stream:x", "recover": "yes"},
        {"channel": "stream:x", "epoch": 3},
        {"channel": "stream:x", "flag": "x"},
    ],
)
async def test_a_command_of_a_wrong_shape_ends_its_connection_alone(pair, connect, fields) -> None:
    sender, witness = await connect(), await connect()

    with pytest.raises((CommandError, Closed)) as raised:
        await sender.subscribe(**fields)

    codes = [event["code"] for event in sender.log.of("close")]
    assert codes == [3501] or raised.value.code == 107
    await witness.call("presence_stats", channel="stream:x")


async def test_strange_but_good_payloads_arrive(victim, api_a) -> None:
    client, channel = victim

    for number, data in enumerate(STRANGE, 1):
        body = b'{"channel":"%s","data":' + data + b"}"
        status, text = await api_a.status("publish", body.replace(b"%s", channel.encode()))
        assert (status, json.loads(text).get("result", {}).get("offset")) == (200, number), text

    await client.log.wait("pub", count=len(STRANGE))
    assert len(client.log.of("connected")) == 1


@pytest.mark.rule("api-key-refused-401")
async def test_a_bad_key_gets_401_and_no_word(pair, fresh) -> None:
    for key in ("", "wrong", "\u00e9" * 10, "x" * 5_000):
        async with Api(pair.a.url, key=key) as api:
            status, body = await api.status("publish", json.dumps({"channel": fresh("stream")}))
        assert (status, body) == (401, "")
