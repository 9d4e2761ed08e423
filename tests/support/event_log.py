"""What one client saw, in order, with monotonic times: kept to be checked, awaited and written.

Every kind of client writes the same words, so that a test and the checker read them alike:
``connected``, ``subscribed``, ``pub``, ``join``, ``leave``, ``unsub``, ``disconnect``, ``close``
and, from the raw client, ``frame``. A publisher writes ``try`` and then ``ok``, ``fail`` or
``unknown``.
"""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Event = dict[str, Any]
WAIT_SECONDS = 10.0


class EventLog:
    """The events of one client; ``who`` is its name in all of them."""

    def __init__(self, who: str) -> None:
        self.who = who
        self.events: list[Event] = []
        self._changed = asyncio.Event()

    def add(self, event: str, *, at: float | None = None, **fields: Any) -> Event:
        """Note an event, and wake who waits for it."""
        noted = {"t": time.monotonic() if at is None else at, "who": self.who, "event": event}
        noted.update(fields)
        self.events.append(noted)
        self._changed.set()
        return noted

    def of(self, event: str, **fields: Any) -> list[Event]:
        """Return the events of one kind whose fields have these values."""
        return [noted for noted in self.events if _matches(noted, event, fields)]

    async def wait(
        self,
        event: str,
        *,
        count: int = 1,
        after: int = 0,
        timeout_seconds: float = WAIT_SECONDS,
        **fields: Any,
    ) -> Event:
        """Return the ``count``-th matching event from the ``after``-th place of the log on.

        Raises:
            TimeoutError: It was not noted in time; the message shows the last events.
        """

        def find() -> Event | None:
            found = [e for e in self.events[after:] if _matches(e, event, fields)]
            return found[count - 1] if len(found) >= count else None

        return await self.until(
            find, timeout_seconds=timeout_seconds, what=f"{count} x {event} {fields}"
        )

    async def until(
        self, find: Callable[[], T | None], *, timeout_seconds: float = WAIT_SECONDS, what: str = ""
    ) -> T:
        """Return the first truthy answer of ``find``, asked again at every new event."""
        deadline = time.monotonic() + timeout_seconds
        while not (found := find()):
            self._changed.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError:
                raise TimeoutError(f"{self.who} waited for {what}; it saw {self.last()}") from None
        return found

    def last(self, count: int = 12) -> str:
        """Return the newest events as text, for messages."""
        return "\n".join(_line(event)[:300] for event in self.events[-count:])

    def published(self, channel: str) -> list[Event]:
        """Return the publications seen in a channel."""
        return self.of("pub", channel=channel)

    def write(self, path: Path) -> None:
        """Append all events to a file as JSON lines."""
        with path.open("a") as file:
            file.writelines(f"{_line(event)}\n" for event in self.events)


def _matches(noted: Event, event: str, fields: Event) -> bool:
    return noted["event"] == event and all(noted.get(k) == v for k, v in fields.items())


def _line(event: Event) -> str:
    return json.dumps(event, default=str)
