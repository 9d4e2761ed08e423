"""The connections of this process: found by client or user, turned over in slices.

Owned by the instance. What a connection does at its turn is the session's.
"""

import asyncio
import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from msgspec import Raw

from realtime import conf
from realtime.presence import Member
from realtime.protocol.disconnects import Disconnect
from realtime.protocol.messages import StreamPosition
from realtime.slices import sliced
from realtime.tokens import SubscribeOptions
from realtime.user_index import UserIndex
from realtime.wheel import Wheel

TICK_SECONDS: Final = 0.1
TIMERS_MIN: Final = 1000  # fewer stale ones are not worth sorting out


class Connection(Protocol):
    """What the table asks of a session, and what it keeps there.

    Attributes:
        due_at: When ``check_time`` is to be called, 0 for never; by the loop's clock.
        timer_at: The time of the one timer that counts for it, 0 if there is none.
        ping_slot, renewal_slot: Where it stands in the wheels.
    """

    client: str
    due_at: float
    timer_at: float
    ping_slot: int
    renewal_slot: int

    @property
    def user(self) -> str:
        """Whose it is."""

    def ping(self) -> None:
        """Send a ping."""

    def check_pong(self) -> None:
        """Close the connection if its last ping is unanswered."""

    def check_time(self) -> None:
        """Do what was due at the time asked for with ``call_at``."""

    def check_subscriptions(self) -> None:
        """End the subscriptions that have expired."""

    def members(self) -> list[Member]:
        """Return the presence entries to renew."""

    def holds(self, channel: str) -> bool:
        """Tell whether it is subscribed to a channel."""

    def disconnect(self, disconnect: Disconnect) -> None:
        """Close the connection."""

    def unsubscribe_later(self, channel: str) -> None:
        """End a subscription on behalf of the server API."""

    def subscribe_later(
        self, channel: str, options: SubscribeOptions, since: StreamPosition | None
    ) -> None:
        """Subscribe it on behalf of the server API."""

    def channels(self) -> list[str]:
        """Return what it is subscribed to."""

    def refresh_later(self, expire_at: int, info: Raw) -> None:
        """Give it another end, and another info unless that is absent."""


class ConnectionTable:
    """All connections, those that have said who they are by client and user, and their timers.

    Attributes:
        is_empty: Set while no connection is open.
    """

    def __init__(self) -> None:
        settings = conf.current()
        self._pings: Wheel[Connection] = Wheel(
            interval_seconds=settings.ping_interval_seconds, tick_seconds=TICK_SECONDS
        )
        self._renewals: Wheel[Connection] = Wheel(
            interval_seconds=settings.presence_renewal_seconds, tick_seconds=TICK_SECONDS
        )
        self._pong_slots = round(settings.pong_timeout_seconds / TICK_SECONDS)
        self._open: dict[str, Connection] = {}
        self._by_client: dict[str, Connection] = {}
        self._by_user: UserIndex[Connection] = UserIndex()
        self._arriving: dict[str, dict[Connection, None]] = {}
        self._timers: list[tuple[float, str]] = []
        self.is_empty = asyncio.Event()
        self.is_empty.set()

    def __len__(self) -> int:
        return len(self._by_client)

    def __iter__(self) -> Iterator[Connection]:
        """Give every open connection, also those that have not said who they are."""
        return iter(list(self._open.values()))

    @property
    def user_count(self) -> int:
        """How many different users are connected; the anonymous one counts."""
        return len(self._by_user)

    def open(self, connection: Connection) -> None:
        """Take in a connection that was just accepted."""
        self._open[connection.client] = connection
        self.is_empty.clear()

    @contextmanager
    def arriving(self, user: str, connection: Connection) -> Iterator[None]:
        """Let a connection be told to go while others are asked whether it may come in."""
        waiting = self._arriving.setdefault(user, {})
        waiting[connection] = None
        try:
            yield
        finally:
            del waiting[connection]
            if not waiting:
                self._arriving.pop(user, None)

    def find_arriving(
        self, user: str | None, *, client: str = "", whitelist: Sequence[str] = ()
    ) -> list[Connection]:
        """Return those of a user, or without one that of ``client``, that are about to come in."""
        if user is None:
            arriving = [each for waiting in self._arriving.values() for each in waiting if client]
        else:
            arriving = list(self._arriving.get(user, ()))
        return [
            each
            for each in arriving
            if (not client or each.client == client) and each.client not in whitelist
        ]

    def identify(self, connection: Connection) -> None:
        """Let a connection be found: it has said who it is."""
        self._by_client[connection.client] = connection
        self._by_user.add(connection)
        connection.ping_slot = self._pings.add(connection)
        connection.renewal_slot = self._renewals.add(connection)

    def discard(self, connection: Connection) -> None:
        """Forget a connection, if it is known."""
        self.conceal(connection)
        self._open.pop(connection.client, None)
        if not self._open:
            self.is_empty.set()

    def conceal(self, connection: Connection) -> None:
        """Let a connection be found no more, nor have its turn: it is ending."""
        connection.due_at = 0.0
        if self._by_client.pop(connection.client, None) is None:
            return
        self._by_user.discard(connection)
        self._pings.discard(connection, connection.ping_slot)
        self._renewals.discard(connection, connection.renewal_slot)

    def find(
        self,
        user: str | None,
        *,
        client: str = "",
        session: str = "",
        whitelist: Sequence[str] = (),
    ) -> list[Connection]:
        """Return the connections of a user that the server API means.

        Without a user it is the connection of ``client``. ``session`` names a connection of the
        emulated transports, of which there are none.
        """
        if session:
            return []
        named = self._by_client.get(client)
        found = self._by_user.of(user) if user is not None else [named] if named else []
        return [
            each
            for each in found
            if (not client or each.client == client) and each.client not in whitelist
        ]

    def count_of(self, user: str) -> int:
        """Return how many connections a user has here."""
        return len(self._by_user.of(user))

    async def page(
        self, user: str | None, channel: str, *, after: str, limit: int
    ) -> list[Connection]:
        """Return the first connections behind a client, in the order of their clients.

        In slices, as everything that looks at all connections.

        Args:
            user: Only this user's; None for everybody's.
            channel: Only those subscribed to it; empty for any.
            after: Only clients behind this one.
            limit: Most to return.
        """
        found = self._by_client.values() if user is None else self._by_user.of(user)
        wanted: list[Connection] = []
        async for each in sliced(list(found)):
            if each.client > after and (not channel or each.holds(channel)):
                wanted.append(each)
                if len(wanted) >= 2 * limit:
                    wanted = heapq.nsmallest(limit, wanted, key=_client_of)
        return heapq.nsmallest(limit, wanted, key=_client_of)

    def call_at(self, at: float, connection: Connection) -> None:
        """Ask for ``check_time`` at a time of the loop's clock, instead of what was asked before.

        Only the client's id waits, so that nothing of a closed connection does; and once, so that
        a time which is put off again and again costs nothing: it is looked at when its turn comes.
        """
        if connection.client not in self._open:
            return
        connection.due_at = at
        if not connection.timer_at or at < connection.timer_at:
            self._set_timer(connection)

    def _set_timer(self, connection: Connection) -> None:
        connection.timer_at = connection.due_at
        heapq.heappush(self._timers, (connection.timer_at, connection.client))
        if len(self._timers) > TIMERS_MIN and len(self._timers) > 2 * len(self._open):
            self._timers = [(e.timer_at, e.client) for e in self._open.values() if e.timer_at]
            heapq.heapify(self._timers)

    def forget_timer(self, connection: Connection) -> None:
        """Take back what was asked for with ``call_at``."""
        connection.due_at = 0.0

    async def tick(self, now: float) -> list[Connection]:
        """Do what is due for the slice whose turn it is; return whose presence to renew.

        Each slice in slices of its own: thousands of tokens may end in the same second.
        """
        async for connection in sliced(self._listed(self._pings.turn())):
            connection.ping()
        async for connection in sliced(self._listed(self._pings.behind(self._pong_slots))):
            connection.check_pong()
        async for connection in sliced(self._due(now)):
            connection.check_time()
        renewed = self._renewals.turn()
        async for connection in sliced(self._listed(renewed)):
            connection.check_subscriptions()
        return renewed

    def _listed(self, connections: Sequence[Connection]) -> Iterator[Connection]:
        return (each for each in connections if each.client in self._by_client)

    def _due(self, now: float) -> Iterator[Connection]:
        while self._timers and self._timers[0][0] <= now:
            at, client = heapq.heappop(self._timers)
            connection = self._open.get(client)
            if connection is None or connection.timer_at != at:
                continue  # closed meanwhile, or asked for an earlier time
            connection.timer_at = 0.0
            if connection.due_at > now:
                self._set_timer(connection)
            elif connection.due_at:
                connection.due_at = 0.0
                yield connection


def _client_of(connection: Connection) -> str:
    return connection.client
