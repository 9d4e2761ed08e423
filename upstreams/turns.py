"""Turns at something of which few have room at once: the users take them in rotation.

Held by the client, one for each upstream.
"""

import asyncio
from collections import OrderedDict, deque

from upstreams.failures import Failed

Waiter = asyncio.Future[None]


class Turns:
    """Places, and a queue for each user before them.

    However many calls one user has waiting, another one's first is next but one.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.waiting = 0
        self._queues: OrderedDict[str, deque[Waiter]] = OrderedDict()

    async def take(self, user: str, *, places: int, queue_max: int) -> None:
        """Return once there is a place; it is given back with ``give_back``.

        Raises:
            Failed: As many wait already as may.
        """
        if self.in_flight < places and not self.waiting:
            self.in_flight += 1
            return
        if self.waiting >= queue_max:
            raise Failed("queue full", is_of_upstream=False)
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._queues.setdefault(user, deque()).append(waiter)
        self.waiting += 1
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give_back(places=places)  # it was its turn, and it goes without
            else:
                self._forget(user, waiter)
            raise

    def give_back(self, *, places: int) -> None:
        """Give a place back, and to whoever is next; of fewer places than before, none."""
        self.in_flight -= 1
        while self._queues and self.in_flight < places:
            user, queue = next(iter(self._queues.items()))
            waiter = queue.popleft()
            self.waiting -= 1
            self._queues.move_to_end(user)
            if not queue:
                del self._queues[user]
            self.in_flight += 1
            waiter.set_result(None)

    def _forget(self, user: str, waiter: Waiter) -> None:
        queue = self._queues[user]
        queue.remove(waiter)
        self.waiting -= 1
        if not queue:
            del self._queues[user]
