"""A plain ASGI application without a framework; run by uvicorn's own command.

A WebSocket joins the channel that its path names; POST /publish/CHANNEL sends the body to each
member with an ordinary ``send``.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

CHANNELS: defaultdict[str, set[Send]] = defaultdict(set)


async def application(scope: Event, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await subscriber(scope["path"].removeprefix("/ws/"), receive, send)
        return
    if scope["path"].startswith("/publish/"):
        await publish(scope["path"].removeprefix("/publish/"), await read(receive))
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


async def subscriber(channel: str, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    CHANNELS[channel].add(send)
    try:
        while (await receive())["type"] != "websocket.disconnect":
            pass
    finally:
        CHANNELS[channel].remove(send)


async def publish(channel: str, data: bytes) -> None:
    message = {"type": "websocket.send", "text": data.decode()}
    for send in list(CHANNELS[channel]):
        with suppress(OSError, RuntimeError):  # the client has gone, or uvicorn has closed it
            await send(message)


async def read(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            return body
