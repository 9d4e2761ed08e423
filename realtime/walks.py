"""Walks over the connections of one instance: their turns, and what is done to many of them.

Owned by the instance. Every walk goes in slices, for there may be ten thousand connections.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from realtime.connections import TICK_SECONDS, Connection, ConnectionTable
from realtime.control import (
    ControlCommand,
    DisconnectCommand,
    RefreshCommand,
    SubscribeCommand,
    UnsubscribeCommand,
)
from realtime.presence import Presence
from realtime.protocol.disconnects import Disconnect
from realtime.slices import sliced
from realtime.tasks import TaskOwner

logger = logging.getLogger(__name__)

SPREAD_SLICE_SECONDS: Final = 0.05
RENEWED_AT_ONCE: Final = 50  # entries; packing and reading more would hold the loop too long
OBEYED_AT_ONCE: Final = 20
ORDERS_MAX: Final = 100


class _Order(NamedTuple):
    """A command under way, and those to whom it is still to be done."""

    command: ControlCommand
    left: Iterator[Connection]


class Walks:
    """What happens to many connections of one instance."""

    def __init__(self, connections: ConnectionTable, presence: Presence, tasks: TaskOwner) -> None:
        self._connections = connections
        self._presence = presence
        self._tasks = tasks
        self._orders: deque[_Order] = deque()
        self._obeying: asyncio.Task[None] | None = None

    # Their turns -----------------------------------------------------------------------------

    async def tick(self) -> None:
        """Give every connection its turns, until cancelled."""
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while True:
            # What a stalled loop missed is not made up for: it would look like silent clients.
            next_at = max(next_at + TICK_SECONDS, loop.time())
            await asyncio.sleep(next_at - loop.time())
            renewed = await self._connections.tick(loop.time())
            if renewed:
                self._tasks.spawn(self.renew(renewed), "renew presence")

    async def renew(self, connections: Sequence[Connection]) -> None:
        """Renew the presence entries of connections; with Redis away, at their next turn."""
        entries = [
            (each, member) async for each in sliced(connections) for member in each.members()
        ]
        for start in range(0, len(entries), RENEWED_AT_ONCE):
            part = entries[start : start + RENEWED_AT_ONCE]
            outcomes = await self._presence.renew([member for _, member in part])
            # Who left meanwhile may have been taken out before the renewal put it back.
            left = [
                (member.channel, member.info.client)
                for connection, member in part
                if not connection.holds(member.channel)
            ]
            if left:
                await self._presence.remove_many(left)
            if any(outcomes):
                logger.warning("not all of %d presence entries were renewed", len(entries))
                return

    # Commands of the server API --------------------------------------------------------------

    def obey(self, command: ControlCommand) -> None:
        """Do what a command says to the connections that it means now, one command after another.

        To few of them at once, to many in slices. When too many commands wait for that, they are
        all done at once as well.
        """
        kept = command.whitelist if isinstance(command, DisconnectCommand) else ()
        meant = self._connections.find(
            command.user, client=command.client, session=command.session, whitelist=kept
        )
        if isinstance(command, DisconnectCommand) and not command.session:
            meant += self._connections.find_arriving(
                command.user, client=command.client, whitelist=kept
            )
        if not self._orders and len(meant) <= OBEYED_AT_ONCE:
            for connection in meant:
                _do(command, connection)
            return
        if len(self._orders) >= ORDERS_MAX:
            self._finish_orders()
        self._orders.append(_Order(command, iter(meant)))
        if self._obeying is None or self._obeying.done():
            self._obeying = self._tasks.spawn(self._carry_out(), "obey")

    def _finish_orders(self) -> None:
        for order in self._orders:
            for connection in order.left:
                _do(order.command, connection)
        self._orders.clear()

    async def _carry_out(self) -> None:
        while self._orders:
            order = self._orders[0]
            async for connection in sliced(order.left):
                _do(order.command, connection)
            if self._orders and self._orders[0] is order:
                self._orders.popleft()

    # All of them -----------------------------------------------------------------------------

    async def close_all(self, disconnect: Disconnect, *, seconds: float) -> None:
        """Close every connection, spread over ``seconds``."""
        connections = list(self._connections)
        slices = max(1, round(seconds / SPREAD_SLICE_SECONDS))
        size = max(1, -(-len(connections) // slices))
        for start in range(0, len(connections), size):
            async for connection in sliced(connections[start : start + size]):
                connection.disconnect(disconnect)
            if start + size < len(connections):
                await asyncio.sleep(SPREAD_SLICE_SECONDS)


def _do(command: ControlCommand, connection: Connection) -> None:
    match command:
        case DisconnectCommand():
            connection.disconnect(Disconnect(command.code, command.reason))
        case UnsubscribeCommand():
            connection.unsubscribe_later(command.channel)
        case SubscribeCommand():
            connection.subscribe_later(command.channel, command.options(), command.since)
        case RefreshCommand():
            connection.refresh_later(command.expire_at, command.info)
