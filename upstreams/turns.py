"""Turns at something of which few have room at once: the users take them in rotation.

Held by the client, one for each upstream.
"""

import asyncio
from collections import OrderedDict, deque

from upstreams.failures import Failed

Waiter = asyncio.Future[None]


class Turns:
    """Places, and a queue for each user before them.

    However many calls one user has waiting, another one's first is next but one. Where as many
    wait as may, it is whoever has most of them waiting that goes without.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.waiting = 0
        self._queues: OrderedDict[str, deque[Waiter]] = OrderedDict()

    async def take(self, user: str, *, places: int, queue_max: int) -> None:
        """Return once there is a place; it is given back with ``give_back``.

        Raises:
            Failed: As many wait already as may, or came since with fewer waiting of their own.
        """
        if self.in_flight < places and not self.waiting:
            self.in_flight += 1
            return
        if self.waiting >= queue_max:
            self._make_room(user)
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._queues.setdefault(user, deque()).append(waiter)
        self.waiting += 1
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give_back(places=places)  # it was its turn, and it goes without
            else:
                self._forget(user, waiter)
            raise

    def give_back(self, *, places: int) -> None:
        """Give a place back, and to whoever is next; of fewer places than before, none."""
        self.in_flight -= 1
        while self.in_flight < places and (waiter := self._next()) is not None:
            self.in_flight += 1
            waiter.set_result(None)

    def _next(self) -> Waiter | None:
        """Take out whose turn it is.

        Whoever was cancelled may not have run since, and is still in the queue: it has no turn.
        """
        while self._queues:
            user, queue = next(iter(self._queues.items()))
            waiter = queue.popleft()
            self.waiting -= 1
            is_there = not waiter.done()
            if not queue:
                del self._queues[user]
            elif is_there:
                self._queues.move_to_end(user)
            if is_there:
                return waiter
        return None

    def _make_room(self, user: str) -> None:
        longest = max(self._queues.values(), key=len, default=None)
        if longest is None or len(self._queues.get(user, ())) + 1 >= len(longest):
            raise _full()
        waiter = longest.pop()
        self.waiting -= 1
        if not waiter.done():
            waiter.set_exception(_full())

    def _forget(self, user: str, waiter: Waiter) -> None:
        queue = self._queues.get(user)
        if queue is None or waiter not in queue:
            return  # its turn came as it was cancelled
        queue.remove(waiter)
        self.waiting -= 1
        if not queue:
            del self._queues[user]


def _full() -> Failed:
    return Failed("queue full", is_of_upstream=False)
