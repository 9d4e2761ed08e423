"""``subscribe``, ``unsubscribe`` and ``sub_refresh`` of a client.

Called by ``commands.py``, under the session's lock but where somebody is asked first.
"""

import logging

from realtime import asking, conf, granting
from realtime.calls import ongoing
from realtime.granting import Grant, ttl_seconds
from realtime.permissions import may_subscribe
from realtime.protocol import codec
from realtime.protocol.disconnects import (
    BAD_REQUEST,
    INVALID_TOKEN,
    UNSUBSCRIBED_BY_SERVER,
    Disconnected,
)
from realtime.protocol.errors import (
    AlreadySubscribed,
    BadRequest,
    InternalError,
    LimitExceeded,
    PermissionDenied,
    UnknownChannel,
)
from realtime.protocol.messages import (
    Command,
    Empty,
    RefreshResult,
    Reply,
    SubscribeRequest,
)
from realtime.session import Session
from realtime.snapshot import ChannelOptions
from realtime.subscribing import Allowance, Start
from realtime.subscription import Subscription
from realtime.tokens import InvalidToken, SubscriptionClaims

logger = logging.getLogger(__name__)


async def subscribe(session: Session, command: Command) -> None:
    """Subscribe a client, or not; nobody outside is asked."""
    request = _checked(session, command)
    granted, is_by_rule = await _granted(session, request)
    await _open(session, command, granted, is_by_rule=is_by_rule)


async def subscribe_beside(session: Session, command: Command) -> None:
    """Do the same without the lock for as long as others are asked."""
    request = _checked(session, command)
    granted, is_by_rule = await _granted(session, request)
    await asking.tell_of_subscribe(session, request)
    ongoing(session, session.instance.tasks).settle()
    async with session.lock:
        if session.outbox.closed_with is not None or session.subscriptions.is_closed:
            return  # the client is gone, and the answers with it
        _checked(session, command)
        await _open(session, command, granted, is_by_rule=is_by_rule)


def _checked(session: Session, command: Command) -> SubscribeRequest:
    request = command.subscribe
    assert request is not None
    if not request.channel:
        raise Disconnected(BAD_REQUEST, "no channel")
    if request.channel in session.subscriptions:
        raise AlreadySubscribed
    if len(session.subscriptions) >= conf.current().channel_limit:
        raise LimitExceeded
    return request


async def _granted(session: Session, request: SubscribeRequest) -> tuple[Grant, bool]:
    """Return what a client gets, and whether a channel rule has said so."""
    instance, channel, caller = session.instance, request.channel or "", session.caller
    plain = instance.options_of(channel)
    granting.check_request(request, plain)
    if request.token:
        return granting.grant(request, caller, plain, await _claims(session, request.token)), False
    options = await instance.rules.options_for(caller.user, channel, plain)
    is_by_rule = options is not plain
    decider = asking.who_decides(session, request, plain)
    if decider is None:
        return granting.grant(request, caller, options, None), is_by_rule
    if is_by_rule and not _may_subscribe(session, channel, options):
        raise PermissionDenied("by the channel's rule")
    answer = await asking.subscribe_options(session, decider, request)
    return granting.answered(request, options, answer), is_by_rule


async def _claims(session: Session, token: str) -> SubscriptionClaims:
    try:
        return await session.instance.token_verifier.subscription(token)
    except InvalidToken as error:
        logger.info("client %s: subscription token refused: %.200s", session.client, error)
        raise PermissionDenied(str(error)) from error


def _may_subscribe(session: Session, channel: str, options: ChannelOptions) -> bool:
    return may_subscribe(channel, options, session.user, insecure=conf.current().insecure)


async def _open(session: Session, command: Command, granted: Grant, *, is_by_rule: bool) -> None:
    request = command.subscribe
    assert request is not None
    opening = session.subscriptions.opening(
        request.channel or "", granted, Start.of(request), Allowance()
    )
    try:
        result = await opening.run()
    except BaseException:
        await session.subscriptions.undo(opening)
        raise
    # Nothing may be awaited between these: what arrives now follows the reply.
    session.outbox.write(codec.reply_frame(Reply(command.id or 0, subscribe=result)))
    opening.subscription.is_by_rule = is_by_rule
    session.subscriptions.go_live(opening)
    await session.subscriptions.announce(opening)
    if is_by_rule:
        await _ask_rule_again(session, opening.subscription)


async def _ask_rule_again(session: Session, subscription: Subscription) -> None:
    """End what the rule has taken back since it was asked, when there was nothing to end yet."""
    try:
        plain = session.instance.options_of(subscription.channel)
        options = await session.instance.rules.options_for(
            session.user, subscription.channel, plain
        )
        may_stay = _may_subscribe(session, subscription.channel, options)
    except (InternalError, UnknownChannel):
        return  # no answer; AccessWatch asks again
    if not may_stay:
        session.subscriptions.end(subscription, UNSUBSCRIBED_BY_SERVER)


async def unsubscribe(session: Session, command: Command) -> Reply:
    """End a client's subscription, if there is one."""
    assert command.unsubscribe is not None
    if not command.unsubscribe.channel:
        raise Disconnected(BAD_REQUEST, "no channel")
    await session.subscriptions.leave(command.unsubscribe.channel)
    return Reply(command.id or 0, unsubscribe=Empty())


async def sub_refresh(session: Session, command: Command) -> Reply:
    """Let a subscription live on until its new token's end.

    Source: Centrifugo client protocol, sub_refresh.
    """
    request = command.sub_refresh
    assert request is not None
    if not request.channel:
        raise Disconnected(BAD_REQUEST, "no channel")
    if not request.token:
        raise BadRequest("sub_refresh without a token")
    subscription = session.subscriptions.get(request.channel)
    if subscription is None:
        raise PermissionDenied("not subscribed")
    if subscription.is_server_side or subscription.is_server_refreshed:
        raise Disconnected(BAD_REQUEST, "sub_refresh of what the server refreshes")
    try:
        claims = await session.instance.token_verifier.subscription(request.token)
    except InvalidToken as error:
        raise Disconnected(INVALID_TOKEN, str(error)) from error
    granting.refresh(subscription, claims, session.caller)
    expire_at = subscription.expire_at
    result = RefreshResult(expire_at > 0, ttl_seconds(expire_at))
    return Reply(command.id or 0, sub_refresh=result)
