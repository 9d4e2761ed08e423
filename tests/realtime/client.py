"""A client on the ASGI application itself: every message is seen, in the order it came."""

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import jwt
from channels.testing import WebsocketCommunicator

from project.asgi import application
from realtime.snapshot import ChannelOptions, Snapshot

SECRET = "a-secret-for-the-tokens-of-the-tests-0123456789"
WAIT_SECONDS = 5
PATH = "/connection/websocket"

_OPEN = {
    "allow_subscribe_for_client": True,
    "allow_publish_for_client": True,
    "allow_history_for_client": True,
    "allow_presence_for_client": True,
}
_HISTORY = {"history_size": 100, "history_ttl": 60}
NAMESPACES = {
    "": ChannelOptions(allow_subscribe_for_client=True),
    "open": ChannelOptions(**_OPEN, **_HISTORY, force_recovery=True, presence=True),
    "live": ChannelOptions(**_OPEN),
    "room": ChannelOptions(**_OPEN, presence=True, join_leave=True, force_push_join_leave=True),
    "all": ChannelOptions(
        **_HISTORY,
        force_recovery=True,
        presence=True,
        join_leave=True,
        force_push_join_leave=True,
    ),
    "cache": ChannelOptions(
        **_OPEN, **_HISTORY, force_recovery=True, force_recovery_mode="cache", presence=True
    ),
    "auto": ChannelOptions(
        **_OPEN,
        **_HISTORY,
        force_recovery=True,
        force_recovery_mode="cache",
        auto_cache_recover=True,
    ),
    "quietroom": ChannelOptions(**_OPEN, presence=True, join_leave=True),
    "short": ChannelOptions(**_OPEN, history_size=3, history_ttl=60, force_recovery=True),
    "wish": ChannelOptions(
        allow_subscribe_for_client=True, allow_recovery=True, allow_positioning=True, **_HISTORY
    ),
    "nowish": ChannelOptions(allow_subscribe_for_client=True, join_leave=True, **_HISTORY),
    "position": ChannelOptions(allow_subscribe_for_client=True, force_positioning=True, **_HISTORY),
    "closed": ChannelOptions(presence=True, **_HISTORY),
    "limited": ChannelOptions(allow_user_limited_channels=True),
    "regex": ChannelOptions(**_OPEN, channel_regex="^[a-zä]+$"),
    "object": ChannelOptions(**_OPEN, publication_data_format="json_object"),
    "member": ChannelOptions(
        allow_subscribe_for_client=True,
        allow_publish_for_subscriber=True,
        allow_presence_for_subscriber=True,
        allow_history_for_subscriber=True,
        presence=True,
        **_HISTORY,
    ),
    "anon": ChannelOptions(
        **_OPEN,
        **_HISTORY,
        presence=True,
        allow_subscribe_for_anonymous=True,
        allow_publish_for_anonymous=True,
        allow_history_for_anonymous=True,
        allow_presence_for_anonymous=True,
    ),
}
SNAPSHOT = Snapshot(1, NAMESPACES)


def token(user: str | None = "42", *, secret: str = SECRET, **claims: Any) -> str:
    """Sign a token as an application would."""
    content = claims if user is None else {"sub": user, **claims}
    return jwt.encode(content, secret, algorithm="HS256")


class CommandError(Exception):
    """The answer to a command was an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.error = error
        self.code = error["code"]


class Closed(Exception):
    """The connection was closed.

    Attributes:
        code, reason: Of the close frame.
        push: The body of the disconnect push before it, None if there was none.
    """

    def __init__(self, code: int, reason: str, push: dict[str, Any] | None) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason
        self.push = push


class Client:
    """One connection.

    Attributes:
        log: Every message received, in order; pings included.
        texts: The same as it came, frame by frame.
    """

    def __init__(self, **options: Any) -> None:
        headers = options.pop("headers", [(b"host", b"testserver")])
        self.communicator = WebsocketCommunicator(
            application, options.pop("path", PATH), headers=headers, **options
        )
        self.id = ""
        self.log: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self.closed_with: Closed | None = None
        self._ids = itertools.count(1)
        self._waiting: list[dict[str, Any]] = []

    async def open(self) -> "Client":
        is_accepted, detail = await self.communicator.connect(timeout=WAIT_SECONDS)
        assert is_accepted, detail
        return self

    async def connect(self, given: str | None = None, **fields: Any) -> dict[str, Any]:
        """Say who this is; user 42 unless told otherwise."""
        asked = {"token": token() if given is None else given} if given != "" else {}
        result = await self.call("connect", **asked, **fields)
        self.id = result["client"]
        return result

    async def send(self, text: str | bytes) -> None:
        kind = "text" if isinstance(text, str) else "bytes"
        await self.communicator.send_input({"type": "websocket.receive", kind: text})

    async def send_commands(self, *commands: dict[str, Any]) -> None:
        await self.send("\n".join(json.dumps(command) for command in commands))

    async def call(self, method: str, /, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; what else comes is kept for ``next``."""
        number = next(self._ids)
        await self.send_commands({"id": number, method: params})
        return await self.reply(number)

    async def reply(self, number: int) -> dict[str, Any]:
        """Return the result of a command that was sent."""
        reply = await self.next(lambda message: message.get("id") == number)
        if "error" in reply:
            assert set(reply) == {"id", "error"}
            raise CommandError(reply["error"])
        (result,) = (value for key, value in reply.items() if key != "id")
        return dict(result)

    async def next(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Return the first message of a kind; the others are kept, in order."""
        for index, message in enumerate(self._waiting):
            if wanted(message):
                return self._waiting.pop(index)
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                received = await self._receive()
                for index, message in enumerate(received):
                    if wanted(message):
                        self._waiting += received[:index] + received[index + 1 :]
                        return message
                self._waiting += received

    async def push(self, kind: str, channel: str | None = None) -> Any:
        """Return the body of the next push of a kind."""

        def is_wanted(message: dict[str, Any]) -> bool:
            push = message.get("push", {})
            return kind in push and channel in (None, push.get("channel"))

        return (await self.next(is_wanted))["push"][kind]

    async def publications(self, count: int) -> list[dict[str, Any]]:
        return [await self.push("pub") for _ in range(count)]

    async def ping(self) -> None:
        await self.next(lambda message: message == {})

    async def closed(self) -> Closed:
        """Return how the server closed the connection."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    self._waiting += await self._receive()
        except Closed as closed:
            return closed

    async def has_nothing(self, *, seconds: float = 0.05) -> bool:
        """Tell whether nothing comes, and nothing has."""
        return not self._waiting and await self.communicator.receive_nothing(seconds, 0.005)

    async def leave(self) -> None:
        """Close the connection and wait for the server's end of it."""
        await self.communicator.disconnect(timeout=WAIT_SECONDS)

    async def _receive(self) -> list[dict[str, Any]]:
        if self.closed_with is not None:
            raise self.closed_with
        event = await self.communicator.receive_output(timeout=WAIT_SECONDS)
        if event["type"] == "websocket.close":
            push = self.log[-1].get("push", {}).get("disconnect") if self.log else None
            self.closed_with = Closed(event["code"], event["reason"], push)
            raise self.closed_with
        assert event["type"] == "websocket.send"
        self.texts.append(event["text"])
        received = [json.loads(line) for line in event["text"].split("\n")]
        self.log += received
        return received
