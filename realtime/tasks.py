"""An owner for tasks that run beside everything else.

Held by the instance and the hub. A task without an owner may be collected while it runs, and its
failure is seen by nobody.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)


def is_cancelled() -> bool:
    """Tell whether the running task is to end, or a CancelledError in it is somebody else's."""
    running = asyncio.current_task()
    return running is not None and running.cancelling() > 0


class TaskOwner:
    """Starts tasks, logs their failures, and ends what still runs at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a coroutine to its end."""
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("task %s failed", task.get_name(), exc_info=task.exception())

    async def close(self) -> None:
        """Cancel what runs and wait for its end."""
        running = list(self._tasks)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
