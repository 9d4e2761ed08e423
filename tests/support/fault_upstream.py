"""An HTTP server that answers well or breaks every rule, path by path, and remembers who asked.

A backend for the tests of what calls one. It stands on bare sockets, because no framework would
send what the faults here are about. Well-behaved answers keep the connection.

In a test: ``async with FaultUpstream() as upstream``, or ``with FaultUpstream() as upstream`` for a
thread of its own. In a process: ``python -m tests.support.fault_upstream PORT``, where every fault
has a path of its name, ``/echo`` echoes, ``/echo/MILLISECONDS`` does so later and ``/counts`` tells
how often each path was asked.
"""

import asyncio
import contextlib
import functools
import gzip
import json
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_BOMB_BYTES = 64 * 2**20
WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Asked:
    """One request as it came in; the names of headers are in lower case.

    Attributes:
        connection: Number of the TCP connection that brought it, from 1.
        at: When, by the monotonic clock.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int = 0
    at: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _Ended(Exception):
    """The behaviour has ended the connection, or broken it for anything else."""


Behaviour = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


# Behaviours --------------------------------------------------------------------------------------


def answer(
    body: object = b"",
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    delay_seconds: float = 0.0,
) -> Behaviour:
    """Answer as HTTP wants it; what is neither bytes nor text is sent as JSON."""

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if delay_seconds:
            await asyncio.sleep(delay_seconds)
        content = _bytes_of(body)
        writer.write(_head(status, {"content-length": str(len(content)), **(headers or {})}))
        writer.write(content)

    return behave


def echo(*, delay_seconds: float = 0.0) -> Behaviour:
    """Answer an RPC of the proxy protocol with its own data."""

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        result = {"result": {"data": asked.json.get("data")}}
        await answer(result, delay_seconds=delay_seconds)(asked, writer)

    return behave


def sequence(behaviours: Sequence[Behaviour]) -> Behaviour:
    """Behave like each in turn; the last one stays."""
    left = list(behaviours)

    async def behave(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(asked, writer)

    return behave


def redirect(to: str, *, status: int = 302) -> Behaviour:
    """Send the caller elsewhere."""
    return answer(b"", status=status, headers={"location": to})


async def hang(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Never say anything."""
    await asyncio.Event().wait()


async def trickle(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Answer one byte a second: a head at once, so that a wait for the head alone is over."""
    content = json.dumps({"result": {"data": "x" * 1000}}).encode()
    writer.write(_head(200, {"content-length": str(len(content))}))
    await _byte_by_byte(content, writer)


async def trickle_head(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Answer one byte a second, from the status on."""
    await _byte_by_byte(_head(200, {"content-length": "0"}), writer)


async def garbage(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Answer what is not HTTP."""
    writer.write(b"\x00\xff\x16\x03\x01 i am no web server \r\n\r\n" * 3)
    await writer.drain()
    raise _Ended


def garbage_body(asked: Asked, writer: asyncio.StreamWriter) -> Awaitable[None]:
    """Answer HTTP whose body is nothing of what was agreed."""
    return answer(b"<html>\xff")(asked, writer)


async def reset(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """End the connection with RST instead of an answer."""
    reset_connection(writer)
    raise _Ended


async def cut(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """End the connection in the middle of the body."""
    writer.write(_head(200, {"content-length": "1000"}) + b'{"result":')
    await writer.drain()
    raise _Ended


def error500(asked: Asked, writer: asyncio.StreamWriter) -> Awaitable[None]:
    """Answer that something went wrong, with a body that must not be believed."""
    return answer({"result": {"data": "of a 500"}}, status=500)(asked, writer)


async def huge(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Answer a body without an end."""
    writer.write(_head(200, {"transfer-encoding": "chunked"}))
    chunk = b"%x\r\n%s\r\n" % (2**16, b" " * 2**16)
    while True:
        writer.write(chunk)
        await writer.drain()


def gzip_bomb(asked: Asked, writer: asyncio.StreamWriter) -> Awaitable[None]:
    """Answer few bytes that are many once they are unpacked."""
    return answer(_bomb(), headers={"content-encoding": "gzip"})(asked, writer)


# What the tests of every caller go through; the address is one that only this machine could mean.
FAULTS: Mapping[str, Behaviour] = {
    "hang": hang,
    "trickle": trickle,
    "garbage": garbage,
    "reset": reset,
    "error500": error500,
    "redirect": redirect("http://169.254.169.254/latest/meta-data/"),
}
MORE_FAULTS: Mapping[str, Behaviour] = {
    "trickle_head": trickle_head,
    "garbage_body": garbage_body,
    "cut": cut,
    "huge": huge,
    "gzip_bomb": gzip_bomb,
}


# The server --------------------------------------------------------------------------------------


class FaultUpstream:
    """Listens on loopback; a path that nobody has told it about is 404.

    Attributes:
        requests: All of them, in the order in which they came.
        in_flight: How many are being answered; ``most_in_flight`` was the most of them.
        connection_count: How many connections there ever were; ``open_count``, are now.
    """

    def __init__(self, *, port: int = 0) -> None:
        self.port = port
        self.requests: list[Asked] = []
        self.in_flight = self.most_in_flight = 0
        self.connection_count = self.open_count = 0
        self._behaviours: dict[str, Behaviour] = {}
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # What it does -----------------------------------------------------------------------------

    def on(self, path: str, behaviour: Behaviour) -> None:
        """Behave like this from the next request of a path on (without its query)."""
        self._behaviours[path] = behaviour

    def respond(
        self,
        path: str,
        body: object = b"",
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        delay_seconds: float = 0.0,
    ) -> None:
        """Answer well on a path; ``body`` is sent as JSON unless it is bytes or text."""
        self.on(path, answer(body, status=status, headers=headers, delay_seconds=delay_seconds))

    # What it saw ------------------------------------------------------------------------------

    def asked(self, path: str) -> list[Asked]:
        """Return the requests of a path (without its query)."""
        return [asked for asked in self.requests if _bare(asked.path) == path]

    def count(self, path: str) -> int:
        return len(self.asked(path))

    async def wait_asked(
        self, path: str, *, count: int = 1, timeout_seconds: float = WAIT_SECONDS
    ) -> Asked:
        """Return the ``count``-th request of a path once it has come; not for one in a thread.

        Raises:
            TimeoutError: It has not come in time.
        """
        await self._until(lambda: self.count(path) >= count, timeout_seconds)
        return self.asked(path)[count - 1]

    async def wait_idle(self, *, timeout_seconds: float = WAIT_SECONDS) -> None:
        """Return once nothing is being answered; not for one in a thread."""
        await self._until(lambda: self.in_flight == 0, timeout_seconds)

    # Start and end ----------------------------------------------------------------------------

    async def start(self) -> "FaultUpstream":
        """Listen, within the running loop; always on the same port."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, backlog=2048, limit=2**20
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Refuse connections from now on, and cut those that there are."""
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def __aenter__(self) -> "FaultUpstream":
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __enter__(self) -> "FaultUpstream":
        is_up = threading.Event()

        async def run() -> None:
            self._loop, self._may_end = asyncio.get_running_loop(), asyncio.Event()
            async with self:
                is_up.set()
                await self._may_end.wait()

        self._thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
        self._thread.start()
        assert is_up.wait(WAIT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._may_end.set)
        self._thread.join(WAIT_SECONDS)

    # One connection ---------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connection_count += 1
        self.open_count += 1
        # Cancelled by stop(), and then asyncio's own callback must not find a cancelled task.
        with contextlib.suppress(asyncio.CancelledError, OSError, EOFError, _Ended):
            await self._converse(reader, writer, self.connection_count)
        self._tasks.discard(task)
        self.open_count -= 1
        writer.close()
        await self._tell()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        while True:
            asked = await _read(reader, number)
            self.requests.append(asked)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            await self._tell()
            try:
                await self._behave(asked, reader, writer)
                await writer.drain()
            finally:
                self.in_flight -= 1
                await self._tell()

    async def _behave(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer for as long as the caller is there: nobody waits for who has gone."""
        behaviour = self._behaviours.get(_bare(asked.path), answer(b"", status=404))
        answering = asyncio.ensure_future(behaviour(asked, writer))
        leaving = asyncio.ensure_future(_left(reader))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise _Ended
            await answering
        finally:
            for part in (answering, leaving):
                part.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, is_true: Callable[[], bool], timeout_seconds: float) -> None:
        async with asyncio.timeout(timeout_seconds), self._changed:
            await self._changed.wait_for(is_true)


def reset_connection(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, throwing away what is under way."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


async def _read(reader: asyncio.StreamReader, connection: int) -> Asked:
    """Read one request; its body has a Content-Length or is chunked.

    Raises:
        asyncio.IncompleteReadError: The caller has left.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.strip().split("\r\n")
    method, path, _ = line.split(" ")
    pairs = (line.partition(":")[::2] for line in lines)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body, connection)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


async def _left(reader: asyncio.StreamReader) -> None:
    """Return once the caller has closed the connection; what it sends meanwhile stays unread."""
    while not reader.at_eof() and reader.exception() is None:
        # asyncio has no event for it that takes no bytes; a test reads this in fractions of it.
        await asyncio.sleep(0.02)


async def _byte_by_byte(content: bytes, writer: asyncio.StreamWriter) -> None:
    for position in range(len(content)):
        writer.write(content[position : position + 1])
        await writer.drain()
        await asyncio.sleep(1)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    fields = {"content-type": "application/json", **headers}
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _bytes_of(body: object) -> bytes:
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def _bare(path: str) -> str:
    return path.partition("?")[0]


@functools.cache
def _bomb() -> bytes:
    return gzip.compress(b" " * _BOMB_BYTES)


# In a process of its own -------------------------------------------------------------------------


class _Everything(FaultUpstream):
    """Has every behaviour at a path of its name, without being told."""

    def __init__(self, *, port: int) -> None:
        super().__init__(port=port)
        self._behaviours = {
            "/counts": self._counts,
            "/echo": echo(),
            **{f"/{name}": fault for name, fault in {**FAULTS, **MORE_FAULTS}.items()},
        }

    async def _behave(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        path = _bare(asked.path)
        if path.startswith("/echo/") and path not in self._behaviours:
            self.on(path, echo(delay_seconds=int(path.removeprefix("/echo/")) / 1000))
        await super()._behave(asked, reader, writer)

    async def _counts(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        counts = Counter(_bare(asked.path) for asked in self.requests)
        most = {"most_in_flight": self.most_in_flight, "connections": self.connection_count}
        await answer({"counts": counts, **most})(asked, writer)


async def _run(port: int) -> None:
    async with _Everything(port=port) as upstream:
        print(upstream.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(int(sys.argv[1])))
