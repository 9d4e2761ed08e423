"""The steps of one subscribe: who may, what is granted, listen, read, reply, go live.

Called by the session, which holds the result among its subscriptions.
"""

import time
from dataclasses import dataclass
from typing import Final, NamedTuple

from msgspec import Raw

from realtime import conf
from realtime.instance import Instance
from realtime.permissions import check_name, may_read_history, may_read_presence, may_subscribe
from realtime.presence import Member
from realtime.protocol import codec
from realtime.protocol.disconnects import (
    BAD_REQUEST,
    INSUFFICIENT_STATE,
    INVALID_TOKEN,
    Disconnected,
)
from realtime.protocol.errors import (
    BadRequest,
    Expired,
    PermissionDenied,
    UnrecoverablePosition,
)
from realtime.protocol.messages import (
    ABSENT,
    ClientInfo,
    StreamPosition,
    SubscribeRequest,
    SubscribeResult,
    is_absent,
)
from realtime.recovery import FAILED, History, Recovery, recover
from realtime.snapshot import ChannelOptions
from realtime.subscription import Subscription
from realtime.tokens import InvalidToken, SubscriptionClaims, verify_subscription_token

FLAG_REJECT_UNRECOVERED: Final = 2
KNOWN_DELTAS: Final = ("", "fossil")
TTL_MAX_SECONDS: Final = 365 * 24 * 3600
READS_MAX: Final = 4  # a stream that still does not fit then has lost something


class Caller(NamedTuple):
    """Who subscribes."""

    user: str
    client: str
    conn_info: Raw


@dataclass(frozen=True, slots=True)
class Grant:
    """What a subscribe command gets: options with the token's overrides, and the client's wishes.

    ``expire_at`` is in Unix seconds, 0 for never.
    """

    options: ChannelOptions
    is_positioned: bool = False
    is_recoverable: bool = False
    wants_join_leave: bool = False
    expire_at: int = 0
    chan_info: Raw | None = None
    data: Raw | None = None


def grant(request: SubscribeRequest, caller: Caller, options: ChannelOptions) -> Grant:
    """Decide whether a caller may subscribe, and to what.

    Args:
        request: Its ``channel`` is not empty.
        caller: Who asks.
        options: The channel's options; that its namespace exists was found out before.
    Raises:
        ProtocolError: 103, 107, 109 or 110.
        Disconnected: 3500 for a token of another user or channel, 3501 for an unknown delta.
    Source: Centrifugo client protocol, subscribe: checks in order.
    """
    channel = request.channel or ""
    check_name(channel, options)
    if request.type:
        raise PermissionDenied("not a subscription type of this namespace")
    if (request.delta or "") not in KNOWN_DELTAS:
        raise Disconnected(BAD_REQUEST, f"unknown delta {request.delta!r}")
    claims = _claims(request.token, channel, caller) if request.token else None
    insecure = conf.current().insecure
    if claims is not None:
        options = claims.override.apply(options)
    elif not may_subscribe(channel, options, caller.user, insecure=insecure):
        raise PermissionDenied
    if not is_absent(request.tf):
        raise BadRequest("tags filter is not allowed")
    expire_at = claims.expire_at if claims is not None else 0
    if expire_at and expire_at <= time.time():
        raise Expired
    return _with_wishes(request, caller, options, claims, expire_at)


def _with_wishes(
    request: SubscribeRequest,
    caller: Caller,
    options: ChannelOptions,
    claims: SubscriptionClaims | None,
    expire_at: int,
) -> Grant:
    insecure = conf.current().insecure
    may_history = may_read_history(options, caller.user, is_subscribed=True, insecure=insecure)
    may_presence = may_read_presence(options, caller.user, is_subscribed=True, insecure=insecure)
    wants_recovery = bool(request.recoverable) and (options.allow_recovery or may_history)
    wants_position = bool(request.positioned) and (options.allow_positioning or may_history)
    is_recoverable = options.has_history and (options.force_recovery or wants_recovery)
    wants_events = options.force_push_join_leave or (bool(request.join_leave) and may_presence)
    return Grant(
        options,
        is_positioned=is_recoverable or options.force_positioning or wants_position,
        is_recoverable=is_recoverable,
        wants_join_leave=options.join_leave and wants_events,
        expire_at=expire_at,
        chan_info=claims.info if claims is not None else None,
        data=claims.data if claims is not None else None,
    )


def _claims(token: str, channel: str, caller: Caller) -> SubscriptionClaims:
    try:
        claims = verify_subscription_token(token)
    except InvalidToken as error:
        raise PermissionDenied(str(error)) from error
    is_for_caller = claims.user == caller.user and claims.client in ("", caller.client)
    if claims.channel != channel or not is_for_caller:
        raise Disconnected(INVALID_TOKEN, "a subscription token of another user or channel")
    return claims


class Opening:
    """One subscribe under way, from the first step to going live.

    ``undo`` takes back what was done, wherever it stopped.
    """

    def __init__(
        self,
        instance: Instance,
        request: SubscribeRequest,
        caller: Caller,
        granted: Grant,
        subscription: Subscription,
    ) -> None:
        self._instance = instance
        self._request = request
        self._caller = caller
        self._grant = granted
        self.subscription = subscription
        self._position: StreamPosition | None = None

    async def run(self) -> SubscribeResult:
        """Listen and read; return the result that the client is to be sent.

        The reply must be written and ``go_live`` called without an await after this returns, or
        what arrives in between would overtake the reply.

        Raises:
            UnrecoverablePosition: The client asked to be refused rather than to start anew.
            BrokerUnavailable: Redis did not answer in time.
            Disconnected: 3010; the stream and what arrived do not fit together.
        """
        await self._instance.hub.join(self.subscription)
        if self._grant.options.presence:
            # Marked first: an add that got no answer may have been done all the same.
            self.subscription.has_presence = True
            await self._instance.presence.add(self.member())
        if self._grant.is_positioned:
            return self._result(await self._recovery())
        await self._place_channel()
        return self._result(None)

    def go_live(self) -> None:
        """Let deliveries through; the reply was just written."""
        self._instance.hub.go_live(self.subscription, self._position)

    async def undo(self) -> None:
        """Leave no trace of a subscribe that failed."""
        self._instance.hub.remove(self.subscription)
        if self.subscription.has_presence:
            await self._instance.presence.remove(self.subscription.channel, self._caller.client)

    def member(self) -> Member:
        """Return the caller's presence entry."""
        return Member(self.subscription.channel, info_of(self._caller, self.subscription))

    async def _place_channel(self) -> None:
        """Give the hub a position of a channel that has a stream, if it has none yet.

        The first subscriber who has one brings it. Coming later, it would pass over what is on
        the way to those who have none.
        """
        name = self.subscription.channel
        if self._grant.options.has_history and self._instance.hub.lacks_position(name):
            history = await self._instance.reads.read(name, after_offset=None)
            self._instance.hub.place(name, history.position)

    async def _recovery(self) -> Recovery | None:
        """Read the stream until it and what has arrived since fit together."""
        since = self._since()
        name = self.subscription.channel
        hub = self._instance.hub
        after_offset = since.offset if since is not None else None
        for attempt in range(READS_MAX):
            history = await self._instance.reads.read(name, after_offset=after_offset)
            if hub.is_current(self.subscription, history.position):
                self._position = history.position
                return self._judge(since, history)
            if attempt:
                # Read twice, so this is newer than what the hub holds.
                await hub.catch_up(name, history.position)
        raise Disconnected(INSUFFICIENT_STATE, f"the history of {name} does not fit")

    def _since(self) -> StreamPosition | None:
        request = self._request
        if not (request.recover and self._grant.is_recoverable):
            return None
        # Neither offset nor epoch means "since 0, any epoch": SDKs omit both when empty.
        return StreamPosition(request.offset or 0, request.epoch or "")

    def _judge(self, since: StreamPosition | None, history: History) -> Recovery | None:
        if since is None:
            return None
        settings = conf.current()
        recovery = recover(
            since,
            history,
            limit=settings.recovery_max_publications,
            bytes_max=settings.queue_max_bytes // 2,
            size_of=codec.encoded_size,
        )
        rejects = (self._request.flag or 0) & FLAG_REJECT_UNRECOVERED
        if not recovery.is_recovered and rejects:
            raise UnrecoverablePosition
        return recovery

    def _result(self, recovery: Recovery | None) -> SubscribeResult:
        granted, position = self._grant, self._position or StreamPosition()
        outcome = recovery or FAILED
        # A recovered client goes on from what it asked for, by the publications it is given.
        offset = (self._request.offset or 0) if outcome.is_recovered else position.offset
        return SubscribeResult(
            expires=granted.expire_at > 0,
            ttl=ttl_seconds(granted.expire_at),
            recoverable=granted.is_recoverable,
            positioned=granted.is_positioned,
            epoch=position.epoch,
            offset=offset,
            recovered=outcome.is_recovered,
            was_recovering=bool(self._request.recover),
            publications=list(outcome.publications),
            data=granted.data or ABSENT,
        )


def refreshed(subscription: Subscription, token: str, caller: Caller) -> None:
    """Let a subscription live on until its new token's end.

    Raises:
        TokenExpired: The token is past its ``exp``.
        Expired: It ends in the past.
        Disconnected: 3500; it is invalid, or of another user or channel.
    Source: Centrifugo client protocol, sub_refresh.
    """
    try:
        claims = verify_subscription_token(token)
    except InvalidToken as error:
        raise Disconnected(INVALID_TOKEN, str(error)) from error
    if claims.user != caller.user or claims.channel != subscription.channel:
        raise Disconnected(INVALID_TOKEN, "sub_refresh with a token of another subscription")
    if claims.expire_at and claims.expire_at <= time.time():
        raise Expired
    subscription.expire_at = claims.expire_at
    subscription.chan_info = claims.info or subscription.chan_info


def info_of(caller: Caller, subscription: Subscription | None) -> ClientInfo:
    """Return a connection as others see it in a channel."""
    chan_info = subscription.chan_info if subscription is not None else None
    return ClientInfo(caller.user, caller.client, caller.conn_info, chan_info or ABSENT)


def ttl_seconds(expire_at: int) -> int:
    """Return for how many seconds something lives that expires: at least one, 365 days at most.

    0 for what never expires. Source: Centrifugo client protocol, connect.
    """
    if not expire_at:
        return 0
    return min(max(1, round(expire_at - time.time())), TTL_MAX_SECONDS)
