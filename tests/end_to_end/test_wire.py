"""What is on the wire, whatever was asked: shapes of messages, kinds of frames, extensions."""

import json
from typing import Any

import pytest

from tests.support.raw_client import Closed, CommandError

pytestmark = pytest.mark.end_to_end

REPLIES = {"connect", "subscribe", "unsubscribe", "publish", "presence", "presence_stats"}
PUSHES = {"pub", "join", "leave", "unsubscribe", "disconnect"}


async def do_everything(client, other, api, channel: str) -> None:
    """Ask and have happen whatever makes a server write."""
    await client.subscribe(channel)
    await other.subscribe(channel)
    await client.publish(channel, {"a": None})
    await client.presence(channel)
    await client.presence_stats(channel)
    await client.publish("stream:wire", "")
    await client.history("stream:wire", limit=10)
    for refused in (client.subscribe(channel), client.call("rpc"), client.presence("nowhere:x")):
        with pytest.raises(CommandError):
            await refused
    await other.unsubscribe(channel)
    await api.call("unsubscribe", user="ada", channel=channel)
    await client.unsubscribe(channel)
    await client.log.wait("leave")
    await client.log.wait("ping")
    with pytest.raises(Closed):
        await client.call("send")


def kind_of(message: dict[str, Any]) -> str:
    """Return what a message is; anything but a reply, a push or a ping is a failure."""
    if message == {}:
        return "ping"
    if "push" in message:
        (push,) = message.values()
        (kind,) = push.keys() - {"channel"}
        assert push[kind], "an empty push is taken for a ping"
        return f"push {kind}"
    assert message.pop("id") > 0
    ((kind, body),) = message.items()
    assert kind != "error" or (body["code"] and body["message"])
    return f"reply {kind}"


@pytest.mark.on_the_ends
@pytest.mark.rule(
    "out-no-empty-line",
    "ws-json-in-text-frames-out",
    "envelope-three-shapes",
    "envelope-reply-one-result",
    "error-null-left-out",
    "push-never-empty",
    "error-message-never-empty",
)
async def test_every_message_is_a_reply_a_push_or_a_ping(pair, connect, api_a, fresh) -> None:
    client, other = await connect(to=pair.a), await connect(to=pair.b, user="bob")

    await do_everything(client, other, api_a, fresh("room"))

    frames = [event["text"] for event in client.log.of("frame", direction="in")]
    assert all(isinstance(frame, str) for frame in frames)
    lines = [line for frame in frames for line in frame.split("\n")]
    assert all(lines)
    seen = {kind_of(json.loads(line)) for line in lines}
    expected = {f"reply {kind}" for kind in (*REPLIES, "history", "error")}
    assert seen == expected | {f"push {kind}" for kind in PUSHES} | {"ping"}


@pytest.mark.rule("ws-compression-off")
async def test_compression_is_offered_and_not_agreed_to(pair, client_of) -> None:
    client = await client_of("raw", pair.a.websocket_url)

    await client.open(compression="deflate")

    assert "permessage-deflate" in client.socket.request.headers["Sec-WebSocket-Extensions"]
    assert "Sec-WebSocket-Extensions" not in client.socket.response.headers
