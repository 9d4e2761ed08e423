"""``connect`` and ``refresh``: who a connection is, and what it is subscribed to from the start.

Called by ``commands.py`` under the session's lock.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from msgspec import Raw

from realtime import asking, conf, hooks
from realtime.granting import Grant, server_grant, ttl_seconds
from realtime.hooks import ConnectAnswer, Kind
from realtime.permissions import USER_BOUNDARY, check_size
from realtime.protocol import codec
from realtime.protocol.disconnects import (
    BAD_REQUEST,
    CHANNEL_LIMIT,
    CONNECTION_EXPIRED,
    CONNECTION_LIMIT,
    INSUFFICIENT_STATE,
    INVALID_TOKEN,
    PERMISSION_DENIED,
    Disconnected,
)
from realtime.protocol.errors import Expired, InternalError, TokenExpired
from realtime.protocol.messages import (
    ABSENT,
    Command,
    ConnectRequest,
    ConnectResult,
    RefreshResult,
    Reply,
    SubscribeRequest,
    is_absent,
)
from realtime.session import Session
from realtime.snapshot import NAMESPACE_BOUNDARY
from realtime.subscribing import Allowance, Opening, Start, run_all
from realtime.tokens import ConnectionClaims, InvalidToken, SubscribeOptions

logger = logging.getLogger(__name__)

_NOTHING_ASKED: Final = SubscribeRequest()


class _Admission(NamedTuple):
    """Who is let in, with what, and whether the server asks again at its end."""

    claims: ConnectionClaims
    grants: Mapping[str, Grant]
    data: Raw
    is_server_refreshed: bool


async def connect(session: Session, command: Command) -> None:
    """Let a client in, with its server-side subscriptions, or not at all.

    Source: Centrifugo client protocol, connect: decision order.
    """
    request = command.connect
    assert request is not None
    if not session.instance.hears_control:
        # Whoever is told to go before the command can be heard here would stay.
        raise InternalError("the control stream has not been found yet")
    claims, grants, data, is_server_refreshed = await _admission(session, request)
    if session.calls is not None:
        session.calls.settle()
    # Found from here on, so that no command of the server API passes it by.
    session.identify(claims, is_server_refreshed=is_server_refreshed)
    allowance = Allowance()
    openings = [
        _opening(session, request, channel, granted, allowance)
        for channel, granted in grants.items()
    ]
    try:
        results = await run_all(openings)
    except BaseException:
        await asyncio.gather(*map(session.subscriptions.undo, openings))
        raise
    # Nothing may be awaited between these: what arrives now follows the reply.
    result = _result(session, claims)
    result.data = data
    result.subs = dict(zip(grants, results, strict=True))
    session.outbox.write(codec.reply_frame(Reply(command.id or 0, connect=result)))
    for opening in openings:
        session.subscriptions.go_live(opening)
    logger.info(
        "connected",
        extra={"client": session.client, "user": session.user, "sdk": (request.name or "")[:32]},
    )
    if openings:
        await asyncio.gather(*map(session.subscriptions.announce, openings))


async def _admission(session: Session, request: ConnectRequest) -> _Admission:
    """Find out who wants in, and whether it may; handlers are told before it is let in."""
    asking.keep_headers(session, request)
    answer = None if request.token else await asking.who_connects(session, request)
    claims = await _credentials(session, request) if answer is None else _claims_of(answer)
    grants, by_token = _grants(session, claims), bool(request.token)
    _check_limits(session, claims, grants, by_token=by_token)
    _refuse_expired(claims)
    with session.instance.connections.arriving(claims.user, session):
        data = await asking.welcome(session, request, claims)
    # Once more, because time has gone by and others may have come in. Nothing is awaited from here
    # on until it can be found.
    if session.outbox.closed_with is not None:
        raise Disconnected(session.outbox.closed_with, "told to go before it was let in")
    _check_limits(session, claims, grants, by_token=by_token)
    _refuse_expired(claims)
    if answer is not None and is_absent(data):
        data = answer.data or ABSENT
    # Source: Centrifugo refresh proxy: where there is one, no client brings new tokens.
    is_server_refreshed = hooks.find(Kind.REFRESH, "", session.instance.parts) is not None
    return _Admission(claims, grants, data, is_server_refreshed)


def _refuse_expired(claims: ConnectionClaims) -> None:
    if claims.expire_at and claims.expire_at <= time.time():
        raise Expired


async def _credentials(session: Session, request: ConnectRequest) -> ConnectionClaims:
    settings = conf.current()
    if request.token:
        claims = await _verified(session, request.token)
        if settings.insecure:
            # Source: Centrifugo client protocol, connect: insecure connections never expire.
            return replace(claims, expire_at=0)
        return claims
    if settings.insecure or settings.allow_anonymous:
        return ConnectionClaims("", 0, None)
    raise Disconnected(BAD_REQUEST, "no token, and anonymous connections are off")


def _claims_of(answer: ConnectAnswer) -> ConnectionClaims:
    """Return what a token would say of a connection that somebody has let in."""
    return ConnectionClaims(answer.user, answer.expire_at, answer.info, answer.subs, answer.meta)


async def _verified(session: Session, token: str) -> ConnectionClaims:
    try:
        return await session.instance.token_verifier.connection(token)
    except InvalidToken as error:
        raise Disconnected(INVALID_TOKEN, str(error)) from error


def _grants(session: Session, claims: ConnectionClaims) -> dict[str, Grant]:
    """Return what the connection is subscribed to; the token is the permission."""
    wanted = dict(claims.subs)
    personal = _personal_channel(claims.user)
    if personal:
        wanted.setdefault(personal, SubscribeOptions())
    for channel in wanted:
        check_size(channel)
    return {
        channel: server_grant(session.instance.options_of(channel), options)
        for channel, options in wanted.items()
    }


def _personal_channel(user: str) -> str:
    settings = conf.current()
    if not (settings.personal_channels and user):
        return ""
    namespace = settings.personal_channel_namespace
    prefix = f"{namespace}{NAMESPACE_BOUNDARY}" if namespace else ""
    return f"{prefix}{USER_BOUNDARY}{user}"


def _check_limits(
    session: Session, claims: ConnectionClaims, grants: Mapping[str, Grant], *, by_token: bool
) -> None:
    settings = conf.current()
    if by_token and not claims.user and not settings.allow_anonymous_tokens:
        raise Disconnected(PERMISSION_DENIED, "a token without a user")
    limit = settings.user_connection_limit
    if limit and claims.user and session.instance.connections.count_of(claims.user) >= limit:
        raise Disconnected(CONNECTION_LIMIT, f"user {claims.user!r} has {limit} connections")
    if len(grants) > settings.channel_limit:
        raise Disconnected(CHANNEL_LIMIT, f"{len(grants)} server-side subscriptions")


def _opening(
    session: Session, request: ConnectRequest, channel: str, granted: Grant, allowance: Allowance
) -> Opening:
    asked = (request.subs or {}).get(channel) or _NOTHING_ASKED
    start = Start.of(asked)._replace(rejects_unrecovered=False)
    return session.subscriptions.opening(channel, granted, start, allowance, is_server_side=True)


def _result(session: Session, claims: ConnectionClaims) -> ConnectResult:
    settings = conf.current()
    expire_at = 0 if session.is_server_refreshed else claims.expire_at
    has_pings = not session.has_native_pings
    return ConnectResult(
        client=session.client,
        version=conf.SERVER_VERSION,
        expires=expire_at > 0,
        ttl=ttl_seconds(expire_at),
        ping=settings.ping_interval_seconds if has_pings else 0,
        pong=has_pings,
        time=time.time_ns() // 1_000_000 if settings.connect_includes_time else 0,
    )


async def refresh(session: Session, command: Command) -> Reply:
    """Let a connection live on until its new token's end.

    Source: Centrifugo client protocol, refresh.
    """
    request = command.refresh
    assert request is not None
    if session.is_server_refreshed:
        raise Disconnected(BAD_REQUEST, "refresh of a connection that the server refreshes")
    if not request.token:
        raise Disconnected(BAD_REQUEST, "refresh without a token")
    try:
        claims = await _verified(session, request.token)
    except TokenExpired as error:
        raise Disconnected(CONNECTION_EXPIRED, "refreshed with an expired token") from error
    if claims.user != session.user:
        raise Disconnected(INVALID_TOKEN, "refreshed with another user's token")
    _refuse_expired(claims)
    if claims.subs.keys() != session.token_channels:
        # The client comes back with its new token, and is subscribed to what that says.
        raise Disconnected(INSUFFICIENT_STATE, "refreshed with a token of other channels")
    session.renew(claims.expire_at, claims.info, claims.meta)
    result = RefreshResult(claims.expire_at > 0, ttl_seconds(claims.expire_at))
    return Reply(command.id or 0, refresh=result)
