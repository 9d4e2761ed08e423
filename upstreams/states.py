"""How upstreams are doing, for the log, the metrics and the admin: told when it changes.

Called by the client; writes to the database in a thread, and goes without where that fails.
"""

import asyncio
import logging
import os
import socket
from datetime import timedelta
from typing import Final

from asgiref.sync import sync_to_async
from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.utils import timezone

from upstreams import metrics

logger = logging.getLogger(__name__)

KEPT: Final = timedelta(days=1)
_tasks: set[asyncio.Task[None]] = set()


def note(name: str, is_open: bool, reason: str) -> None:
    """Note that a breaker has opened or closed."""
    metrics.BREAKER_OPEN.labels(name).set(is_open)
    if is_open:
        logger.warning("upstream %s fails (%s): it is not asked for a while", name, reason)
    else:
        logger.info("upstream %s answers again", name)
    task = asyncio.get_running_loop().create_task(
        _write_later(name, is_open, reason), name="state of an upstream"
    )
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _write_later(name: str, is_open: bool, reason: str) -> None:
    try:
        await sync_to_async(_write, thread_sensitive=False)(name, is_open, reason)
    except DatabaseError as error:
        logger.warning("the state of upstream %s was not written: %s", name, error)


def _write(name: str, is_open: bool, reason: str) -> None:
    from upstreams.models import Upstream, UpstreamState  # after the apps are ready

    close_old_connections()
    try:
        upstream = Upstream.objects.filter(name=name).first()
        if upstream is None:
            return
        now = timezone.now()
        UpstreamState.objects.filter(changed_at__lt=now - KEPT).delete()
        UpstreamState.objects.update_or_create(
            upstream=upstream,
            instance=f"{socket.gethostname()}:{os.getpid()}"[-64:],
            defaults={"is_open": is_open, "reason": reason[:100], "changed_at": now},
        )
    finally:
        close_old_connections()
