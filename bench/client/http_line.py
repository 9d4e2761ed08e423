"""One HTTP connection that stays open, and carries one request at a time."""

import socket
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Protocol

from bench.client.reader import CHUNK_BYTES, LINGER_NOT


class HttpFailed(Exception):
    """A request was not answered with 200, or the connection ended."""


class Loop(Protocol):
    """What tells a line that there is something to read."""

    def watch(self, sock: socket.socket, watched: "HttpLine") -> None: ...

    def forget(self, sock: socket.socket) -> None: ...


class HttpLine:
    """Requests wait in line for the answer to the one before.

    It connects with the first request, and again with the next one if the server has closed the
    connection while it was idle, which every server does after some time.

    Attributes:
        answered: Number of answers; ``on_answer`` is called with its body and how long it took.
    """

    def __init__(self, address: tuple[str, int], loop: Loop) -> None:
        self.answered = 0
        self._address = address
        self._loop = loop
        self._sock: socket.socket | None = None
        self.on_answer: Callable[[bytes, int], None] | None = None
        self._waiting: deque[bytes] = deque()
        self._sent_at_ns = 0
        self._buffer = b""

    @property
    def is_idle(self) -> bool:
        return not self._sent_at_ns

    def send(self, request: bytes) -> None:
        if self._sent_at_ns:
            self._waiting.append(request)
            return
        self._sent_at_ns = monotonic_ns()
        self._write(request)

    def on_readable(self) -> None:
        assert self._sock is not None, "only a connected line is watched"
        try:
            data = self._sock.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            if not self.is_idle:
                raise HttpFailed("the server closed the connection instead of answering")
            return
        self._buffer += data
        body = _body(self._buffer)
        if body is None:
            return
        if not self._buffer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201", b"HTTP/1.1 202")):
            raise HttpFailed(self._buffer[:300].decode(errors="replace"))
        self._buffer = b""
        self.answered += 1
        took_ns = monotonic_ns() - self._sent_at_ns
        self._sent_at_ns = 0
        if self._waiting:
            self.send(self._waiting.popleft())
        if self.on_answer is not None:
            self.on_answer(body, took_ns)

    def close(self) -> None:
        if self._sock is not None:
            self._loop.forget(self._sock)
            self._sock.close()
            self._sock = None

    def _write(self, request: bytes) -> None:
        if self._sock is None:
            self._sock = self._connected()
        # A batch of a hundred fits into the socket's buffer many times.
        if self._sock.send(request) != len(request):
            raise HttpFailed("a request did not fit into the socket's buffer")

    def _connected(self) -> socket.socket:
        sock = socket.create_connection(self._address, timeout=10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)
        sock.setblocking(False)
        self._loop.watch(sock, self)
        return sock


def _body(answer: bytes) -> bytes | None:
    """Return the body of an answer that is complete."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return None
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return body if len(body) >= int(value) else None
        if name == b"transfer-encoding" and b"chunked" in value:
            return body if body.endswith(b"0\r\n\r\n") else None
    return body
