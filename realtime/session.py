"""One connection's state, and what the server does of itself to it.

Made by the consumer; turned by the instance's timers; what a client's commands mean is in
``commands.py``.
"""

import asyncio
import time
import uuid
from typing import Final

from msgspec import Raw

from realtime import conf
from realtime.granting import TTL_MAX_SECONDS, Caller, ttl_seconds
from realtime.instance import Instance
from realtime.outbox import Outbox
from realtime.presence import Member
from realtime.protocol import codec
from realtime.protocol.disconnects import (
    CONNECTION_CLOSED,
    CONNECTION_EXPIRED,
    NO_PONG,
    STALE,
    Disconnect,
)
from realtime.protocol.messages import ABSENT, RefreshResult, StreamPosition, is_absent
from realtime.subscriptions import Subscriptions
from realtime.tokens import ConnectionClaims, SubscribeOptions

REFUSED_CLOSE_SECONDS: Final = 3.0
EXPIRED_CLOSE_SECONDS: Final = 25.0  # Source: Centrifugo, client.expired_close_delay
NO_CHANNELS: Final[frozenset[str]] = frozenset()  # one for all, because each takes 216 bytes


class Session:
    """The state of one connection.

    Attributes:
        client: The connection's id, made here.
        subscriptions: Those that it has; a subscribe under way is not among them yet.
        lock: Held by whatever changes the subscriptions, from start to end.
        is_connected: Whether it has said who it is.
        is_refused: Whether its connect was answered with an error; nothing more is read.
        unanswered_pings: How many pings have no pong yet: more than one only behind commands that
            take their time.
        is_busy: Whether a message of the client is being handled.
        has_native_pings: Whether it is pinged with frames of WebSocket's own, which it need not
            answer as the protocol says.
        token_channels: The channels that its token subscribed it to.
        places: One for each command that may run beside others; None if none may.
        due_at, timer_at, ping_slot, renewal_slot: The connection table's.
    """

    __slots__ = (
        "__weakref__",
        "_allowed_commands",
        "_counted_at",
        "client",
        "due_at",
        "has_native_pings",
        "instance",
        "is_busy",
        "is_connected",
        "is_refused",
        "lock",
        "outbox",
        "ping_slot",
        "places",
        "renewal_slot",
        "subscriptions",
        "timer_at",
        "token_channels",
        "unanswered_pings",
    )

    def __init__(
        self, instance: Instance, outbox: Outbox, *, has_native_pings: bool = False
    ) -> None:
        self.client = str(uuid.uuid4())
        self.instance = instance
        self.outbox = outbox
        self.lock = asyncio.Lock()
        self.subscriptions = Subscriptions(
            instance, outbox, self.lock, caller=Caller("", self.client, ABSENT)
        )
        self.is_connected = False
        self.is_refused = False
        self.unanswered_pings = 0
        self.is_busy = False
        self.has_native_pings = has_native_pings
        self.token_channels = NO_CHANNELS
        settings = conf.current()
        concurrency = settings.command_concurrency_limit
        self.places = asyncio.Semaphore(concurrency) if concurrency > 1 else None
        self._allowed_commands: float = settings.command_rate
        self._counted_at = 0.0
        self.due_at = self.timer_at = 0.0
        self.ping_slot = self.renewal_slot = 0
        instance.connections.open(self)
        self._end_in(settings.stale_close_seconds)

    @property
    def caller(self) -> Caller:
        """Who asks, in all that is asked of a channel."""
        return self.subscriptions.caller

    @property
    def user(self) -> str:
        """Who it is, empty for anonymous; known once it has connected."""
        return self.subscriptions.caller.user

    # Its life --------------------------------------------------------------------------------

    def identify(self, claims: ConnectionClaims) -> None:
        """Take the identity that its token proves."""
        self.subscriptions.caller = self.caller._replace(user=claims.user)
        self.is_connected = True
        self.token_channels = frozenset(claims.subs) if claims.subs else NO_CHANNELS
        self.renew(claims.expire_at, claims.info)
        self.instance.connections.identify(self)

    def renew(self, expire_at: int, info: Raw | None) -> None:
        """Live on until a time, 0 for ever, on a clock that no step of the system's moves."""
        if info is not None:
            self.subscriptions.caller = self.caller._replace(conn_info=info)
        if not expire_at:
            self.instance.connections.forget_timer(self)
            return
        self._end_in(min(expire_at - time.time(), TTL_MAX_SECONDS) + EXPIRED_CLOSE_SECONDS)

    def refuse(self) -> None:
        """Read nothing more; the client has a moment to read why, and to close."""
        self.is_refused = True
        self.subscriptions.begin_no_more()
        self.instance.connections.conceal(self)
        self._end_in(REFUSED_CLOSE_SECONDS)

    def _end_in(self, seconds: float) -> None:
        self.instance.connections.call_at(self.instance.loop.time() + seconds, self)

    async def end(self) -> None:
        """Leave no trace: the connection is closed, whoever closed it."""
        self.instance.connections.conceal(self)
        try:
            await self.subscriptions.close()
        finally:
            self.instance.connections.discard(self)

    def may_command(self) -> bool:
        """Count one command; tell whether the client may still give it.

        ``command_rate`` come back in a second, and so many at most may come at once.
        """
        rate = conf.current().command_rate
        if not rate:
            return True
        now = self.instance.loop.time()
        regained = (now - self._counted_at) * rate
        self._allowed_commands = min(self._allowed_commands + regained, rate) - 1
        self._counted_at = now
        return self._allowed_commands >= 0

    def disconnect(self, disconnect: Disconnect) -> None:
        """Say why, and close."""
        self.outbox.close(disconnect)

    # At its turn -----------------------------------------------------------------------------

    def ping(self) -> None:
        """Send a ping."""
        if self.has_native_pings:
            self.outbox.write(codec.NATIVE_PING_FRAME)
            return
        self.unanswered_pings += 1
        self.outbox.write(codec.PING_FRAME)

    def take_pong(self) -> bool:
        """Note a pong; tell whether one was awaited."""
        if not self.unanswered_pings:
            return False
        self.unanswered_pings -= 1
        return True

    def check_pong(self) -> None:
        """Close the connection if a ping is unanswered, and nothing else is under way.

        A pong waits behind the commands that came before it, each of which has its deadline.
        """
        if self.unanswered_pings and not self.is_busy:
            self.disconnect(NO_PONG)

    def check_time(self) -> None:
        """Close the connection: it was silent too long, was refused, or has expired."""
        if self.is_refused:
            self.disconnect(CONNECTION_CLOSED)
        else:
            self.disconnect(CONNECTION_EXPIRED if self.is_connected else STALE)

    def check_subscriptions(self) -> None:
        """End the subscriptions that have expired."""
        self.subscriptions.check_time()

    # What the server API asks of it ----------------------------------------------------------

    def holds(self, channel: str) -> bool:
        """Tell whether it is subscribed to a channel."""
        return channel in self.subscriptions

    def channels(self) -> list[str]:
        """Return what it is subscribed to."""
        return [subscription.channel for subscription in self.subscriptions]

    def members(self) -> list[Member]:
        """Return the presence entries to renew."""
        return self.subscriptions.members()

    def subscribe_later(
        self, channel: str, options: SubscribeOptions, since: StreamPosition | None
    ) -> None:
        """Subscribe it, once what is under way has ended; the client is told."""
        self.subscriptions.subscribe_later(channel, options, since)

    def unsubscribe_later(self, channel: str) -> None:
        """End a subscription, once what is under way has ended; the client is told in any case."""
        self.subscriptions.unsubscribe_later(channel)

    def refresh_later(self, expire_at: int, info: Raw) -> None:
        """Give it another end, once what is under way has ended; the client is told."""
        self.instance.tasks.spawn(self._refresh(expire_at, info), "refresh")

    async def _refresh(self, expire_at: int, info: Raw) -> None:
        # Under the lock: the push must not overtake the reply to a connect under way.
        async with self.lock:
            if self.is_refused:
                return
            self.renew(expire_at, None if is_absent(info) else info)
            result = RefreshResult(expires=expire_at > 0, ttl=ttl_seconds(expire_at))
            self.outbox.write(codec.refresh_frame(result))
