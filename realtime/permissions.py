"""Who may subscribe, publish, read history or presence: pure rules on a channel's options.

Called by the session, which knows the user and what it is subscribed to. A subscription token
stands above these rules and is judged in ``tokens.py``.
"""

import logging
from functools import lru_cache
from typing import Final

from realtime import conf
from realtime.patterns import Pattern, UnusablePattern
from realtime.protocol.errors import BadRequest
from realtime.snapshot import NAMESPACE_BOUNDARY, PRIVATE_PREFIX, ChannelOptions, namespace_of

logger = logging.getLogger(__name__)

USER_BOUNDARY = "#"
USER_SEPARATOR = ","
# Of this many namespaces; those of more are compiled again and again, in some 50 microseconds.
_PATTERNS_KEPT: Final = 128


def check_name(channel: str, options: ChannelOptions) -> None:
    """Refuse a channel name that the options do not allow.

    Raises:
        BadRequest: Empty, longer than ``channel_name_max_bytes``, not ASCII where no
            ``channel_regex`` says what else may be, or not matching it.
    Source: Centrifugo channel naming rules; the regex is searched in what follows the namespace.
    """
    check_size(channel)
    if not options.channel_regex:
        if not channel.isascii():
            raise BadRequest("channel name is not ASCII")
        return
    named = channel if namespace_of(channel) is None else channel.partition(NAMESPACE_BOUNDARY)[2]
    pattern = _pattern(options.channel_regex)
    if pattern is None or not pattern.is_in(named):
        raise BadRequest("channel name does not match channel_regex")


@lru_cache(maxsize=_PATTERNS_KEPT)
def _pattern(channel_regex: str) -> Pattern | None:
    """Return it compiled, or None for one that was written past the model and allows no name."""
    try:
        return Pattern(channel_regex)
    except UnusablePattern as error:
        logger.error("no name matches the channel_regex %r: %s", channel_regex, error)
        return None


def check_size(channel: str) -> None:
    """Refuse what no channel may be called, whatever the options.

    Raises:
        BadRequest: Empty, longer than ``channel_name_max_bytes``, or not valid Unicode.
    """
    try:
        size_bytes = len(channel.encode())
    except UnicodeEncodeError as error:
        raise BadRequest("channel name is not valid Unicode") from error
    if not 0 < size_bytes <= conf.current().channel_name_max_bytes:
        raise BadRequest(f"channel name of {size_bytes} bytes")


def may_subscribe(channel: str, options: ChannelOptions, user: str, *, insecure: bool) -> bool:
    """Tell whether a user may subscribe without a subscription token.

    Source: Centrifugo permission order. A private channel needs a token even in insecure mode; a
    user-limited one is for the users it lists, whatever else the options allow.
    """
    if channel.startswith(PRIVATE_PREFIX):
        return False
    if options.allow_user_limited_channels and USER_BOUNDARY in channel:
        return insecure or _is_listed(channel, user)
    return insecure or (
        options.allow_subscribe_for_client
        and _is_known(user, anonymous=options.allow_subscribe_for_anonymous)
    )


def may_publish(options: ChannelOptions, user: str, *, is_subscribed: bool, insecure: bool) -> bool:
    """Tell whether a user may publish to the channel."""
    return insecure or (
        _is_known(user, anonymous=options.allow_publish_for_anonymous)
        and (
            options.allow_publish_for_client
            or (options.allow_publish_for_subscriber and is_subscribed)
        )
    )


def may_read_history(
    options: ChannelOptions, user: str, *, is_subscribed: bool, insecure: bool
) -> bool:
    """Tell whether a user may read the channel's history."""
    return insecure or (
        _is_known(user, anonymous=options.allow_history_for_anonymous)
        and (
            options.allow_history_for_client
            or (options.allow_history_for_subscriber and is_subscribed)
        )
    )


def may_read_presence(
    options: ChannelOptions, user: str, *, is_subscribed: bool, insecure: bool
) -> bool:
    """Tell whether a user may read who is subscribed to the channel."""
    return insecure or (
        _is_known(user, anonymous=options.allow_presence_for_anonymous)
        and (
            options.allow_presence_for_client
            or (options.allow_presence_for_subscriber and is_subscribed)
        )
    )


def _is_listed(channel: str, user: str) -> bool:
    listed = channel.rpartition(USER_BOUNDARY)[2].split(USER_SEPARATOR)
    # "talk#" lists an empty id, which is not the anonymous user's.
    return user != "" and user in listed


def _is_known(user: str, *, anonymous: bool) -> bool:
    return user != "" or anonymous
