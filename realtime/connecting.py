"""``connect`` and ``refresh``: who a connection is, and what it is subscribed to from the start.

Called by ``commands.py`` under the session's lock.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Final

from realtime import conf
from realtime.granting import Grant, server_grant, ttl_seconds
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
    Command,
    ConnectRequest,
    ConnectResult,
    RefreshResult,
    Reply,
    SubscribeRequest,
)
from realtime.session import Session
from realtime.snapshot import NAMESPACE_BOUNDARY
from realtime.subscribing import Allowance, Opening, Start, run_all
from realtime.tokens import ConnectionClaims, InvalidToken, SubscribeOptions

logger = logging.getLogger(__name__)

_NOTHING_ASKED: Final = SubscribeRequest()


async def connect(session: Session, command: Command) -> None:
    """Let a client in, with its server-side subscriptions, or not at all.

    Source: Centrifugo client protocol, connect: decision order.
    """
    request = command.connect
    assert request is not None
    if not session.instance.hears_control:
        # Whoever is told to go before the command can be heard here would stay.
        raise InternalError("the control stream has not been found yet")
    claims = await _credentials(session, request)
    grants = _grants(session, claims)
    _check_limits(session, claims, grants, by_token=bool(request.token))
    if claims.expire_at and claims.expire_at <= time.time():
        raise Expired
    # Found from here on, so that no command of the server API passes it by.
    session.identify(claims)
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


async def _credentials(session: Session, request: ConnectRequest) -> ConnectionClaims:
    settings = conf.current()
    if request.token:
        claims = await _verified(session, request.token)
        if settings.insecure:
            # Source: Centrifugo client protocol, connect: insecure connections never expire.
            return ConnectionClaims(claims.user, 0, claims.info, claims.subs)
        return claims
    if settings.insecure or settings.allow_anonymous:
        return ConnectionClaims("", 0, None)
    raise Disconnected(BAD_REQUEST, "no token, and anonymous connections are off")


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
    has_pings = not session.has_native_pings
    return ConnectResult(
        client=session.client,
        version=conf.SERVER_VERSION,
        expires=claims.expire_at > 0,
        ttl=ttl_seconds(claims.expire_at),
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
    if not request.token:
        raise Disconnected(BAD_REQUEST, "refresh without a token")
    try:
        claims = await _verified(session, request.token)
    except TokenExpired as error:
        raise Disconnected(CONNECTION_EXPIRED, "refreshed with an expired token") from error
    if claims.user != session.user:
        raise Disconnected(INVALID_TOKEN, "refreshed with another user's token")
    if claims.expire_at and claims.expire_at <= time.time():
        raise Expired
    if claims.subs.keys() != session.token_channels:
        # The client comes back with its new token, and is subscribed to what that says.
        raise Disconnected(INSUFFICIENT_STATE, "refreshed with a token of other channels")
    session.renew(claims.expire_at, claims.info)
    result = RefreshResult(claims.expire_at > 0, ttl_seconds(claims.expire_at))
    return Reply(command.id or 0, refresh=result)
