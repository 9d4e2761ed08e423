"""A TCP proxy that breaks things: it cuts with a reset, freezes, delays, and changes its target.

Stands between a client and a server, or between a server and Redis. Bytes pass unchanged and in
order; who wants to know them gives a ``tap``.
"""

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Callable
from typing import Literal

Direction = Literal["up", "down"]  # up: from the client to the server
Tap = Callable[[int, Direction, bytes], None]
Held = asyncio.Queue[tuple[float, bytes]]
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Link:
    """One proxied connection."""

    def __init__(self, number: int, client: asyncio.StreamWriter) -> None:
        self.number = number
        self.writers = [client]
        self.passed_bytes: dict[Direction, int] = {"up": 0, "down": 0}
        self.cut_at: tuple[Direction, int] | None = None
        self.is_subscriber = False

    def left_until_cut(self, direction: Direction) -> int | None:
        if self.cut_at is None or self.cut_at[0] != direction:
            return None
        return self.cut_at[1] - self.passed_bytes[direction]

    def reset(self) -> None:
        """End both sides with RST, throwing away what is under way."""
        for writer in self.writers:
            with contextlib.suppress(OSError):
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()


class FaultProxy:
    """Listens on a free loopback port and forwards to ``target``, a port on loopback.

    Set ``target``, ``delay_seconds`` and ``subscriber_delay_seconds`` (of the connections that have
    sent a Redis SUBSCRIBE) at any time; they hold from the next bytes on.
    """

    def __init__(self, target: int, *, tap: Tap | None = None) -> None:
        self.target = target
        self.tap = tap
        self.delay_seconds = 0.0
        self.subscriber_delay_seconds = 0.0
        self.cut_count = 0
        self.links: set[Link] = set()
        self._numbers = itertools.count(1)
        self._next_cut: tuple[Direction, int] | None = None
        self._is_open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._tasks: set[asyncio.Task[None]] = set()
        self.thaw()

    async def __aenter__(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut_all(self) -> int:
        """Reset every connection; return how many there were."""
        links, self.links = self.links, set()
        for link in links:
            link.reset()
        self.cut_count += len(links)
        return len(links)

    def cut_next_after(self, direction: Direction, passed_bytes: int) -> None:
        """Reset the next connection once so many bytes have passed in a direction."""
        self._next_cut = direction, passed_bytes

    def freeze(self, *directions: Direction) -> None:
        """Let nothing pass in these directions; connections stay open."""
        for direction in directions:
            self._is_open[direction].clear()

    def thaw(self) -> None:
        """Let everything pass again, first of all what was held back."""
        self._is_open["up"].set()
        self._is_open["down"].set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(next(self._numbers), writer)
        link.cut_at, self._next_cut = self._next_cut, None
        self.links.add(link)
        self._tasks.add(task := asyncio.current_task())
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
            link.writers.append(server_writer)
            async with asyncio.TaskGroup() as pumps:
                up, down = Held(), Held()
                pumps.create_task(self._read(link, "up", reader, up))
                pumps.create_task(self._write(link, "up", up))
                pumps.create_task(self._read(link, "down", server_reader, down))
                pumps.create_task(self._write(link, "down", down))
        except* OSError:
            pass  # an end that went away takes the other with it
        finally:
            link.reset()
            self.links.discard(link)
            self._tasks.discard(task)

    async def _read(
        self, link: Link, direction: Direction, reader: asyncio.StreamReader, held: Held
    ) -> None:
        """Read at once and write when due, so that a delay does not slow the flow down."""
        data = b"more"
        while data:
            data = await reader.read(65536)
            link.is_subscriber |= direction == "up" and b"SUBSCRIBE\r\n" in data.upper()
            delay_seconds = self.delay_seconds + self.subscriber_delay_seconds * link.is_subscriber
            held.put_nowait((asyncio.get_running_loop().time() + delay_seconds, data))

    async def _write(self, link: Link, direction: Direction, held: Held) -> None:
        writer = link.writers[direction == "up"]
        while True:
            due, data = await held.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            await self._is_open[direction].wait()
            if not data:
                break
            self._pass(link, direction, data)
            await writer.drain()
        writer.write_eof()

    def _pass(self, link: Link, direction: Direction, data: bytes) -> None:
        left_bytes = link.left_until_cut(direction)
        data = data[:left_bytes]
        link.passed_bytes[direction] += len(data)
        link.writers[direction == "up"].write(data)
        if self.tap is not None:
            self.tap(link.number, direction, data)
        if len(data) == left_bytes:
            self.cut_count += 1
            link.reset()
