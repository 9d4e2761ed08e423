"""One connection's conversation: a command in, a reply out.

Called by the consumer with each incoming frame, and by the instance's timers. Decides what a
command means now; turns errors into replies and outcomes into closes. Commands of a connection are
handled one after another.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from realtime import channel_commands, conf
from realtime.instance import Instance
from realtime.outbox import Outbox
from realtime.presence import Member
from realtime.protocol import codec
from realtime.protocol.disconnects import (
    BAD_REQUEST,
    CONNECTION_CLOSED,
    CONNECTION_EXPIRED,
    INSUFFICIENT_STATE,
    INVALID_TOKEN,
    NO_PONG,
    NOT_AVAILABLE,
    STALE,
    SUBSCRIPTION_EXPIRED,
    UNSUBSCRIBED_BY_SERVER,
    UNSUBSCRIBED_EXPIRED,
    UNSUBSCRIBED_INSUFFICIENT_STATE,
    Disconnect,
    Disconnected,
    Unsubscribe,
)
from realtime.protocol.errors import (
    AlreadySubscribed,
    BadRequest,
    BrokerUnavailable,
    Expired,
    InternalError,
    LimitExceeded,
    NotAvailable,
    PermissionDenied,
    ProtocolError,
    TokenExpired,
)
from realtime.protocol.messages import (
    ABSENT,
    ChannelRequest,
    Command,
    ConnectRequest,
    ConnectResult,
    Empty,
    RefreshResult,
    Reply,
    SubscribeRequest,
)
from realtime.snapshot import ChannelOptions, Snapshot
from realtime.subscribing import Caller, Grant, Opening, grant, info_of, ttl_seconds
from realtime.subscription import Subscription
from realtime.tokens import (
    ConnectionClaims,
    InvalidToken,
    verify_connection_token,
    verify_subscription_token,
)

logger = logging.getLogger(__name__)

REFUSED_CLOSE_SECONDS: Final = 3.0
EXPIRED_CLOSE_SECONDS: Final = 25.0  # Source: Centrifugo, client.expired_close_delay
TTL_MAX_SECONDS: Final = 365 * 24 * 3600  # Source: Centrifugo client protocol, connect


class Session:
    """The state of one connection.

    Attributes:
        client: The connection's id, made here.
        user: Who it is, empty for anonymous; known once it has connected.
        subscriptions: By channel; a subscribe under way is not in it yet.
    """

    __slots__ = (
        "__weakref__",
        "_conn_info",
        "_expires_at",
        "_instance",
        "_is_connected",
        "_is_ended",
        "_is_pinged",
        "_is_refused",
        "_lock",
        "_outbox",
        "_stale_at",
        "client",
        "subscriptions",
        "user",
    )

    def __init__(self, instance: Instance, outbox: Outbox) -> None:
        self.client = str(uuid.uuid4())
        self.user = ""
        self.subscriptions: dict[str, Subscription] = {}
        self._conn_info = ABSENT
        self._instance = instance
        self._outbox = outbox
        self._is_connected = False
        self._is_refused = False
        self._is_ended = False
        self._is_pinged = False
        self._expires_at = 0.0  # of the loop's clock, grace included; 0 for never
        self._lock = asyncio.Lock()
        self._stale_at = instance.loop.time() + conf.current().stale_close_seconds
        instance.connections.open(self)
        instance.connections.call_at(self._stale_at, self)

    # Commands in, replies out ----------------------------------------------------------------

    async def receive(self, frame: str | bytes) -> None:
        """Handle one incoming message: its commands in order, until one ends the connection."""
        try:
            for command in codec.decode_commands(frame):
                async with self._lock:
                    if self._outbox.closed_with is not None:
                        return
                    await self._handle(command)
        except Disconnected as outcome:
            if outcome.disconnect is BAD_REQUEST:
                logger.warning("client %s broke the protocol: %s", self.client, outcome)
            self.disconnect(outcome.disconnect)

    async def _handle(self, command: Command) -> None:
        if not command.id and command.send is None:
            self._on_pong()
            return
        name, run = _known(command)
        if self._is_refused or (name == "connect") is self._is_connected:
            raise Disconnected(BAD_REQUEST, f"{name} out of place")
        try:
            reply = await run(self, command)
        except ProtocolError as error:
            self._refuse(command, name, error)
        except Disconnected:
            raise
        except Exception:
            logger.exception("command %s of client %s failed", name, self.client)
            self._refuse(command, name, InternalError())
        else:
            if reply is not None:
                self._outbox.write(codec.reply_frame(reply))

    def _refuse(self, command: Command, name: str, error: ProtocolError) -> None:
        logger.debug("client %s: %s refused: %s %s", self.client, name, error.code, error)
        self._outbox.write(codec.error_frame(command.id or 0, error))
        if name == "connect":
            # The client is to read the error, then close; it may not go on.
            self._is_refused = True
            self._stale_at = self._instance.loop.time() + REFUSED_CLOSE_SECONDS
            self._instance.connections.call_at(self._stale_at, self)
            logger.info(
                "connection refused",
                extra={"client": self.client, "code": error.code, "reason": error.message},
            )

    def _on_pong(self) -> None:
        if not self._is_pinged:
            raise Disconnected(BAD_REQUEST, "a pong without a ping")
        self._is_pinged = False

    # connect and refresh ---------------------------------------------------------------------

    async def _connect(self, command: Command) -> Reply:
        request = command.connect
        assert request is not None
        claims = self._credentials(request)
        if claims.expire_at and claims.expire_at <= time.time():
            raise Expired
        self.user = claims.user
        self._conn_info = claims.info or ABSENT
        self._expire(claims.expire_at)
        self._is_connected = True
        self._stale_at = 0.0
        self._instance.connections.identify(self)
        logger.info(
            "connected",
            extra={"client": self.client, "user": self.user, "sdk": (request.name or "")[:32]},
        )
        settings = conf.current()
        result = ConnectResult(
            client=self.client,
            version=conf.SERVER_VERSION,
            expires=claims.expire_at > 0,
            ttl=ttl_seconds(claims.expire_at),
            ping=settings.ping_interval_seconds,
            pong=True,
        )
        return Reply(command.id or 0, connect=result)

    def _credentials(self, request: ConnectRequest) -> ConnectionClaims:
        settings = conf.current()
        if request.token:
            claims = _verified(request.token)
            if settings.insecure:
                return ConnectionClaims(claims.user, 0, claims.info)
            return claims
        if settings.insecure or settings.allow_anonymous:
            return ConnectionClaims("", 0, None)
        raise Disconnected(BAD_REQUEST, "no token, and anonymous connections are off")

    def _expire(self, expire_at: int) -> None:
        """Note when to close, on a clock that no step of the system's moves."""
        if not expire_at:
            self._expires_at = 0.0
            return
        seconds = min(expire_at - time.time(), TTL_MAX_SECONDS) + EXPIRED_CLOSE_SECONDS
        self._expires_at = self._instance.loop.time() + seconds
        self._instance.connections.call_at(self._expires_at, self)

    async def _refresh(self, command: Command) -> Reply:
        request = command.refresh
        assert request is not None
        if not request.token:
            raise Disconnected(BAD_REQUEST, "refresh without a token")
        try:
            claims = _verified(request.token)
        except TokenExpired as error:
            raise Disconnected(CONNECTION_EXPIRED, "refreshed with an expired token") from error
        if claims.user != self.user:
            raise Disconnected(INVALID_TOKEN, "refreshed with another user's token")
        if claims.expire_at and claims.expire_at <= time.time():
            raise Expired
        self._expire(claims.expire_at)
        self._conn_info = claims.info or self._conn_info
        result = RefreshResult(claims.expire_at > 0, ttl_seconds(claims.expire_at))
        return Reply(command.id or 0, refresh=result)

    # Channels --------------------------------------------------------------------------------

    @property
    def _caller(self) -> Caller:
        return Caller(self.user, self.client, self._conn_info)

    def _snapshot(self) -> Snapshot:
        if self._instance.snapshot is None:
            raise InternalError("the database has not answered yet")
        return self._instance.snapshot

    def _options(self, channel: str | None) -> tuple[str, ChannelOptions, bool]:
        """Return a channel's name and options, and whether this connection is subscribed."""
        if not channel:
            raise Disconnected(BAD_REQUEST, "no channel")
        options = channel_commands.options_of(self._snapshot(), channel)
        return channel, options, channel in self.subscriptions

    async def _subscribe(self, command: Command) -> None:
        request = command.subscribe
        assert request is not None
        if not request.channel:
            raise Disconnected(BAD_REQUEST, "no channel")
        if request.channel in self.subscriptions:
            raise AlreadySubscribed
        if len(self.subscriptions) >= conf.current().channel_limit:
            raise LimitExceeded
        granted = grant(request, self._caller, self._snapshot().options_of(request.channel))
        opening = Opening(
            self._instance, request, self._caller, granted, self._subscription(request, granted)
        )
        try:
            result = await opening.run()
        except BaseException:
            await self._attempt(opening.undo)
            raise
        # Nothing may be awaited from here on: what arrives now follows the reply.
        self.subscriptions[request.channel] = opening.subscription
        self._outbox.write(codec.reply_frame(Reply(command.id or 0, subscribe=result)))
        opening.go_live()
        if opening.subscription.sends_join_leave:
            channel, info = opening.member()
            await self._attempt(lambda: self._instance.broker.join(channel, info))

    def _subscription(self, request: SubscribeRequest, granted: Grant) -> Subscription:
        subscription = Subscription(
            request.channel or "",
            write=self._outbox.write,
            end=self._end_subscription,
            is_positioned=granted.is_positioned,
            wants_join_leave=granted.wants_join_leave,
        )
        subscription.chan_info = granted.chan_info
        subscription.expire_at = granted.expire_at
        subscription.sends_join_leave = granted.options.join_leave
        return subscription

    async def _unsubscribe(self, command: Command) -> Reply:
        assert command.unsubscribe is not None
        if not command.unsubscribe.channel:
            raise Disconnected(BAD_REQUEST, "no channel")
        await self._leave(command.unsubscribe.channel)
        return Reply(command.id or 0, unsubscribe=Empty())

    async def _leave(self, channel: str) -> None:
        """End a subscription, if there is one: hub, presence, then the leave message."""
        subscription = self.subscriptions.pop(channel, None)
        if subscription is None:
            return
        self._instance.hub.remove(subscription)
        if subscription.has_presence:
            await self._attempt(lambda: self._instance.presence.remove(channel, self.client))
        if subscription.sends_join_leave:
            await self._announce_leave(subscription)

    async def _announce_leave(self, subscription: Subscription) -> None:
        info = info_of(self._caller, subscription)
        await self._attempt(lambda: self._instance.broker.leave(subscription.channel, info))

    async def _attempt(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do what the client need not wait for twice: entries lapse, joins may be lost."""
        try:
            await step()
        except BrokerUnavailable as error:
            logger.warning("client %s: Redis was not told: %s", self.client, error)

    async def _publish(self, command: Command) -> Reply:
        request = command.publish
        assert request is not None
        channel, options, is_subscribed = self._options(request.channel)
        info = info_of(self._caller, self.subscriptions.get(channel))
        await channel_commands.publish(
            self._instance, options, request, info, is_subscribed=is_subscribed
        )
        return Reply(command.id or 0, publish=Empty())

    async def _history(self, command: Command) -> Reply:
        request = command.history
        assert request is not None
        _, options, is_subscribed = self._options(request.channel)
        result = await channel_commands.history(
            self._instance, options, request, self.user, is_subscribed=is_subscribed
        )
        return Reply(command.id or 0, history=result)

    async def _presence(self, command: Command) -> Reply:
        channel = self._present_channel(command.presence)
        result = await channel_commands.presence(self._instance, channel)
        return Reply(command.id or 0, presence=result)

    async def _presence_stats(self, command: Command) -> Reply:
        channel = self._present_channel(command.presence_stats)
        result = await channel_commands.presence_stats(self._instance, channel)
        return Reply(command.id or 0, presence_stats=result)

    def _present_channel(self, request: ChannelRequest | None) -> str:
        assert request is not None
        channel, options, is_subscribed = self._options(request.channel)
        channel_commands.check_presence(options, self.user, is_subscribed=is_subscribed)
        return channel

    async def _sub_refresh(self, command: Command) -> Reply:
        request = command.sub_refresh
        assert request is not None
        if not request.channel:
            raise Disconnected(BAD_REQUEST, "no channel")
        if not request.token:
            raise BadRequest("sub_refresh without a token")
        subscription = self.subscriptions.get(request.channel)
        if subscription is None:
            raise PermissionDenied("not subscribed")
        try:
            claims = verify_subscription_token(request.token)
        except InvalidToken as error:
            raise Disconnected(INVALID_TOKEN, str(error)) from error
        if claims.user != self.user or claims.channel != request.channel:
            raise Disconnected(INVALID_TOKEN, "sub_refresh with a token of another subscription")
        if claims.expire_at and claims.expire_at <= time.time():
            raise Expired
        subscription.expire_at = claims.expire_at
        subscription.chan_info = claims.info or subscription.chan_info
        result = RefreshResult(claims.expire_at > 0, ttl_seconds(claims.expire_at))
        return Reply(command.id or 0, sub_refresh=result)

    async def _rpc(self, command: Command) -> Reply:
        raise NotAvailable("no method is configured")

    async def _send(self, command: Command) -> Reply:
        raise Disconnected(NOT_AVAILABLE, "no handler of messages is configured")

    # What the server does of itself ----------------------------------------------------------

    def ping(self) -> None:
        """Send a ping."""
        self._is_pinged = True
        self._outbox.write(codec.PING_FRAME)

    def check_pong(self) -> None:
        """Close the connection if its last ping is unanswered."""
        if self._is_pinged:
            self.disconnect(NO_PONG)

    def check_time(self) -> None:
        """Close the connection if it was silent too long, was refused, or has expired."""
        now = self._instance.loop.time()
        if self._stale_at and now >= self._stale_at:
            self.disconnect(CONNECTION_CLOSED if self._is_refused else STALE)
        elif self._expires_at and now >= self._expires_at:
            self.disconnect(CONNECTION_EXPIRED)

    def check_subscriptions(self) -> None:
        """End the subscriptions whose tokens have expired, after the grace."""
        overdue = time.time() - EXPIRED_CLOSE_SECONDS
        for subscription in list(self.subscriptions.values()):
            if 0 < subscription.expire_at <= overdue:
                self._end_subscription(subscription, UNSUBSCRIBED_EXPIRED)

    def members(self) -> list[Member]:
        """Return the presence entries to renew."""
        caller = self._caller
        return [
            Member(subscription.channel, info_of(caller, subscription))
            for subscription in self.subscriptions.values()
            if subscription.has_presence
        ]

    def disconnect(self, disconnect: Disconnect) -> None:
        """Say why, and close."""
        self._outbox.close(disconnect)

    def unsubscribe_later(self, channel: str) -> None:
        """End a subscription on behalf of the server API; the client is told in any case."""
        self._instance.spawn(
            self._unsubscribe_by_server(channel, None, UNSUBSCRIBED_BY_SERVER), "unsubscribe"
        )

    def _end_subscription(self, subscription: Subscription, unsubscribe: Unsubscribe) -> None:
        if self.subscriptions.get(subscription.channel) is not subscription:
            return
        if subscription.is_server_side:
            lost = unsubscribe is UNSUBSCRIBED_INSUFFICIENT_STATE
            self.disconnect(INSUFFICIENT_STATE if lost else SUBSCRIPTION_EXPIRED)
            return
        subscription.end()
        self._instance.spawn(
            self._unsubscribe_by_server(subscription.channel, subscription, unsubscribe),
            "end a subscription",
        )

    async def _unsubscribe_by_server(
        self, channel: str, expected: Subscription | None, unsubscribe: Unsubscribe
    ) -> None:
        # Under the lock: a subscribe under way ends first, and the client's next one comes after.
        async with self._lock:
            if self._is_ended:
                return
            if expected is not None and self.subscriptions.get(channel) is not expected:
                return
            await self._leave(channel)
            self._outbox.write(codec.unsubscribe_frame(channel, unsubscribe))

    async def end(self) -> None:
        """Leave no trace: the connection is closed, whoever closed it."""
        self._stale_at = self._expires_at = 0.0
        for subscription in self.subscriptions.values():
            self._instance.hub.remove(subscription)
        try:
            async with self._lock:
                self._is_ended = True
                await self._say_goodbye()
        finally:
            self._instance.connections.discard(self)

    async def _say_goodbye(self) -> None:
        subscriptions = list(self.subscriptions.values())
        self.subscriptions.clear()
        present = [(each.channel, self.client) for each in subscriptions if each.has_presence]
        if present:
            await self._instance.presence.remove_many(present)
        for each in subscriptions:
            if each.sends_join_leave:
                await self._announce_leave(each)


def _verified(token: str) -> ConnectionClaims:
    try:
        return verify_connection_token(token)
    except InvalidToken as error:
        raise Disconnected(INVALID_TOKEN, str(error)) from error


_Handler = Callable[[Session, Command], Awaitable[Reply | None]]

# The first one present wins. Source: Centrifugo client protocol, envelope.
_HANDLERS: Final[dict[str, _Handler]] = {
    "connect": Session._connect,
    "subscribe": Session._subscribe,
    "unsubscribe": Session._unsubscribe,
    "publish": Session._publish,
    "presence": Session._presence,
    "presence_stats": Session._presence_stats,
    "history": Session._history,
    "rpc": Session._rpc,
    "send": Session._send,
    "refresh": Session._refresh,
    "sub_refresh": Session._sub_refresh,
}


def _known(command: Command) -> tuple[str, _Handler]:
    for name, handler in _HANDLERS.items():
        if getattr(command, name) is not None:
            return name, handler
    raise Disconnected(BAD_REQUEST, "no known command")
