"""How upstreams are doing, for the log, the metrics and the admin: told when it changes.

Called by the client; writes to the database in a thread, and goes without where that fails.
"""

import asyncio
import logging
import os
import socket
from datetime import timedelta
from typing import Final, NamedTuple

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.utils import timezone

from upstreams import metrics

logger = logging.getLogger(__name__)

KEPT: Final = timedelta(days=1)
FAREWELL_SECONDS: Final = 2.0  # for the database, when this process ends


class _News(NamedTuple):
    name: str
    is_open: bool
    reason: str


_pending: dict[int, _News] = {}
_told: set[int] = set()
_writing: asyncio.Task[None] | None = None


def note(upstream_id: int, name: str, is_open: bool, reason: str) -> None:
    """Note that a breaker has opened or closed."""
    global _writing  # one after the other, or an older state could be written last
    metrics.BREAKER_OPEN.labels(name).set(is_open)
    if is_open:
        logger.warning("upstream %s fails (%s): it is not asked for a while", name, reason)
    else:
        logger.info("upstream %s answers again", name)
    _pending[upstream_id] = _News(name, is_open, reason)
    if _writing is None or _writing.done():
        loop = asyncio.get_running_loop()
        _writing = loop.create_task(_write_pending(), name="states of upstreams")


async def _write_pending() -> None:
    while _pending:
        upstream_id, news = _pending.popitem()
        try:
            await sync_to_async(_write, thread_sensitive=False)(upstream_id, news)
        except DatabaseError as error:
            logger.warning("the state of upstream %s was not written: %s", news.name, error)
        else:
            _told.add(upstream_id)


async def forget() -> None:
    """Take back what this process has told: it ends, and asks nobody any more."""
    global _writing
    writing, _writing = _writing, None
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            if writing is not None and writing.get_loop() is asyncio.get_running_loop():
                await asyncio.wait([writing])  # or it would be written after this
            if not _told:
                return
            await sync_to_async(_forget, thread_sensitive=False)()
    except (DatabaseError, TimeoutError) as error:
        logger.warning("the states of upstreams were not taken back: %s", error or "no answer")
    _told.clear()


def _write(upstream_id: int, news: _News) -> None:
    from upstreams.models import Upstream, UpstreamState  # after the apps are ready

    close_old_connections()
    try:
        now = timezone.now()
        UpstreamState.objects.filter(changed_at__lt=now - KEPT).delete()
        if Upstream.objects.filter(pk=upstream_id).exists():
            UpstreamState.objects.update_or_create(
                upstream_id=upstream_id,
                instance=_instance(),
                defaults={
                    "is_open": news.is_open,
                    "reason": news.reason[:100],
                    "changed_at": now,
                },
            )
    finally:
        close_old_connections()


def _forget() -> None:
    from upstreams.models import UpstreamState  # after the apps are ready

    close_old_connections()
    try:
        UpstreamState.objects.filter(instance=_instance()).delete()
    finally:
        close_old_connections()


def _instance() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"[-64:]
