"""A client's commands: what each means now, and its reply.

Called by the consumer with each incoming frame. The one place where errors become replies and
outcomes become closes. Commands of a connection are handled one after another.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from realtime import channel_commands, conf
from realtime.protocol import codec
from realtime.protocol.disconnects import (
    BAD_REQUEST,
    CONNECTION_EXPIRED,
    INVALID_TOKEN,
    NOT_AVAILABLE,
    Disconnected,
)
from realtime.protocol.errors import (
    AlreadySubscribed,
    BadRequest,
    Expired,
    InternalError,
    LimitExceeded,
    NotAvailable,
    PermissionDenied,
    ProtocolError,
    TokenExpired,
)
from realtime.protocol.messages import (
    ChannelRequest,
    Command,
    ConnectRequest,
    ConnectResult,
    Empty,
    RefreshResult,
    Reply,
    SubscribeRequest,
)
from realtime.session import Session
from realtime.snapshot import ChannelOptions, Snapshot
from realtime.subscribing import Grant, Opening, grant, info_of, refreshed, ttl_seconds
from realtime.subscription import Subscription
from realtime.tokens import ConnectionClaims, InvalidToken, verify_connection_token

logger = logging.getLogger(__name__)


async def receive(session: Session, frame: str | bytes) -> None:
    """Handle one incoming message: its commands in order, until one ends the connection."""
    try:
        for command in codec.decode_commands(frame):
            async with session.lock:
                if session.outbox.closed_with is not None:
                    return
                await _handle(session, command)
    except Disconnected as outcome:
        if outcome.disconnect is BAD_REQUEST:
            logger.warning("client %s broke the protocol: %s", session.client, outcome)
        session.disconnect(outcome.disconnect)


async def _handle(session: Session, command: Command) -> None:
    if not command.id and command.send is None:
        _take_pong(session)
        return
    name, run = _known(command)
    if session.is_refused or (name == "connect") is session.is_connected:
        raise Disconnected(BAD_REQUEST, f"{name} out of place")
    try:
        reply = await run(session, command)
    except ProtocolError as error:
        _refuse(session, command, name, error)
    except Disconnected:
        raise
    except Exception:
        logger.exception("command %s of client %s failed", name, session.client)
        _refuse(session, command, name, InternalError())
    else:
        if reply is not None:
            session.outbox.write(codec.reply_frame(reply))


def _take_pong(session: Session) -> None:
    if not session.is_pinged:
        raise Disconnected(BAD_REQUEST, "a pong without a ping")
    session.is_pinged = False


def _refuse(session: Session, command: Command, name: str, error: ProtocolError) -> None:
    logger.debug("client %s: %s refused: %s %s", session.client, name, error.code, error)
    session.outbox.write(codec.error_frame(command.id or 0, error))
    if name == "connect":
        session.refuse()
        logger.info(
            "connection refused",
            extra={"client": session.client, "code": error.code, "reason": error.message},
        )


# connect and refresh ------------------------------------------------------------------------


async def _connect(session: Session, command: Command) -> Reply:
    request = command.connect
    assert request is not None
    if not session.instance.hears_control:
        # Whoever is told to go before the command can be heard here would stay.
        raise InternalError("the control stream has not been found yet")
    claims = _credentials(request)
    if claims.expire_at and claims.expire_at <= time.time():
        raise Expired
    session.identify(claims)
    logger.info(
        "connected",
        extra={"client": session.client, "user": session.user, "sdk": (request.name or "")[:32]},
    )
    result = ConnectResult(
        client=session.client,
        version=conf.SERVER_VERSION,
        expires=claims.expire_at > 0,
        ttl=ttl_seconds(claims.expire_at),
        ping=conf.current().ping_interval_seconds,
        pong=True,
    )
    return Reply(command.id or 0, connect=result)


def _credentials(request: ConnectRequest) -> ConnectionClaims:
    settings = conf.current()
    if request.token:
        claims = _verified(request.token)
        # Source: Centrifugo client protocol, connect: insecure connections never expire.
        return ConnectionClaims(claims.user, 0, claims.info) if settings.insecure else claims
    if settings.insecure or settings.allow_anonymous:
        return ConnectionClaims("", 0, None)
    raise Disconnected(BAD_REQUEST, "no token, and anonymous connections are off")


def _verified(token: str) -> ConnectionClaims:
    try:
        return verify_connection_token(token)
    except InvalidToken as error:
        raise Disconnected(INVALID_TOKEN, str(error)) from error


async def _refresh(session: Session, command: Command) -> Reply:
    request = command.refresh
    assert request is not None
    if not request.token:
        raise Disconnected(BAD_REQUEST, "refresh without a token")
    try:
        claims = _verified(request.token)
    except TokenExpired as error:
        raise Disconnected(CONNECTION_EXPIRED, "refreshed with an expired token") from error
    if claims.user != session.user:
        raise Disconnected(INVALID_TOKEN, "refreshed with another user's token")
    if claims.expire_at and claims.expire_at <= time.time():
        raise Expired
    session.renew(claims)
    result = RefreshResult(claims.expire_at > 0, ttl_seconds(claims.expire_at))
    return Reply(command.id or 0, refresh=result)


# Subscriptions ------------------------------------------------------------------------------


def _snapshot(session: Session) -> Snapshot:
    if session.instance.snapshot is None:
        raise InternalError("the database has not answered yet")
    return session.instance.snapshot


async def _subscribe(session: Session, command: Command) -> None:
    request = command.subscribe
    assert request is not None
    if not request.channel:
        raise Disconnected(BAD_REQUEST, "no channel")
    if request.channel in session.subscriptions:
        raise AlreadySubscribed
    if len(session.subscriptions) >= conf.current().channel_limit:
        raise LimitExceeded
    granted = grant(request, session.caller, _snapshot(session).options_of(request.channel))
    opening = Opening(
        session.instance, request, session.caller, granted, _made(session, request, granted)
    )
    try:
        result = await opening.run()
    except BaseException:
        await session.attempt(opening.undo)
        raise
    # Nothing may be awaited between these: what arrives now follows the reply.
    session.subscriptions[request.channel] = opening.subscription
    session.outbox.write(codec.reply_frame(Reply(command.id or 0, subscribe=result)))
    opening.go_live()
    if opening.subscription.sends_join_leave:
        channel, info = opening.member()
        await session.attempt(lambda: session.instance.broker.join(channel, info))


def _made(session: Session, request: SubscribeRequest, granted: Grant) -> Subscription:
    subscription = Subscription(
        request.channel or "",
        write=session.outbox.write,
        end=session.end_subscription,
        is_positioned=granted.is_positioned,
        wants_join_leave=granted.wants_join_leave,
    )
    subscription.chan_info = granted.chan_info
    subscription.expire_at = granted.expire_at
    subscription.sends_join_leave = granted.options.join_leave
    return subscription


async def _unsubscribe(session: Session, command: Command) -> Reply:
    assert command.unsubscribe is not None
    if not command.unsubscribe.channel:
        raise Disconnected(BAD_REQUEST, "no channel")
    await session.leave(command.unsubscribe.channel)
    return Reply(command.id or 0, unsubscribe=Empty())


async def _sub_refresh(session: Session, command: Command) -> Reply:
    request = command.sub_refresh
    assert request is not None
    if not request.channel:
        raise Disconnected(BAD_REQUEST, "no channel")
    if not request.token:
        raise BadRequest("sub_refresh without a token")
    subscription = session.subscriptions.get(request.channel)
    if subscription is None:
        raise PermissionDenied("not subscribed")
    refreshed(subscription, request.token, session.caller)
    expire_at = subscription.expire_at
    result = RefreshResult(expire_at > 0, ttl_seconds(expire_at))
    return Reply(command.id or 0, sub_refresh=result)


# Channels -----------------------------------------------------------------------------------


def _channel(session: Session, channel: str | None) -> tuple[str, ChannelOptions, bool]:
    """Return a channel's name and options, and whether the connection is subscribed to it."""
    if not channel:
        raise Disconnected(BAD_REQUEST, "no channel")
    options = channel_commands.options_of(_snapshot(session), channel)
    return channel, options, channel in session.subscriptions


async def _publish(session: Session, command: Command) -> Reply:
    request = command.publish
    assert request is not None
    channel, options, is_subscribed = _channel(session, request.channel)
    info = info_of(session.caller, session.subscriptions.get(channel))
    await channel_commands.publish(
        session.instance, options, request, info, is_subscribed=is_subscribed
    )
    return Reply(command.id or 0, publish=Empty())


async def _history(session: Session, command: Command) -> Reply:
    request = command.history
    assert request is not None
    _, options, is_subscribed = _channel(session, request.channel)
    result = await channel_commands.history(
        session.instance, options, request, session.user, is_subscribed=is_subscribed
    )
    return Reply(command.id or 0, history=result)


async def _presence(session: Session, command: Command) -> Reply:
    channel = _present_channel(session, command.presence)
    result = await channel_commands.presence(session.instance, channel)
    return Reply(command.id or 0, presence=result)


async def _presence_stats(session: Session, command: Command) -> Reply:
    channel = _present_channel(session, command.presence_stats)
    result = await channel_commands.presence_stats(session.instance, channel)
    return Reply(command.id or 0, presence_stats=result)


def _present_channel(session: Session, request: ChannelRequest | None) -> str:
    assert request is not None
    channel, options, is_subscribed = _channel(session, request.channel)
    channel_commands.check_presence(options, session.user, is_subscribed=is_subscribed)
    return channel


async def _rpc(session: Session, command: Command) -> Reply:
    raise NotAvailable("no method is configured")


async def _send(session: Session, command: Command) -> Reply:
    raise Disconnected(NOT_AVAILABLE, "no handler of messages is configured")


# Dispatch -----------------------------------------------------------------------------------

_Handler = Callable[[Session, Command], Awaitable[Reply | None]]

# The first one present wins. Source: Centrifugo client protocol, envelope.
_HANDLERS: Final[dict[str, _Handler]] = {
    "connect": _connect,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "publish": _publish,
    "presence": _presence,
    "presence_stats": _presence_stats,
    "history": _history,
    "rpc": _rpc,
    "send": _send,
    "refresh": _refresh,
    "sub_refresh": _sub_refresh,
}


def _known(command: Command) -> tuple[str, _Handler]:
    for name, handler in _HANDLERS.items():
        if getattr(command, name) is not None:
            return name, handler
    raise Disconnected(BAD_REQUEST, "no known command")
