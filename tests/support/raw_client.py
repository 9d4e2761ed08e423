"""A client of the protocol that hides nothing: every frame is logged, nothing is filtered.

Official SDKs drop what they do not expect, reconnect by themselves and answer pings; this one does
each only when told, so that a test sees what the server really sent.
"""

import asyncio
import contextlib
import itertools
import json
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.event_log import WAIT_SECONDS, EventLog


class CommandError(Exception):
    """The server answered a command with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.code = error.get("code")
        self.message = error.get("message")
        self.temporary = error.get("temporary", False)


class Closed(Exception):
    """The connection ended before the answer."""


@dataclass
class Position:
    """What this client holds of a channel's stream."""

    offset: int
    epoch: str


class RawClient:
    """One connection at a time; ``log`` outlives the connections.

    Args:
        url: Address of the WebSocket.
        who: Name in the log.
        answers_pings: Whether pings are answered by themselves.
    """

    def __init__(self, url: str, *, who: str = "raw", answers_pings: bool = True) -> None:
        self.url = url
        self.log = EventLog(who)
        self.answers_pings = answers_pings
        self.client_id = ""
        self.positions: dict[str, Position] = {}
        self.socket: ClientConnection | None = None
        self._ids = itertools.count(1)
        self._sent: dict[int, dict[str, Any]] = {}
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "RawClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Connection -------------------------------------------------------------------------------

    async def open(self, **options: Any) -> None:
        """Open the WebSocket; no command is sent."""
        await self.close()
        self.socket = await connect(
            self.url, proxy=None, max_size=None, ping_interval=None, close_timeout=1, **options
        )
        self._reader = asyncio.create_task(self._read(self.socket), name=f"{self.log.who} reader")

    async def connect(self, token: str = "", **fields: Any) -> dict[str, Any]:
        """Open the WebSocket if need be, and introduce this client."""
        if self.socket is None:
            await self.open()
        return await self.call("connect", **({"token": token} if token else {}), **fields)

    async def close(self) -> None:
        """Close the connection in peace; no connection is fine."""
        socket, self.socket = self.socket, None
        if socket is not None:
            await socket.close()
        await self._end_reader()

    async def drop(self) -> None:
        """End the connection as a lost network does, without a word."""
        socket, self.socket = self.socket, None
        if socket is not None:
            socket.transport.abort()
        await self._end_reader()

    async def closed(self, *, timeout_seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """Return the ``close`` event of this connection, once the server has closed it."""
        event = await self.log.wait("close", timeout_seconds=timeout_seconds)
        await self.close()
        return event

    # Commands ---------------------------------------------------------------------------------

    async def send_text(self, text: str | bytes) -> None:
        """Send a frame as it is."""
        if self.socket is None:
            raise Closed("not connected")
        self.log.add("frame", direction="out", text=text)
        await self.socket.send(text)

    async def send_commands(self, *commands: dict[str, Any], is_binary: bool = False) -> list[int]:
        """Send commands in one frame; each gets an id, which is returned."""
        for command in commands:
            command["id"] = number = next(self._ids)
            self._sent[number] = command
            self._replies[number] = asyncio.get_running_loop().create_future()
        text = "\n".join(json.dumps(command, separators=(",", ":")) for command in commands)
        await self.send_text(text.encode() if is_binary else text)
        return [command["id"] for command in commands]

    async def reply(self, number: int, *, timeout_seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """Return the result of a command.

        Raises:
            CommandError: The answer is an error.
            Closed: The connection ended first.
        """
        async with asyncio.timeout(timeout_seconds):
            reply = await self._replies[number]
        if "error" in reply:
            raise CommandError(reply["error"])
        (result,) = (value for key, value in reply.items() if key != "id")
        return dict(result)

    async def call(self, method: str, /, **params: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        (number,) = await self.send_commands({method: params})
        return await self.reply(number)

    async def subscribe(self, channel: str, **fields: Any) -> dict[str, Any]:
        return await self.call("subscribe", channel=channel, **fields)

    async def subscribed(self, channel: str, **fields: Any) -> dict[str, Any]:
        """Subscribe and return the ``subscribed`` event, as the SDKs' wrappers do."""
        await self.subscribe(channel, **fields)
        return self.log.of("subscribed", channel=channel)[-1]

    async def recover(self, channel: str, **fields: Any) -> dict[str, Any]:
        """Subscribe from the position that this client holds."""
        held = self.positions[channel]
        return await self.subscribe(
            channel, recover=True, offset=held.offset, epoch=held.epoch, **fields
        )

    async def unsubscribe(self, channel: str) -> dict[str, Any]:
        return await self.call("unsubscribe", channel=channel)

    async def publish(self, channel: str, data: Any) -> dict[str, Any]:
        return await self.call("publish", channel=channel, data=data)

    async def history(self, channel: str, **fields: Any) -> dict[str, Any]:
        return await self.call("history", channel=channel, **fields)

    async def presence(self, channel: str) -> dict[str, Any]:
        return (await self.call("presence", channel=channel))["presence"]

    async def presence_stats(self, channel: str) -> dict[str, Any]:
        return await self.call("presence_stats", channel=channel)

    # What arrives -----------------------------------------------------------------------------

    async def _read(self, socket: ClientConnection) -> None:
        # A reset in the middle of a frame is a close like any other here.
        with contextlib.suppress(ConnectionClosed, ConnectionError):
            async for text in socket:
                self.log.add("frame", direction="in", text=text)
                for line in str(text).split("\n"):
                    await self._take(json.loads(line))
        self.log.add("close", code=socket.close_code, reason=socket.close_reason)
        for future in self._replies.values():
            if not future.done():
                future.set_exception(Closed(f"{socket.close_code} {socket.close_reason}"))
                future.exception()  # whoever still waits gets it; nobody need

    async def _take(self, message: dict[str, Any]) -> None:
        if number := message.get("id"):
            self._take_reply(number, message)
        elif "push" in message:
            self._take_push(message["push"])
        else:
            self.log.add("ping")
            if self.answers_pings:
                # The server may have closed already; what it said before lies behind the ping.
                with contextlib.suppress(ConnectionClosed):
                    await self.send_text("{}")

    def _take_reply(self, number: int, message: dict[str, Any]) -> None:
        command = self._sent.pop(number, {})
        if "connect" in message:
            self.client_id = message["connect"]["client"]
            self.log.add("connected", client=self.client_id)
        elif "subscribe" in message:
            self._take_subscribed(command["subscribe"], message["subscribe"])
        elif "unsubscribe" in message:
            self.log.add("unsubscribed", channel=command["unsubscribe"]["channel"])
        if number in self._replies:  # not one that a test made up in a frame of its own
            self._replies[number].set_result(message)

    def _take_subscribed(self, asked: dict[str, Any], result: dict[str, Any]) -> None:
        channel = asked["channel"]
        offset, epoch = result.get("offset", 0), result.get("epoch", "")
        publications = result.get("publications", [])
        self.positions[channel] = Position(offset, epoch)
        self.log.add(
            "subscribed",
            channel=channel,
            epoch=epoch,
            offset=offset,
            asked_offset=asked.get("offset", 0) if asked.get("recover") else None,
            was_recovering=result.get("was_recovering", False),
            recovered=result.get("recovered", False),
            n_pubs=len(publications),
        )
        for publication in publications:
            self._take_publication(channel, publication)

    def _take_push(self, push: dict[str, Any]) -> None:
        channel = push.get("channel", "")
        if "pub" in push:
            self._take_publication(channel, push["pub"])
        elif "unsubscribe" in push:
            self.log.add("unsub", channel=channel, **push["unsubscribe"])
        elif "disconnect" in push:
            self.log.add("disconnect", **push["disconnect"])
        else:
            kind = next(key for key in push if key != "channel")
            self.log.add(kind, channel=channel, **push[kind])

    def _take_publication(self, channel: str, publication: dict[str, Any]) -> None:
        held = self.positions.setdefault(channel, Position(0, ""))
        offset = publication.get("offset", 0)
        data = publication.get("data")
        self.log.add(
            "pub",
            channel=channel,
            epoch=held.epoch,
            offset=offset,
            id=data.get("id") if isinstance(data, dict) else None,
            data=data,
            info=publication.get("info"),
            tags=publication.get("tags"),
        )
        if offset:
            held.offset = offset

    async def _end_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader
