"""One WebSocket of the driver: opens, subscribes, counts what it receives."""

import socket
from collections.abc import Callable
from time import monotonic_ns

from bench.client import frames
from bench.client.tally import Tally
from bench.peers.base import Resume, Seat, Wire, client_frame

CHUNK_BYTES = 65536
LINGER_NOT = b"\1\0\0\0\0\0\0\0"  # struct linger {1, 0}: close() resets, nothing stays in TIME_WAIT

NEW, UPGRADING, SUBSCRIBING, OPEN, CLOSED = range(5)


class Reader:
    """A connection at its seat.

    Attributes:
        expected: Number of the next publication; 0 takes whichever comes first.
        received: Publications after the frame that said "subscribed".
        close_code: That of the close frame; 0 where there was none.
    """

    __slots__ = (
        "_forget", "_handshake", "_opening", "_tally", "_wire", "buffer", "close_code", "expected",
        "last", "ready", "received", "seat", "sock", "started_at_ns", "state",
    )  # fmt: skip

    def __init__(
        self,
        seat: Seat,
        wire: Wire,
        tally: Tally,
        *,
        forget: Callable[[socket.socket], None],
        resume: Resume | None = None,
        expected: int = 0,
    ) -> None:
        self.seat = seat
        self.expected = expected
        self.received = 0
        self.ready = self.last = self.buffer = b""
        self.close_code = 0
        self.state = NEW
        self._wire = wire
        self._tally = tally
        self._forget = forget
        self._handshake = wire.handshake(seat, resume)
        self._opening = wire.opening(seat, resume)

    def start(self, address: tuple[str, int], *, receive_buffer_bytes: int = 0) -> socket.socket:
        """Connect and ask for the upgrade; return the socket to watch."""
        self.sock = sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        _bind(sock, self.seat.index)
        sock.settimeout(10)
        self.started_at_ns = monotonic_ns()
        sock.connect(address)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.send(self._handshake)
        self.state = UPGRADING
        self._tally.opening += 1
        return sock

    def on_readable(self) -> None:
        try:
            data = self.sock.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended()
        elif self.state == OPEN and not self.buffer:
            self._deliver(data, monotonic_ns())
        else:
            self._advance(data)

    def resume(self) -> Resume:
        """Return what this connection would come back with."""
        return Resume(self.ready, self.received, self.last)

    def close(self) -> None:
        """Cut the connection, as a network would."""
        if self.state in (NEW, CLOSED):
            return
        if self.state != OPEN:
            self._tally.opening -= 1
        self._drop()

    # -- open: the hot path ---------------------------------------------------------------------

    def _deliver(self, data: bytes, now_ns: int) -> None:
        tally = self._tally
        if data != tally.chunk:
            found = frames.stamps(data) if frames.is_one_message(data) else []
            if not found or self._has_ping(frames.split(data)[0][0][1]):
                self._take(data)
                return
            tally.chunk, tally.stamps = data, found
        self._count(tally.stamps, now_ns)
        if self._wire.keeps_last_frame:
            self.last = frames.split(data)[0][-1][1]

    def _count(self, stamps: list[frames.Stamp], now_ns: int) -> None:
        tally = self._tally
        for number, sent_at_ns in stamps:
            if number == self.expected or not self.expected:
                self.expected = number + 1
            else:
                self.expected = tally.misplaced(self.expected, number)
            tally.latencies_ns.append(now_ns - sent_at_ns)
        self.received += len(stamps)
        tally.delivered += len(stamps)
        tally.last_at_ns = now_ns

    # -- everything else ------------------------------------------------------------------------

    def _advance(self, data: bytes) -> None:
        if self.state != UPGRADING:
            self._take(data)
            return
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        self.buffer = b""
        status = head.partition(b"\r\n")[0].decode("latin-1")
        if " 101 " not in f"{status} ":
            self._fail(status)
            return
        if self._opening:
            self.sock.send(self._opening)
        self.state = SUBSCRIBING
        if self._wire.ready_marker is None:
            self._is_ready(b"")
        if rest:
            self._take(rest)

    def _take(self, data: bytes) -> None:
        whole, self.buffer = frames.split(self.buffer + data)
        for opcode, payload in whole:
            if self.state == CLOSED:
                return
            if opcode in (frames.TEXT, frames.BINARY):
                self._message(payload)
            elif opcode == frames.PING:
                self.sock.send(client_frame(payload, opcode=frames.PONG))
            elif opcode == frames.CLOSE:
                self.close_code = int.from_bytes(payload[:2], "big")

    def _message(self, payload: bytes) -> None:
        wire = self._wire
        if self._has_ping(payload):
            self.sock.send(client_frame(wire.pong))
        if self.state == SUBSCRIBING:
            if wire.ready_marker is not None and wire.ready_marker in payload:
                self._is_ready(payload)
                self._count(frames.stamps(payload), monotonic_ns())
                self.received = 0  # those are before the position that the frame tells
            elif wire.error_marker is not None and wire.error_marker in payload:
                self._fail(payload[:200].decode(errors="replace"))
            return
        if found := frames.stamps(payload):
            self._count(found, monotonic_ns())
            if wire.keeps_last_frame:
                self.last = payload
        elif wire.error_marker is not None and wire.error_marker in payload:
            self._tally.failures[payload[:200].decode(errors="replace")] += 1

    def _has_ping(self, payload: bytes) -> bool:
        """Tell whether the application pings, perhaps on a line behind a publication."""
        return self._wire.ping is not None and self._wire.ping in payload.split(b"\n")

    def _is_ready(self, payload: bytes) -> None:
        self.state = OPEN
        self.ready = payload
        tally = self._tally
        tally.opening -= 1
        tally.opened += 1
        tally.opening_times_ns.append(monotonic_ns() - self.started_at_ns)

    def _fail(self, why: str) -> None:
        self._tally.opening -= 1
        self._tally.failed += 1
        self._tally.failures[why] += 1
        self._drop()

    def _ended(self) -> None:
        if self.state == OPEN:
            self._tally.closed += 1
            self._tally.failures[f"closed by the server, code {self.close_code or 'none'}"] += 1
            self._drop()
        else:
            self._fail(f"closed while opening, code {self.close_code or 'none'}")

    def _drop(self) -> None:
        self.state = CLOSED
        self._forget(self.sock)
        self.sock.close()


# A port of the client is free once for each address: beyond some thousands another one is taken.
SEATS_PER_ADDRESS = 8000
_IP_BIND_ADDRESS_NO_PORT = 24


def _bind(sock: socket.socket, index: int) -> None:
    if index >= SEATS_PER_ADDRESS:
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{1 + index // SEATS_PER_ADDRESS}", 0))
