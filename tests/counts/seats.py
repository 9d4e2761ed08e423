"""Many connections of one process, as cheap as sockets are: what they cost is to be counted."""

import base64
import json
import os
import selectors
import socket
import time
from types import TracebackType

from tests.support.servers import token

WAIT_SECONDS = 20.0
TOGETHER = 20  # handshakes under way at once, few enough for any backlog


def frame(payload: bytes) -> bytes:
    """Return a client's text frame; its mask is zero, which leaves the payload as it is."""
    length = len(payload)
    head = bytes([0x81, 0x80 | length]) if length < 126 else b"\x81\xfe" + length.to_bytes(2, "big")
    return head + bytes(4) + payload


class Seats:
    """Connections that are authenticated and subscribed to one channel."""

    def __init__(self, port: int, channel: str) -> None:
        self._port = port
        self._channel = channel
        self.sockets: list[socket.socket] = []

    def __enter__(self) -> "Seats":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self.sockets:
            each.close()

    def add(self, count: int) -> None:
        """Open so many more, each for a user of its own; return once all are subscribed."""
        for start in range(0, count, TOGETHER):
            some = [self._dial() for _ in range(min(TOGETHER, count - start))]
            wait_for(some, b"\r\n\r\n")
            for each in some:
                self._introduce(each)
            wait_for(some, b'"subscribe":')
            self.sockets += some

    def _dial(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self._port), timeout=WAIT_SECONDS)
        key = base64.b64encode(os.urandom(16)).decode()
        made.sendall(
            f"GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        return made

    def _introduce(self, made: socket.socket) -> None:
        user = f"user{made.fileno()}-{time.monotonic_ns()}"
        commands = (
            {"id": 1, "connect": {"token": token(user, exp=int(time.time()) + 3600)}},
            {"id": 2, "subscribe": {"channel": self._channel}},
        )
        made.sendall(frame("\n".join(map(json.dumps, commands)).encode()))


def wait_for(sockets: list[socket.socket], wanted: bytes, *, count: int = 1) -> None:
    """Read from each until something has come so often.

    Raises:
        TimeoutError: It has not, on some of them.
        ConnectionError: The server closed one of them.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ, bytearray())
        left = len(sockets)
        while left:
            ready = selector.select(deadline - time.monotonic())
            if not ready:
                raise TimeoutError(f"{left} of {len(sockets)} still wait for {wanted!r}")
            for key, _ in ready:
                received = key.fileobj.recv(65536)
                if not received:
                    raise ConnectionError(f"closed: {bytes(key.data)!r}")
                key.data.extend(received)
                if key.data.count(wanted) >= count:
                    selector.unregister(key.fileobj)
                    left -= 1
