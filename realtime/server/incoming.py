"""What a client sent and the application has not read yet.

Made by the protocol, one per connection; read by the application as ASGI's ``receive``.
"""

import asyncio
from typing import Any, Final, Protocol

MESSAGES_MAX: Final = 64
MAX_BYTES: Final = 128 * 1024


class Reading(Protocol):
    """What is asked of a transport."""

    def pauseProducing(self) -> None:
        """Read nothing more from the socket."""

    def resumeProducing(self) -> None:
        """Read on."""


class Incoming:
    """A queue with one reader; while it is full, the socket is not read.

    So a client that sends faster than it is served is slowed down by TCP, and costs a bound: what
    is here, and what was read with it at once. It is resumed when half of that is done.
    """

    __slots__ = ("_bytes", "_is_paused", "_messages", "_transport", "_waiter")

    def __init__(self, transport: Reading) -> None:
        self._transport = transport
        self._messages: list[dict[str, Any]] = []
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._is_paused = False

    def put(self, message: dict[str, Any]) -> None:
        """Queue a message."""
        self._messages.append(message)
        self._bytes += _size_of(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        is_full = len(self._messages) >= MESSAGES_MAX or self._bytes >= MAX_BYTES
        if is_full and not self._is_paused:
            self._is_paused = True
            self._transport.pauseProducing()

    async def get(self) -> dict[str, Any]:
        """Return the next message, as soon as there is one."""
        while not self._messages:
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            await waiter
            self._waiter = None
        message = self._messages.pop(0)
        self._bytes -= _size_of(message)
        if (
            self._is_paused
            and len(self._messages) <= MESSAGES_MAX // 2
            and self._bytes <= MAX_BYTES // 2
        ):
            self.resume()
        return message

    def resume(self) -> None:
        """Let the socket be read again, whatever waits."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resumeProducing()


def _size_of(message: dict[str, Any]) -> int:
    return len(message.get("text") or message.get("bytes") or "")
