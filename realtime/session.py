"""One connection's state, and what the server does of itself to it.

Made by the consumer; turned by the instance's timers; what a client's commands mean is in
``commands.py``.
"""

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import Final

from msgspec import Raw

from realtime import answering, conf
from realtime.calls import ConnectionCalls, ongoing
from realtime.extras import Extra, keep, live_on, peer_of
from realtime.granting import TTL_MAX_SECONDS, Caller, ttl_seconds
from realtime.hooks import NOTHING, Kind, Peer, Request
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
        extra: What few connections have; None where there is nothing of it.
        calls: What runs beside its commands; None while nothing does.
        due_at, timer_at, ping_slot, renewal_slot: The connection table's.
    """

    __slots__ = (
        "__weakref__",
        "_allowed_commands",
        "_counted_at",
        "calls",
        "client",
        "due_at",
        "extra",
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
        self,
        instance: Instance,
        outbox: Outbox,
        *,
        has_native_pings: bool = False,
        headers: Mapping[str, str] = NOTHING,
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
        self.extra = Extra(headers) if headers else None
        self.calls: ConnectionCalls | None = None
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

    def identify(self, claims: ConnectionClaims, *, is_server_refreshed: bool = False) -> None:
        """Take the identity that its token proves, or that somebody has answered.

        Whoever ``is_server_refreshed`` lives on by an answer too, and brings no new token.
        """
        self.subscriptions.caller = self.caller._replace(user=claims.user)
        self.is_connected = True
        self.token_channels = frozenset(claims.subs) if claims.subs else NO_CHANNELS
        if is_server_refreshed:
            self.extras().is_server_refreshed = True
        self.renew(claims.expire_at, claims.info, claims.meta)
        self.instance.connections.identify(self)

    def renew(self, expire_at: int, info: Raw | None, meta: Raw | None = None) -> None:
        """Live on until a time, 0 for ever, on a clock that no step of the system's moves."""
        if info is not None:
            self.subscriptions.caller = self.caller._replace(conn_info=info)
        if meta is not None:
            self.extras().meta = meta
        if not expire_at:
            self.instance.connections.forget_timer(self)
            return
        grace_seconds = 0.0 if self.is_server_refreshed else EXPIRED_CLOSE_SECONDS
        self._end_in(min(expire_at - time.time(), TTL_MAX_SECONDS) + grace_seconds)

    @property
    def is_server_refreshed(self) -> bool:
        """Whether the server asks at its end, and not the client for a new token."""
        return self.extra is not None and self.extra.is_server_refreshed

    def extras(self) -> Extra:
        """Return what few connections have, made if it was not there."""
        if self.extra is None:
            self.extra = Extra()
        return self.extra

    def peer(self) -> Peer:
        """Return what others are told of it when they are asked."""
        return peer_of(self.caller, self.extra)

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
        if self.calls is not None:
            self.calls.cancel()
        self.instance.connections.conceal(self)
        try:
            await self.subscriptions.close()
        finally:
            self.instance.connections.discard(self)
            if self.is_connected and not self.is_refused:
                for answerer in answering.registry.disconnects:
                    self.instance.calls.say_farewell(answerer, Request(self.peer()))

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
        elif self.is_server_refreshed:
            ongoing(self, self.instance.tasks).start_hook(self._live_on(), "refresh")
        else:
            self.disconnect(CONNECTION_EXPIRED if self.is_connected else STALE)

    async def _live_on(self) -> None:
        answer = await live_on(self.instance, Kind.REFRESH, Request(self.peer()))
        if answer.is_expired:
            self.disconnect(CONNECTION_EXPIRED)
        else:
            self.renew(answer.expire_at, answer.info, answer.meta)

    def check_subscriptions(self) -> None:
        """End the subscriptions that have expired, or ask about them."""
        for subscription in self.subscriptions.check_time():
            asking = keep(self.instance, self.peer(), subscription)
            ongoing(self, self.instance.tasks).start_hook(asking, "sub_refresh")

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
        asking = self.calls.subscribing.get(channel) if self.calls is not None else None
        if asking is not None:
            asking.add_done_callback(lambda _: self.subscriptions.unsubscribe_later(channel))
        else:
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
            told = 0 if self.is_server_refreshed else expire_at
            result = RefreshResult(expires=told > 0, ttl=ttl_seconds(told))
            self.outbox.write(codec.refresh_frame(result))
