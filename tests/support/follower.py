"""A raw client that stays: it reconnects and recovers as an SDK does, and logs as the raw one.

The SDKs' own way back has pauses of up to 20 s and hides frames; the fault tests want to see when
the *server* is well again, and every frame on the way there.
"""

import asyncio
import contextlib

from websockets.exceptions import WebSocketException

from tests.support.event_log import EventLog
from tests.support.raw_client import Closed, CommandError, RawClient
from tests.support.servers import token

_PAUSE_SECONDS = 0.1
_CALM_ERRORS = (OSError, WebSocketException, Closed, CommandError, TimeoutError)


class Follower:
    """Follows one channel for as long as it is entered.

    Args:
        url: Address of the WebSocket; may be changed, and holds from the next connection on.
        asks: Fields of the subscribe command besides the position.
    """

    def __init__(
        self, url: str, channel: str, *, who: str, user: str = "ada", **asks: object
    ) -> None:
        self.client = RawClient(url, who=who)
        self.channel = channel
        self.user = user
        self.asks = asks
        self._task: asyncio.Task[None] | None = None

    @property
    def log(self) -> EventLog:
        return self.client.log

    async def __aenter__(self) -> "Follower":
        self._task = asyncio.create_task(self._follow(), name=f"follow {self.log.who}")
        await self.log.wait("subscribed")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.client.close()

    def names(self) -> list[str]:
        """Return the ids of what it saw, in order."""
        return [event["id"] for event in self.log.published(self.channel)]

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(*_CALM_ERRORS):
                await self.client.close()
                await self.client.connect(token(self.user))
                await self._stay()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _stay(self) -> None:
        """Keep subscribed until the connection ends."""
        while True:
            after = len(self.log.events)
            await self._subscribe()
            ending = await self.log.until(
                lambda after=after: next(
                    (e for e in self.log.events[after:] if e["event"] in ("unsub", "close")), None
                ),
                timeout_seconds=3600,
            )
            if ending["event"] == "close":
                return

    async def _subscribe(self) -> None:
        while True:
            try:
                if self.channel in self.client.positions:
                    await self.client.recover(self.channel, **self.asks)
                else:
                    await self.client.subscribe(self.channel, **self.asks)
                return
            except CommandError as error:
                # Temporary: Redis is away, and the connection is meant to outlive that.
                if not error.temporary:
                    raise
                self.log.add("sub_error", channel=self.channel, code=error.code)
                await asyncio.sleep(_PAUSE_SECONDS)
