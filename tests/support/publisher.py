"""Publish through the server API and keep the publisher's log that the checker wants.

``try`` is noted before a publication is sent, then ``ok``, ``fail`` (a definite refusal: it must
not appear) or ``unknown`` (no answer: it may).
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from typing import IO, Any

import aiohttp

from tests.support import world
from tests.support.event_log import EventLog


class ApiError(Exception):
    """The API answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code = error["code"]


class Api:
    """The server API of one instance, over one HTTP session."""

    def __init__(self, url: str, *, key: str = world.API_KEY) -> None:
        self.url = url
        self._session = aiohttp.ClientSession(
            headers={"X-API-Key": key}, timeout=aiohttp.ClientTimeout(total=15)
        )

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(self, method: str, /, **params: Any) -> dict[str, Any]:
        """Return the result of a method.

        Raises:
            ApiError: The answer is an error.
            aiohttp.ClientError: There was no answer, or it was no 200.
        """
        answer = json.loads(await self.post(method, json.dumps(params)))
        if "error" in answer:
            raise ApiError(answer["error"])
        return answer if "replies" in answer else answer["result"]

    async def post(self, method: str, body: str | bytes) -> str:
        """Return the body of a 200."""
        async with self._session.post(f"{self.url}/api/{method}", data=body) as response:
            response.raise_for_status()
            return await response.text()

    async def status(self, method: str, body: str | bytes | IO[bytes]) -> tuple[int, str]:
        """Return status and body, whatever they are."""
        async with self._session.post(f"{self.url}/api/{method}", data=body) as response:
            return response.status, await response.text()


class Publisher:
    """Numbers publications and sends them in order, one batch after the other.

    Args:
        apis: The instances to publish through, in turn.
    """

    def __init__(self, *apis: Api, who: str = "publisher") -> None:
        self.log = EventLog(who)
        self._apis = itertools.cycle(apis)
        self._numbers = itertools.count(1)

    async def publish(self, *channels: str) -> list[dict[str, Any]]:
        """Publish once to each channel, in one request; return the events noted."""
        items = [self._try(channel) for channel in channels]
        commands = [
            {"publish": {"channel": e["channel"], "data": {"id": e["id"], "n": e["n"]}}}
            for e in items
        ]
        try:
            replies = (await next(self._apis).call("batch", commands=commands))["replies"]
        except (aiohttp.ClientError, TimeoutError, OSError):
            return [self._note("unknown", item) for item in items]
        return [self._answered(*pair) for pair in zip(items, replies, strict=True)]

    async def run(
        self,
        channels: Sequence[str],
        *,
        per_second: float,
        count: int | None = None,
        seconds: float | None = None,
        batch: int = 1,
        on_batch: Callable[[int], None] | None = None,
    ) -> float:
        """Publish round robin at a steady rate; a late batch is followed by the next at once.

        Returns:
            The rate that was reached, publications a second.
        """
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        names = itertools.cycle(channels)
        sent = 0
        while (count is None or sent < count) and (
            seconds is None or loop.time() - started_at < seconds
        ):
            size = batch if count is None else min(batch, count - sent)
            await self.publish(*itertools.islice(names, size))
            sent += size
            if on_batch is not None:
                on_batch(sent)
            await asyncio.sleep(max(0.0, started_at + sent / per_second - loop.time()))
        return sent / (loop.time() - started_at)

    def _try(self, channel: str) -> dict[str, Any]:
        number = next(self._numbers)
        return self.log.add("try", channel=channel, id=f"{self.log.who}-{number}", n=number)

    def _answered(self, item: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
        if "publish" in reply:
            result = reply["publish"]
            return self._note(
                "ok", item, offset=result.get("offset", 0), epoch=result.get("epoch", "")
            )
        # 100 is "something went wrong": Redis may or may not have stored it.
        kind = "unknown" if reply["error"]["code"] == 100 else "fail"
        return self._note(kind, item, code=reply["error"]["code"])

    def _note(self, kind: str, item: dict[str, Any], **fields: Any) -> dict[str, Any]:
        return self.log.add(kind, channel=item["channel"], id=item["id"], n=item["n"], **fields)
