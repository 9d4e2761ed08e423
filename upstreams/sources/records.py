"""How sources are doing, for the admin: written to the database now and then, by a thread.

Noted by ``polling.py`` after each poll; goes without where the database fails.
"""

import asyncio
import logging
import os
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError
from django.db import close_old_connections, transaction

from upstreams.models import DataSource, DataSourceState

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.5
# A source that is as it was is written so often at most; a change is written at once.
SPACING_SECONDS: Final = 5.0
_ERROR_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Record:
    """How one poll went, and what has become of its value since.

    Attributes:
        error: Why there is no value for some channel; empty if there is one for all.
        answered_at: When this poller had the last value; None if it never had one.
        is_asked: Whether somebody asked for the poll and looks for what became of it.
    """

    state: str
    error: str
    polled_at: datetime
    latency_seconds: float
    answered_at: datetime | None = None
    is_asked: bool = False


class Records:
    """The newest record of each source that this instance polls, until it is written."""

    def __init__(self) -> None:
        self._pending: dict[int, Record] = {}
        self._written: dict[int, tuple[str, str, float]] = {}
        self._was_failing = False

    def note(self, source_id: int, record: Record) -> None:
        """Have it written soon, if it is news."""
        self._pending[source_id] = record

    def forget(self, source_id: int) -> None:
        """Write nothing more of a source."""
        self._pending.pop(source_id, None)
        self._written.pop(source_id, None)

    async def keep_writing(self) -> None:
        """Write what is due, for as long as this is not cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            due = {key: each for key, each in self._pending.items() if self._is_due(key, each)}
            if due:
                await self._write(due)

    def _is_due(self, source_id: int, record: Record) -> bool:
        state, error, at = self._written.get(source_id, ("", "", 0.0))
        is_news = record.is_asked or (state, error) != (record.state, record.error)
        return is_news or time.monotonic() - at >= SPACING_SECONDS

    async def _write(self, due: dict[int, Record]) -> None:
        try:
            await sync_to_async(_write, thread_sensitive=False)(due)
        except DatabaseError as error:
            if not self._was_failing:
                logger.warning("how data sources are doing was not written: %s", error)
            self._was_failing = True
            return
        self._was_failing = False
        for source_id, record in due.items():
            self._written[source_id] = (record.state, record.error, time.monotonic())
            if self._pending.get(source_id) is record:
                del self._pending[source_id]


def _write(due: dict[int, Record]) -> None:
    close_old_connections()
    try:
        with transaction.atomic():
            # One that is deleted meanwhile has no row to write beside.
            for source_id in DataSource.objects.filter(pk__in=due).values_list("pk", flat=True):
                DataSourceState.objects.update_or_create(
                    source_id=source_id, defaults=_fields(due[source_id])
                )
    finally:
        close_old_connections()


def _fields(record: Record) -> dict[str, object]:
    fields: dict[str, object] = {
        "state": record.state,
        "error": record.error[:_ERROR_MAX],
        "polled_at": record.polled_at,
        "latency_seconds": record.latency_seconds,
        "instance": f"{socket.gethostname()}:{os.getpid()}"[-64:],
    }
    if record.answered_at is not None:  # a new poller knows of none
        fields["answered_at"] = record.answered_at
    return fields
