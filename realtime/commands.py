"""A client's commands: what each means now, and its reply.

Called by the consumer with each incoming frame. The one place where errors become replies and
outcomes become closes. What changes a connection is done one after another; what only asks or
publishes may run beside it, as far as ``command_concurrency_limit`` says.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from realtime import channel_commands, conf, connecting, granting
from realtime.granting import Grant, info_of, ttl_seconds
from realtime.permissions import check_name
from realtime.protocol import codec
from realtime.protocol.disconnects import (
    BAD_REQUEST,
    INVALID_TOKEN,
    NOT_AVAILABLE,
    TOO_MANY_REQUESTS,
    Disconnected,
)
from realtime.protocol.errors import (
    AlreadySubscribed,
    BadRequest,
    InternalError,
    LimitExceeded,
    NotAvailable,
    PermissionDenied,
    ProtocolError,
)
from realtime.protocol.messages import (
    ChannelRequest,
    Command,
    Empty,
    RefreshResult,
    Reply,
    SubscribeRequest,
)
from realtime.session import Session
from realtime.snapshot import ChannelOptions
from realtime.subscribing import Allowance, Start
from realtime.tokens import InvalidToken

logger = logging.getLogger(__name__)


async def receive(session: Session, frame: str | bytes) -> None:
    """Handle one incoming message: its commands in order, until one ends the connection.

    What came in before the client could read of the end is not carried out. Every command counts
    for ``command_rate``, pongs too.
    """
    if session.outbox.closed_with is not None:
        return
    session.is_busy = True
    try:
        for command in codec.decode_commands(frame):
            if not session.may_command():
                raise Disconnected(TOO_MANY_REQUESTS, "more commands than command_rate")
            if _may_run_beside(session, command):
                await _start_beside(session, command)
                continue
            async with session.lock:
                if session.outbox.closed_with is not None:
                    return
                await _handle(session, command)
    except Disconnected as outcome:
        _end(session, outcome)
    finally:
        session.is_busy = False


def _end(session: Session, outcome: Disconnected) -> None:
    if outcome.disconnect is BAD_REQUEST:
        logger.warning("client %s broke the protocol: %.200s", session.client, outcome)
    else:
        code, reason = outcome.disconnect
        logger.info("client %s: %d %s: %.200s", session.client, code, reason, outcome)
    session.disconnect(outcome.disconnect)


def _may_run_beside(session: Session, command: Command) -> bool:
    if session.places is None or not session.is_connected or not command.id:
        return False
    return _known(command)[0] in _CHANGING_NOTHING_HERE


async def _start_beside(session: Session, command: Command) -> None:
    places = session.places
    assert places is not None
    await places.acquire()  # who sends more waits, and so does its socket
    if session.outbox.closed_with is not None:
        places.release()
        return

    async def run() -> None:
        # Also if the connection is closed before this begins: the command came before that.
        try:
            await _handle(session, command)
        except Disconnected as outcome:
            _end(session, outcome)
        finally:
            places.release()

    session.instance.tasks.spawn(run(), "command")


async def _handle(session: Session, command: Command) -> None:
    if not command.id and command.send is None:
        if not session.take_pong():
            raise Disconnected(BAD_REQUEST, "a pong without a ping")
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


def _refuse(session: Session, command: Command, name: str, error: ProtocolError) -> None:
    logger.debug("client %s: %s refused: %s %s", session.client, name, error.code, error)
    session.outbox.write(codec.error_frame(command.id or 0, error))
    if name == "connect":
        session.refuse()
        # Never of the token itself: which key, claim or channel was not accepted.
        detail = {"code": error.code, "reason": error.message, "detail": str(error)[:200]}
        logger.info("connection refused", extra={"client": session.client, **detail})


# Subscriptions ------------------------------------------------------------------------------


async def _subscribe(session: Session, command: Command) -> None:
    request = command.subscribe
    assert request is not None
    if not request.channel:
        raise Disconnected(BAD_REQUEST, "no channel")
    if request.channel in session.subscriptions:
        raise AlreadySubscribed
    if len(session.subscriptions) >= conf.current().channel_limit:
        raise LimitExceeded
    granted = await _granted(session, request)
    opening = session.subscriptions.opening(
        request.channel, granted, Start.of(request), Allowance()
    )
    try:
        result = await opening.run()
    except BaseException:
        await session.subscriptions.undo(opening)
        raise
    # Nothing may be awaited between these: what arrives now follows the reply.
    session.outbox.write(codec.reply_frame(Reply(command.id or 0, subscribe=result)))
    session.subscriptions.go_live(opening)
    await session.subscriptions.announce(opening)


async def _granted(session: Session, request: SubscribeRequest) -> Grant:
    options = session.instance.options_of(request.channel or "")
    granting.check_request(request, options)
    claims = None
    if request.token:
        try:
            claims = await session.instance.token_verifier.subscription(request.token)
        except InvalidToken as error:
            logger.info("client %s: subscription token refused: %.200s", session.client, error)
            raise PermissionDenied(str(error)) from error
    return granting.grant(request, session.caller, options, claims)


async def _unsubscribe(session: Session, command: Command) -> Reply:
    assert command.unsubscribe is not None
    if not command.unsubscribe.channel:
        raise Disconnected(BAD_REQUEST, "no channel")
    await session.subscriptions.leave(command.unsubscribe.channel)
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
    if subscription.is_server_side:
        raise Disconnected(BAD_REQUEST, "sub_refresh of a server-side subscription")
    try:
        claims = await session.instance.token_verifier.subscription(request.token)
    except InvalidToken as error:
        raise Disconnected(INVALID_TOKEN, str(error)) from error
    granting.refresh(subscription, claims, session.caller)
    expire_at = subscription.expire_at
    result = RefreshResult(expire_at > 0, ttl_seconds(expire_at))
    return Reply(command.id or 0, sub_refresh=result)


# Channels -----------------------------------------------------------------------------------


def _channel(session: Session, channel: str | None) -> tuple[str, ChannelOptions, bool]:
    """Return a channel's name and options, and whether the connection is subscribed to it."""
    if not channel:
        raise Disconnected(BAD_REQUEST, "no channel")
    options = session.instance.options_of(channel)
    check_name(channel, options)
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
    "connect": connecting.connect,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "publish": _publish,
    "presence": _presence,
    "presence_stats": _presence_stats,
    "history": _history,
    "rpc": _rpc,
    "send": _send,
    "refresh": connecting.refresh,
    "sub_refresh": _sub_refresh,
}

_CHANGING_NOTHING_HERE: Final = {"publish", "presence", "presence_stats", "history", "rpc"}


def _known(command: Command) -> tuple[str, _Handler]:
    for name, handler in _HANDLERS.items():
        if getattr(command, name) is not None:
            return name, handler
    raise Disconnected(BAD_REQUEST, "no known command")
