"""One connection's state, and what the server does of itself to it.

Made by the consumer; turned by the instance's timers; what a client's commands mean is in
``commands.py``.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from realtime import conf
from realtime.instance import Instance
from realtime.outbox import Outbox
from realtime.presence import Member
from realtime.protocol import codec
from realtime.protocol.disconnects import (
    CONNECTION_CLOSED,
    CONNECTION_EXPIRED,
    INSUFFICIENT_STATE,
    NO_PONG,
    STALE,
    SUBSCRIPTION_EXPIRED,
    UNSUBSCRIBED_BY_SERVER,
    UNSUBSCRIBED_EXPIRED,
    UNSUBSCRIBED_INSUFFICIENT_STATE,
    Disconnect,
    Unsubscribe,
)
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import ABSENT
from realtime.subscribing import TTL_MAX_SECONDS, Caller, info_of
from realtime.subscription import Subscription
from realtime.tokens import ConnectionClaims

logger = logging.getLogger(__name__)

REFUSED_CLOSE_SECONDS: Final = 3.0
EXPIRED_CLOSE_SECONDS: Final = 25.0  # Source: Centrifugo, client.expired_close_delay


class Session:
    """The state of one connection.

    Attributes:
        client: The connection's id, made here.
        user: Who it is, empty for anonymous; known once it has connected.
        subscriptions: By channel; a subscribe under way is not in it yet.
        lock: Held by whatever changes the subscriptions, from start to end.
        is_connected: Whether it has said who it is.
        is_refused: Whether its connect was answered with an error; nothing more is read.
        is_pinged: Whether the last ping is unanswered.
    """

    __slots__ = (
        "__weakref__",
        "_conn_info",
        "_expires_at",
        "_is_ended",
        "_stale_at",
        "client",
        "instance",
        "is_connected",
        "is_pinged",
        "is_refused",
        "lock",
        "outbox",
        "subscriptions",
        "user",
    )

    def __init__(self, instance: Instance, outbox: Outbox) -> None:
        self.client = str(uuid.uuid4())
        self.user = ""
        self.subscriptions: dict[str, Subscription] = {}
        self.instance = instance
        self.outbox = outbox
        self.lock = asyncio.Lock()
        self.is_connected = False
        self.is_refused = False
        self.is_pinged = False
        self._conn_info = ABSENT
        self._is_ended = False
        self._expires_at = 0.0  # of the loop's clock, grace included; 0 for never
        instance.connections.open(self)
        self._call_stale_in(conf.current().stale_close_seconds)

    @property
    def caller(self) -> Caller:
        """Who asks, in all that is asked of a channel."""
        return Caller(self.user, self.client, self._conn_info)

    # Its life --------------------------------------------------------------------------------

    def identify(self, claims: ConnectionClaims) -> None:
        """Take the identity that its token proves."""
        self.user = claims.user
        self._stale_at = 0.0
        self.is_connected = True
        self.renew(claims)
        self.instance.connections.identify(self)

    def renew(self, claims: ConnectionClaims) -> None:
        """Live on until the token's end, on a clock that no step of the system's moves."""
        self._conn_info = claims.info or self._conn_info
        if not claims.expire_at:
            self._expires_at = 0.0
            self.instance.connections.forget_timer(self)
            return
        seconds = min(claims.expire_at - time.time(), TTL_MAX_SECONDS) + EXPIRED_CLOSE_SECONDS
        self._expires_at = self.instance.loop.time() + seconds
        self.instance.connections.call_at(self._expires_at, self)

    def refuse(self) -> None:
        """Read nothing more; the client has a moment to read why, and to close."""
        self.is_refused = True
        self._call_stale_in(REFUSED_CLOSE_SECONDS)

    def _call_stale_in(self, seconds: float) -> None:
        self._stale_at = self.instance.loop.time() + seconds
        self.instance.connections.call_at(self._stale_at, self)

    async def end(self) -> None:
        """Leave no trace: the connection is closed, whoever closed it."""
        self._stale_at = self._expires_at = 0.0
        self.instance.connections.conceal(self)
        for subscription in self.subscriptions.values():
            self.instance.hub.remove(subscription)
        try:
            async with self.lock:
                self._is_ended = True
                await self._say_goodbye()
        finally:
            self.instance.connections.discard(self)

    async def _say_goodbye(self) -> None:
        subscriptions = list(self.subscriptions.values())
        self.subscriptions.clear()
        present = [(each.channel, self.client) for each in subscriptions if each.has_presence]
        caller = self.caller
        left = [Member(e.channel, info_of(caller, e)) for e in subscriptions if e.sends_join_leave]
        # One deadline for all: with Redis away a connection must not take long to end.
        await asyncio.gather(
            self.instance.presence.remove_many(present), self.instance.broker.leave_many(left)
        )

    def disconnect(self, disconnect: Disconnect) -> None:
        """Say why, and close."""
        self.outbox.close(disconnect)

    # At its turn -----------------------------------------------------------------------------

    def ping(self) -> None:
        """Send a ping."""
        self.is_pinged = True
        self.outbox.write(codec.PING_FRAME)

    def check_pong(self) -> None:
        """Close the connection if its last ping is unanswered."""
        if self.is_pinged:
            self.disconnect(NO_PONG)

    def check_time(self) -> None:
        """Close the connection if it was silent too long, was refused, or has expired."""
        now = self.instance.loop.time()
        if self._stale_at and now >= self._stale_at:
            self.disconnect(CONNECTION_CLOSED if self.is_refused else STALE)
        elif self._expires_at and now >= self._expires_at:
            self.disconnect(CONNECTION_EXPIRED)

    def check_subscriptions(self) -> None:
        """End the subscriptions whose tokens have expired, after the grace."""
        overdue = time.time() - EXPIRED_CLOSE_SECONDS
        for subscription in list(self.subscriptions.values()):
            if 0 < subscription.expire_at <= overdue:
                self.end_subscription(subscription, UNSUBSCRIBED_EXPIRED)

    def holds(self, channel: str) -> bool:
        """Tell whether it is subscribed to a channel."""
        return channel in self.subscriptions

    def members(self) -> list[Member]:
        """Return the presence entries to renew."""
        caller = self.caller
        return [
            Member(subscription.channel, info_of(caller, subscription))
            for subscription in self.subscriptions.values()
            if subscription.has_presence
        ]

    # Its subscriptions -----------------------------------------------------------------------

    async def leave(self, channel: str) -> None:
        """End a subscription, if there is one: hub, presence, then the leave message."""
        subscription = self.subscriptions.pop(channel, None)
        if subscription is None:
            return
        self.instance.hub.remove(subscription)
        if subscription.has_presence:
            await self.attempt(lambda: self.instance.presence.remove(channel, self.client))
        if subscription.sends_join_leave:
            info = info_of(self.caller, subscription)
            await self.attempt(lambda: self.instance.broker.leave(channel, info))

    async def attempt(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do what may be lost: presence entries lapse, joins and leaves are not kept."""
        try:
            await step()
        except BrokerUnavailable as error:
            logger.warning("client %s: Redis was not told: %s", self.client, error)

    def unsubscribe_later(self, channel: str) -> None:
        """End a subscription on behalf of the server API; the client is told in any case."""
        self.instance.tasks.spawn(
            self._unsubscribe_by_server(channel, None, UNSUBSCRIBED_BY_SERVER), "unsubscribe"
        )

    def end_subscription(self, subscription: Subscription, unsubscribe: Unsubscribe) -> None:
        """End a subscription of the server's own accord, and tell the client why."""
        if self.subscriptions.get(subscription.channel) is not subscription:
            return
        if subscription.is_server_side:
            lost = unsubscribe is UNSUBSCRIBED_INSUFFICIENT_STATE
            self.disconnect(INSUFFICIENT_STATE if lost else SUBSCRIPTION_EXPIRED)
            return
        subscription.end()
        self.instance.tasks.spawn(
            self._unsubscribe_by_server(subscription.channel, subscription, unsubscribe),
            "end a subscription",
        )

    async def _unsubscribe_by_server(
        self, channel: str, expected: Subscription | None, unsubscribe: Unsubscribe
    ) -> None:
        # Under the lock: a subscribe under way ends first, and the client's next one comes after.
        async with self.lock:
            if self._is_ended:
                return
            if expected is not None and self.subscriptions.get(channel) is not expected:
                return
            await self.leave(channel)
            self.outbox.write(codec.unsubscribe_frame(channel, unsubscribe))
