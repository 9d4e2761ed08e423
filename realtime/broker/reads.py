"""One read of a stream for all who recover a channel at the same time.

After a restart thousands of clients come back to the same channels at once. Each must read after
it began to listen, so a read in progress is never joined: the callers that come meanwhile share
the next one.
"""

import asyncio

from realtime.broker.broker import Broker
from realtime.recovery import History


class _Batch:
    """Callers that wait for the same read; open until it begins."""

    __slots__ = ("after_offset", "is_open", "limit", "task")

    def __init__(self) -> None:
        self.after_offset: int | None = None
        self.limit = 0
        self.is_open = True
        self.task: asyncio.Task[History]

    def include(self, after_offset: int | None, limit: int) -> None:
        """Reach as far back as one more caller needs."""
        if after_offset is not None:
            lowest = self.after_offset
            self.after_offset = after_offset if lowest is None else min(lowest, after_offset)
            self.limit = max(self.limit, limit)


class SharedReads:
    """Reads of the newest publications, at most one at a time per channel."""

    def __init__(self, broker: Broker, *, limit: int) -> None:
        self._broker = broker
        self._limit = limit
        self._last: dict[str, _Batch] = {}

    async def read(
        self, channel: str, *, after_offset: int | None, limit: int | None = None
    ) -> History:
        """Return the stream's top and its newest publications, begun after this call.

        Args:
            channel: Whose stream.
            after_offset: The caller needs what follows it; None if the top is enough. It may get
                older ones as well.
            limit: How many of the newest it needs; None for the most that a recovery gives.
        Raises:
            BrokerUnavailable: No answer within the deadline.
        """
        batch = self._last.get(channel)
        if batch is None or not batch.is_open:
            before, batch = batch, _Batch()
            self._last[channel] = batch
            batch.task = asyncio.create_task(
                self._read(channel, batch, before), name="shared history read"
            )
            batch.task.add_done_callback(_look_at_failure)
        batch.include(after_offset, self._limit if limit is None else limit)
        # One caller that leaves must not take the read away from the others.
        return await asyncio.shield(batch.task)

    async def _read(self, channel: str, batch: _Batch, before: _Batch | None) -> History:
        try:
            if before is not None:
                await asyncio.wait([before.task])
            batch.is_open = False
            return await self._broker.newest(
                channel, after_offset=batch.after_offset or 0, limit=batch.limit
            )
        finally:
            if self._last.get(channel) is batch:
                del self._last[channel]


def _look_at_failure(task: asyncio.Task[History]) -> None:
    """Let asyncio not complain of a failure that every caller had left before."""
    if not task.cancelled():
        task.exception()
