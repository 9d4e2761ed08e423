"""``publish``, ``history``, ``presence`` and ``presence_stats`` of a client.

Called by ``commands.py``. None of them changes anything of the connection, so that they may run
beside each other.
"""

from realtime import asking, channel_commands
from realtime.granting import info_of
from realtime.permissions import check_name
from realtime.protocol.disconnects import BAD_REQUEST, Disconnected
from realtime.protocol.messages import ChannelRequest, Command, Empty, Reply
from realtime.publishing import prepare
from realtime.session import Session
from realtime.snapshot import ChannelOptions


async def _channel(session: Session, channel: str | None) -> tuple[str, ChannelOptions, bool]:
    """Return a channel's name, the caller's options, and whether a channel rule has said them."""
    if not channel:
        raise Disconnected(BAD_REQUEST, "no channel")
    plain = session.instance.options_of(channel)
    check_name(channel, plain)
    options = await session.instance.rules.options_for(session.user, channel, plain)
    return channel, options, options is not plain


async def publish(session: Session, command: Command) -> Reply:
    """Publish to a channel what a client says, or what somebody else makes of it."""
    request = command.publish
    assert request is not None
    channel, options, is_by_rule = await _channel(session, request.channel)
    subscription = session.subscriptions.get(channel)
    decider = asking.who_decides_publish(session, channel)
    channel_commands.check_type(request)
    if decider is None or is_by_rule:
        is_subscribed = subscription is not None
        channel_commands.check_publish(options, session.user, is_subscribed=is_subscribed)
    data, how = await asking.publication(session, channel, request.data, decider)
    if session.calls is not None:
        session.calls.settle()
    info = info_of(session.caller, subscription)
    await session.instance.broker.publish(prepare(channel, data, options, options=how, info=info))
    return Reply(command.id or 0, publish=Empty())


async def history(session: Session, command: Command) -> Reply:
    """Return a part of a channel's stream."""
    request = command.history
    assert request is not None
    channel, options, _ = await _channel(session, request.channel)
    is_subscribed = channel in session.subscriptions
    result = await channel_commands.history(
        session.instance, options, request, session.user, is_subscribed=is_subscribed
    )
    return Reply(command.id or 0, history=result)


async def presence(session: Session, command: Command) -> Reply:
    """Return who is subscribed to a channel."""
    channel = await _present_channel(session, command.presence)
    result = await channel_commands.presence(session.instance, channel)
    return Reply(command.id or 0, presence=result)


async def presence_stats(session: Session, command: Command) -> Reply:
    """Return how many are subscribed to a channel."""
    channel = await _present_channel(session, command.presence_stats)
    result = await channel_commands.presence_stats(session.instance, channel)
    return Reply(command.id or 0, presence_stats=result)


async def _present_channel(session: Session, request: ChannelRequest | None) -> str:
    assert request is not None
    channel, options, _ = await _channel(session, request.channel)
    is_subscribed = channel in session.subscriptions
    channel_commands.check_presence(options, session.user, is_subscribed=is_subscribed)
    return channel
