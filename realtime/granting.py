"""Who may subscribe and what the subscription is given; nothing is subscribed here.

Called by the session and by the handlers of its commands. A client's own subscribe is judged by
its token or the channel's options, and may wish for features; what the server subscribes by
itself was allowed elsewhere, and wishes for nothing.
"""

import time
from dataclasses import dataclass
from typing import Final, NamedTuple

from msgspec import Raw

from realtime import conf
from realtime.permissions import check_name, may_read_history, may_read_presence, may_subscribe
from realtime.protocol.disconnects import BAD_REQUEST, INVALID_TOKEN, Disconnected
from realtime.protocol.errors import BadRequest, Expired, PermissionDenied
from realtime.protocol.messages import ABSENT, ClientInfo, SubscribeRequest, is_absent
from realtime.snapshot import ChannelOptions
from realtime.subscription import Subscription
from realtime.tokens import SubscribeOptions, SubscriptionClaims

KNOWN_DELTAS: Final = ("", "fossil")
TTL_MAX_SECONDS: Final = 365 * 24 * 3600


class Caller(NamedTuple):
    """Who subscribes."""

    user: str
    client: str
    conn_info: Raw


@dataclass(frozen=True, slots=True)
class Grant:
    """What a subscription gets: options with overrides, and a client's wishes as far as allowed.

    ``expire_at`` is in Unix seconds, 0 for never.
    """

    options: ChannelOptions
    is_positioned: bool = False
    is_recoverable: bool = False
    wants_join_leave: bool = False
    expire_at: int = 0
    chan_info: Raw | None = None
    data: Raw | None = None


def check_request(request: SubscribeRequest, options: ChannelOptions) -> None:
    """Refuse what no token could allow.

    Raises:
        ProtocolError: 103 or 107.
        Disconnected: 3501 for an unknown delta.
    Source: Centrifugo client protocol, subscribe: checks in order.
    """
    check_name(request.channel or "", options)
    if request.type:
        raise PermissionDenied("not a subscription type of this namespace")
    if (request.delta or "") not in KNOWN_DELTAS:
        raise Disconnected(BAD_REQUEST, f"unknown delta {request.delta!r:.60}")


def grant(
    request: SubscribeRequest,
    caller: Caller,
    options: ChannelOptions,
    claims: SubscriptionClaims | None,
) -> Grant:
    """Decide whether a caller may subscribe, and to what.

    Args:
        request: It has passed ``check_request``.
        caller: Who asks.
        options: The channel's options; that its namespace exists was found out before.
        claims: What its token says, None without one.
    Raises:
        ProtocolError: 103, 107 or 110.
        Disconnected: 3500 for a token of another user or channel.
    Source: Centrifugo client protocol, subscribe: checks in order.
    """
    channel = request.channel or ""
    insecure = conf.current().insecure
    if claims is not None:
        _refuse_others(claims, channel, caller)
        options = claims.override.apply(options)
    elif not may_subscribe(channel, options, caller.user, insecure=insecure):
        raise PermissionDenied
    if not is_absent(request.tf):
        raise BadRequest("tags filter is not allowed")
    expire_at = claims.expire_at if claims is not None else 0
    if expire_at and expire_at <= time.time():
        raise Expired
    return _with_wishes(request, caller, options, claims, expire_at)


def _refuse_others(claims: SubscriptionClaims, channel: str, caller: Caller) -> None:
    is_for_caller = claims.user == caller.user and claims.client in ("", caller.client)
    if claims.channel != channel or not is_for_caller:
        raise Disconnected(INVALID_TOKEN, "a subscription token of another user or channel")


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


def server_grant(options: ChannelOptions, given: SubscribeOptions) -> Grant:
    """Return what a server-side subscription gets: no wishes, only what the options force.

    Source: Centrifugo connection token claims, ``channels`` and ``subs``.
    """
    options = given.override.apply(options)
    is_recoverable = options.has_history and options.force_recovery
    return Grant(
        options,
        is_positioned=is_recoverable or options.force_positioning,
        is_recoverable=is_recoverable,
        wants_join_leave=options.join_leave and options.force_push_join_leave,
        expire_at=given.expire_at,
        chan_info=given.info,
        data=given.data,
    )


def answered(request: SubscribeRequest, options: ChannelOptions, answer: SubscribeOptions) -> Grant:
    """Return what a client gets that somebody else has let in; its wishes do not count.

    Args:
        request: It has passed ``check_request``.
        options: The channel's options.
        answer: With what it was let in.
    Raises:
        ProtocolError: 107 or 110.
    Source: Centrifugo client protocol, subscribe proxy.
    """
    if not is_absent(request.tf):
        raise BadRequest("tags filter is not allowed")
    if answer.expire_at and answer.expire_at <= time.time():
        raise Expired
    return server_grant(options, answer)


def refresh(subscription: Subscription, claims: SubscriptionClaims, caller: Caller) -> None:
    """Let a subscription live on until its new token's end.

    Raises:
        Expired: It ends in the past.
        Disconnected: 3500; it is of another user or channel.
    Source: Centrifugo client protocol, sub_refresh.
    """
    _refuse_others(claims, subscription.channel, caller)
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
