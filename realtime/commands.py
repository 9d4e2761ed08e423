"""A client's commands: what each means now, and its reply.

Called by the consumer with each incoming frame. The one place where errors become replies and
outcomes become closes. What changes a connection is done one after another; what only reads or
publishes may run beside it, as far as ``command_concurrency_limit`` says. What asks somebody else
always does: see ``_begin``.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from realtime import asking, connecting, stream_commands, subscription_commands
from realtime.calls import ongoing
from realtime.protocol import codec
from realtime.protocol.disconnects import (
    BAD_REQUEST,
    NOT_AVAILABLE,
    TOO_MANY_REQUESTS,
    Disconnected,
)
from realtime.protocol.errors import InternalError, ProtocolError, TooManyRequests
from realtime.protocol.messages import Command, Reply
from realtime.session import Session

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
            await _begin(session, command)
            if session.outbox.closed_with is not None:
                return
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


async def _begin(session: Session, command: Command) -> None:
    """Handle a command in its turn, or start it to run beside those that come after it.

    A connect that asks somebody is waited for by every other command; a subscribe by those of its
    channel. Publications to a channel that somebody is asked about keep their order.
    """
    name = _known(command)[0] if command.id else ""
    if session.calls is not None:
        await session.calls.until_clear(_changed_channel(name, command))
    if name == "rpc" and session.is_connected:
        await _handle(session, command, _start_rpc)
    elif _asks(session, name, command):
        await _start_asking(session, name, command)
    elif session.places is not None and session.is_connected and name in _CHANGING_NOTHING_HERE:
        await _start_beside(session, command, session.places)
    else:
        async with session.lock:
            if session.outbox.closed_with is None:
                await _handle(session, command)


def _changed_channel(name: str, command: Command) -> str | None:
    if name not in ("subscribe", "unsubscribe", "sub_refresh"):
        return None
    channel: str | None = getattr(command, name).channel
    return channel


def _asks(session: Session, name: str, command: Command) -> bool:
    """Tell whether a command asks somebody who may take a while."""
    if name == "connect":
        assert command.connect is not None
        is_first = not session.is_connected and not session.is_refused
        return is_first and asking.asks_at_connect(session, command.connect)
    if not session.is_connected:
        return False
    if command.subscribe is not None and name == "subscribe":
        return asking.asks_at_subscribe(session, command.subscribe)
    if command.publish is not None and name == "publish":
        channel = command.publish.channel or ""
        is_behind = session.calls is not None and channel in session.calls.publishing
        return is_behind or asking.asks_at_publish(session, channel)
    return name in _READING and asking.asks_rule(session, getattr(command, name).channel or "")


async def _start_asking(session: Session, name: str, command: Command) -> None:
    if name != "connect":
        await ongoing(session, session.instance.tasks).until_place()
        if session.outbox.closed_with is not None:
            return
    calls = ongoing(session, session.instance.tasks)
    channel = getattr(getattr(command, name), "channel", None) or ""
    ahead = calls.publishing.get(channel) if name == "publish" else None
    task = calls.start_hook(_handle_asking(session, name, command, ahead), name)
    if name == "connect":
        calls.connecting = task
    elif name == "subscribe":
        calls.subscribing[channel] = task
    elif name == "publish":
        calls.publishing[channel] = task


async def _handle_asking(
    session: Session, name: str, command: Command, ahead: asyncio.Task[None] | None
) -> None:
    try:
        if name == "connect":
            async with session.lock:
                await _handle(session, command)
        elif name == "subscribe":
            await _handle(session, command, subscription_commands.subscribe_beside)
        else:
            if ahead is not None:
                await asyncio.wait([ahead])
            await _handle(session, command)
    except Disconnected as outcome:
        _end(session, outcome)


async def _start_beside(session: Session, command: Command, places: asyncio.Semaphore) -> None:
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


async def _handle(session: Session, command: Command, run: "_Handler | None" = None) -> None:
    """Carry out a command by ``run``, or else by the handler of its kind, and answer."""
    if not command.id and command.send is None:
        if not session.take_pong():
            raise Disconnected(BAD_REQUEST, "a pong without a ping")
        return
    name, handler = _known(command)
    if session.is_refused or (name == "connect") is session.is_connected:
        raise Disconnected(BAD_REQUEST, f"{name} out of place")
    await _answer(session, command, name, run or handler)


async def _answer(session: Session, command: Command, name: str, run: "_Handler") -> None:
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


# Others ------------------------------------------------------------------------------------


async def _start_rpc(session: Session, command: Command) -> None:
    """Have a method called beside everything; its reply comes when it has one."""
    assert command.rpc is not None
    answerer, request = asking.find_method(session, command.rpc)
    if session.calls is not None and session.calls.is_full:
        raise TooManyRequests

    async def call(session: Session, command: Command) -> Reply:
        result = await asking.rpc_result(session, answerer, request)
        return Reply(command.id or 0, rpc=result)

    async def run() -> None:
        try:
            await _answer(session, command, "rpc", call)
        except Disconnected as outcome:
            _end(session, outcome)

    ongoing(session, session.instance.tasks).start_rpc(run(), answerer.label)


async def _send(session: Session, command: Command) -> Reply:
    raise Disconnected(NOT_AVAILABLE, "no handler of messages is configured")


# Dispatch -----------------------------------------------------------------------------------

_Handler = Callable[[Session, Command], Awaitable[Reply | None]]

# The first one present wins. Source: Centrifugo client protocol, envelope.
_HANDLERS: Final[dict[str, _Handler]] = {
    "connect": connecting.connect,
    "subscribe": subscription_commands.subscribe,
    "unsubscribe": subscription_commands.unsubscribe,
    "publish": stream_commands.publish,
    "presence": stream_commands.presence,
    "presence_stats": stream_commands.presence_stats,
    "history": stream_commands.history,
    "rpc": _start_rpc,
    "send": _send,
    "refresh": connecting.refresh,
    "sub_refresh": subscription_commands.sub_refresh,
}

_READING: Final = {"presence", "presence_stats", "history"}
_CHANGING_NOTHING_HERE: Final = {"publish", *_READING}


def _known(command: Command) -> tuple[str, _Handler]:
    for name, handler in _HANDLERS.items():
        if getattr(command, name) is not None:
            return name, handler
    raise Disconnected(BAD_REQUEST, "no known command")
