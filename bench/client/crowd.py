"""The driver: many Readers, what publishes to them, and the loop that serves both.

Runs in the process of the benchmark, which is pinned to a core of its own.
"""

from __future__ import annotations

import gc
import select
import socket
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from bench.client import frames
from bench.client.http_line import HttpLine
from bench.client.reader import CHUNK_BYTES, OPEN, Reader
from bench.client.tally import Tally
from bench.peers.base import Resume, Running, Seat, Wire, client_frame, payload

IN_FLIGHT = 100  # connections that open at the same time
HTTP_LINES = 4  # publications of one channel always take the same one, so that they keep order
FLUSH_SECONDS = 5.0


class Watched(Protocol):
    """What the loop calls when a socket can be read."""

    def on_readable(self) -> None: ...


@dataclass(frozen=True)
class Storm:
    """How many connections opened at once."""

    seconds: float
    opened: int
    failed: int


class Crowd:
    """All connections of one scenario; a context manager that cuts them at the end."""

    def __init__(self, running: Running, wire: Wire) -> None:
        self.wire = wire
        self.tally = Tally()
        self.readers: list[Reader] = []
        self.numbers: dict[str, int] = {}  # of each channel, the next publication's
        self._running = running
        self._watched: dict[int, Watched] = {}
        self._epoll = select.epoll()
        self._lines: list[HttpLine] = []
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for reader in self.readers:
            reader.close()
        for each in (*self._lines, *self._sockets):
            each.close()
        self._epoll.close()

    # -- the loop ---------------------------------------------------------------------------------

    def turn(self, seconds: float) -> None:
        """Serve what can be read; wait for that no longer than ``seconds``."""
        watched = self._watched
        for fd, _ in self._epoll.poll(seconds):
            if (found := watched.get(fd)) is not None:
                found.on_readable()

    def rest(self, seconds: float) -> None:
        """Serve for some time: answer pings, take what comes."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.turn(left)

    def rest_until_ns(self, moment_ns: int) -> None:
        """Serve until a moment of CLOCK_MONOTONIC."""
        self.rest((moment_ns - time.monotonic_ns()) / 1e9)

    def wait_delivered(self, count: int, seconds: float) -> bool:
        """Serve until ``count`` publications have arrived; False: they have not, in time."""
        until = time.monotonic() + seconds
        while self.tally.delivered < count:
            if time.monotonic() > until:
                return False
            self.turn(0.1)
        return True

    def watch(self, sock: socket.socket, watched: Watched) -> None:
        self._watched[sock.fileno()] = watched
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def forget(self, sock: socket.socket) -> None:
        """Stop serving a socket, which may then be closed, or stay unread."""
        if self._watched.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())

    # -- connections ------------------------------------------------------------------------------

    def prepare(
        self, seats: Iterable[Seat], resumes: Sequence[Reader] | None = None, *, first: bool = False
    ) -> list[Reader]:
        """Make readers that can be opened: tokens, frames and everything else that takes time.

        ``resumes`` are the former connections of the same seats. With ``first`` a reader takes
        whichever publication comes first as the one that it expected.
        """
        made = []
        for index, seat in enumerate(seats):
            former = resumes[index] if resumes is not None else None
            if former is not None:
                resume: Resume | None = former.resume()
                expected = former.expected
            else:
                resume, expected = None, 0 if first else self.numbers.get(seat.channel, 1)
            made.append(
                Reader(
                    seat, self.wire, self.tally, forget=self.forget, resume=resume,
                    expected=expected,
                )
            )  # fmt: skip
        return made

    def open(
        self,
        readers: Sequence[Reader],
        *,
        in_flight: int = IN_FLIGHT,
        limit_seconds: float = 60.0,
        receive_buffer_bytes: int = 0,
    ) -> Storm:
        """Open readers, so many at a time; those not open after ``limit_seconds`` have failed."""
        _freeze()
        tally = self.tally
        opened, failed = tally.opened, tally.failed
        began = time.monotonic()
        until = began + limit_seconds
        for reader in readers:
            while tally.opening >= in_flight and time.monotonic() < until:
                self.turn(0.1)
            if time.monotonic() > until:
                break
            self._start(reader, receive_buffer_bytes)
        while tally.opening and time.monotonic() < until:
            self.turn(0.1)
        seconds = time.monotonic() - began
        self.readers += readers
        late = len(readers) - (tally.opened - opened) - (tally.failed - failed)
        if late:
            tally.failures["not open in time"] += late
        return Storm(seconds, tally.opened - opened, tally.failed - failed + late)

    def start(self, reader: Reader) -> None:
        """Begin to open one reader, and come back."""
        self._start(reader, 0)
        self.readers.append(reader)

    def cut(self) -> list[Reader]:
        """Cut every connection; return the readers."""
        gone, self.readers = self.readers, []
        for reader in gone:
            reader.close()
        return gone

    def tokens(self, indices: Iterable[int]) -> list[str]:
        return [self.wire.token(index) for index in indices]

    def missing(self) -> int:
        """Return how many publications open readers still wait for."""
        return sum(
            self.numbers.get(reader.seat.channel, 1) - reader.expected
            for reader in self.readers
            if reader.state == OPEN and reader.expected
        )

    def settle(self, seconds: float = FLUSH_SECONDS) -> int:
        """Wait until nothing is missing any more; return what is missing all the same."""
        until = time.monotonic() + seconds
        while (missing := self.missing()) and time.monotonic() < until:
            self.turn(0.1)
        return missing

    def _start(self, reader: Reader, receive_buffer_bytes: int) -> None:
        ports = self._running.ports
        address = (self._running.host, ports[reader.seat.index % len(ports)])
        sock = reader.start(address, receive_buffer_bytes=receive_buffer_bytes)
        self.watch(sock, reader)

    # -- publishing -------------------------------------------------------------------------------

    def open_controls(self) -> None:
        """Open the connections that publish."""
        for port in self._running.ports:
            address = (self._running.host, port)
            if self.wire.control == "http":
                self._lines += [self.line(address) for _ in range(HTTP_LINES)]
            else:
                self._sockets.append(self._control_socket(address))

    def line(self, address: tuple[str, int] | None = None) -> HttpLine:
        """Return a new HTTP connection, which the caller closes."""
        return HttpLine(address or (self._running.host, self._running.ports[0]), self)

    def publish(self, channel: str, *, padding: bytes = b"") -> int:
        """Publish the next publication of a channel; return when that was, in nanoseconds."""
        number = self.numbers.get(channel, 1)
        self.numbers[channel] = number + 1
        now_ns = time.monotonic_ns()
        data = payload(number, now_ns, padding)
        request = self.wire.publish(channel, data)
        if self._lines:
            # Several ports have one line group each; every group gets it.
            at = zlib.crc32(channel.encode()) % HTTP_LINES
            for line in self._lines[at::HTTP_LINES]:
                line.send(request)
        for sock in self._sockets:
            sock.sendall(request)
        return now_ns

    def _control_socket(self, address: tuple[str, int]) -> socket.socket:
        sock = socket.create_connection(address, timeout=10)
        sock.sendall(self.wire.control_handshake())
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = sock.recv(CHUNK_BYTES)
            if not chunk:
                raise ConnectionError(f"no connection to publish with: {head[:200]!r}")
            head += chunk
        self.watch(sock, _Drain(sock))
        return sock


class _Drain:
    """Reads what comes on a connection that only publishes: answers pings, drops all else."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""

    def on_readable(self) -> None:
        data = self._sock.recv(CHUNK_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection that publishes")
        whole, self._rest = frames.split(self._rest + data)
        for opcode, content in whole:
            if opcode == frames.PING:
                self._sock.sendall(client_frame(content, opcode=frames.PONG))


def _freeze() -> None:
    """Keep the driver's garbage collector from looking at thousands of readers."""
    gc.collect()
    gc.freeze()
