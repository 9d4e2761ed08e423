"""What few connections have, because somebody is asked about them; and the asking at their end.

Used by the session.
"""

import logging
import time
from collections.abc import Mapping
from typing import Final

from msgspec import Raw

from realtime import hooks
from realtime.granting import Caller
from realtime.hooks import NOTHING, Kind, Peer, RefreshAnswer, Request
from realtime.instance import Instance
from realtime.protocol.disconnects import UNSUBSCRIBED_EXPIRED, Disconnected
from realtime.protocol.errors import InternalError, ProtocolError, TooManyRequests
from realtime.protocol.messages import ABSENT
from realtime.subscription import Subscription

logger = logging.getLogger(__name__)

# Source: Centrifugo refresh proxy: how long something lives on when nobody could be asked.
RETRY_SECONDS: Final = 60.0


class Extra:
    """What a connection has beside its session.

    Attributes:
        headers: Those of the handshake that somebody is shown.
        emulated_headers: Those that its connect claims.
        meta: What is told of it to who is asked, and to nobody else.
        is_server_refreshed: Whether the server asks at its end, and not the client for a new token.
    """

    __slots__ = ("emulated_headers", "headers", "is_server_refreshed", "meta")

    def __init__(self, headers: Mapping[str, str] = NOTHING) -> None:
        self.headers = headers
        self.emulated_headers: Mapping[str, str] = NOTHING
        self.meta: Raw = ABSENT
        self.is_server_refreshed = False


def peer_of(caller: Caller, extra: Extra | None) -> Peer:
    """Return what others are told of a connection when they are asked."""
    user, client, info = caller
    if extra is None:
        return Peer(client, user, info)
    return Peer(client, user, info, extra.meta, extra.headers, extra.emulated_headers)


async def live_on(instance: Instance, kind: Kind, request: Request) -> RefreshAnswer:
    """Return how long a connection or subscription lives on.

    A minute where the call failed; not at all where nobody knows it any more.
    Source: Centrifugo proxy hooks, refresh and sub_refresh.
    """
    answerer = hooks.find(kind, request.channel, instance.parts)
    if answerer is None:
        return RefreshAnswer(is_expired=True)
    try:
        answer = await instance.calls.ask(answerer, request)
    except (InternalError, TooManyRequests) as error:
        logger.warning("client %s lives on for a while: %s", request.peer.client, error)
        return RefreshAnswer(is_expired=False, expire_at=int(time.time() + RETRY_SECONDS))
    except (ProtocolError, Disconnected):
        return RefreshAnswer(is_expired=True)
    if not isinstance(answer, RefreshAnswer) or 0 < answer.expire_at <= time.time():
        return RefreshAnswer(is_expired=True)
    return answer


async def keep(instance: Instance, peer: Peer, subscription: Subscription) -> None:
    """Let a subscription live on, or end it: its time is over."""
    # Its next turn may come before the answer, and would ask again.
    subscription.expire_at = int(time.time() + RETRY_SECONDS)
    answer = await live_on(instance, Kind.SUB_REFRESH, Request(peer, channel=subscription.channel))
    if answer.is_expired:
        subscription.end_by_server(UNSUBSCRIBED_EXPIRED)
    else:
        subscription.expire_at = answer.expire_at
        subscription.chan_info = answer.info or subscription.chan_info
