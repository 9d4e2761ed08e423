"""Every data source of this instance: which there are, and who of them is watched.

A job of each instance. One look a second at the snapshot, and one question to Redis for all
channels; without sources no question at all.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from realtime import services
from realtime.protocol.errors import InternalError
from upstreams import configuration as upstream_configuration
from upstreams.sources import configuration
from upstreams.sources.polling import Polling
from upstreams.sources.records import Records

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0


async def run() -> None:
    """Poll what is configured until cancelled."""
    await Poller().run()


class Poller:
    """The sources of one instance, each with a task of its own."""

    def __init__(self) -> None:
        self._records = Records()
        self._running: dict[int, tuple[Polling, asyncio.Task[None]]] = {}
        self._parts: Mapping[str, Any] | None = None

    async def run(self) -> None:
        """Look again each second; in the end others may poll at once."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._records.keep_writing(), name="records of data sources")
                while True:
                    await self._look(tasks)
                    await asyncio.sleep(TICK_SECONDS)
        finally:
            await _give_back([polling for polling, _ in self._running.values()])

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        try:
            parts = (await services.asnapshot()).parts
        except InternalError:
            return  # the database has not answered yet
        if parts is not self._parts:
            await self._take_over(parts, tasks)
            self._parts = parts
        await self._look_for_viewers()

    async def _take_over(self, parts: Mapping[str, Any], tasks: asyncio.TaskGroup) -> None:
        """Run what is configured now, and nothing else."""
        upstreams = upstream_configuration.of(parts).upstreams
        sources = {
            key: source
            for key, source in configuration.of(parts).items()
            if source.upstream_id in upstreams
        }
        old = {key: each for key, (each, _) in self._running.items()}
        ended = {key: each for key, each in old.items() if each.source != sources.get(key)}
        await self._end(list(ended))
        for key, source in sources.items():
            upstream = upstreams[source.upstream_id]
            if key not in self._running:
                polling = Polling(source, upstream, self._records)
                task = tasks.create_task(polling.run(), name=f"data source {source.name}")
                self._running[key] = (polling, task)
            polling, _ = self._running[key]
            polling.upstream = upstream
            polling.see_asked(source.poll_asked_at)
        await self._retire(list(ended.values()))

    async def _retire(self, ended: list[Polling]) -> None:
        """Have viewers told of what nobody does any more; not where only a setting changed."""
        running = [polling for polling, _ in self._running.values()]
        works = {each.lease_name for each in running}
        channels = {channel for each in running for channel, _ in each.source.mappings}
        gone = [each for each in ended if each.lease_name not in works]
        await asyncio.gather(*(each.retire(but=channels) for each in gone))

    async def _end(self, keys: list[int]) -> None:
        ended = [self._running.pop(key) for key in keys]
        if not ended:
            return
        for _, task in ended:
            task.cancel()
        await asyncio.wait([task for _, task in ended])
        await _give_back([polling for polling, _ in ended])
        for key in keys:
            self._records.forget(key)

    async def _look_for_viewers(self) -> None:
        channels = {
            channel: polling
            for polling, _ in self._running.values()
            if polling.source.only_while_watched
            for channel, _ in polling.source.mappings
        }
        if not channels:
            return
        seen: dict[Polling, list[bool | None]] = {}
        answers = await services.awatched(list(channels))
        for polling, is_watched in zip(channels.values(), answers, strict=True):
            seen.setdefault(polling, []).append(is_watched)
        for polling, watched in seen.items():
            # Of a channel whose server does not answer nothing is known.
            polling.see_watched(True if any(watched) else None if None in watched else False)


async def _give_back(ended: list[Polling]) -> None:
    held = [(polling.lease_name, polling.owner) for polling in ended if polling.is_leading]
    if held:
        await services.agive_back_leases(held)
