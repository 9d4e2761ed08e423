"""Codes by which the server ends a connection or a subscription.

A client reconnects after a close in 3000-3499, 4000-4499, below 3000 or from 5000 on; 3500-3999
and 4500-4999 are terminal. An unsubscribe push below 2500 is terminal for the subscription; from
2500 on the client subscribes again at once and recovers if it holds a position.

Source: Centrifugo client protocol, disconnect and unsubscribe codes.
"""

from typing import NamedTuple


class Disconnect(NamedTuple):
    """Why a connection ends: a close code and its reason.

    The reason is at most 32 ASCII characters and never valid JSON: centrifuge-js tries to parse
    it, and takes a terminal code for one only if the reason is not empty.
    """

    code: int
    reason: str


class Unsubscribe(NamedTuple):
    """Why the server ends a subscription: a code and its reason, both needed by the SDKs."""

    code: int
    reason: str


CONNECTION_CLOSED = Disconnect(3000, "connection closed")
SHUTDOWN = Disconnect(3001, "shutdown")
SERVER_ERROR = Disconnect(3004, "internal server error")
CONNECTION_EXPIRED = Disconnect(3005, "connection expired")
SUBSCRIPTION_EXPIRED = Disconnect(3006, "subscription expired")
SLOW = Disconnect(3008, "slow")
WRITE_ERROR = Disconnect(3009, "write error")
INSUFFICIENT_STATE = Disconnect(3010, "insufficient state")
FORCE_RECONNECT = Disconnect(3011, "force reconnect")
NO_PONG = Disconnect(3012, "no pong")
TOO_MANY_REQUESTS = Disconnect(3013, "too many requests")
INVALID_TOKEN = Disconnect(3500, "invalid token")
BAD_REQUEST = Disconnect(3501, "bad request")
STALE = Disconnect(3502, "stale")
FORCE_DISCONNECT = Disconnect(3503, "force disconnect")
CONNECTION_LIMIT = Disconnect(3504, "connection limit")
CHANNEL_LIMIT = Disconnect(3505, "channel limit")
INAPPROPRIATE_PROTOCOL = Disconnect(3506, "inappropriate protocol")
PERMISSION_DENIED = Disconnect(3507, "permission denied")
NOT_AVAILABLE = Disconnect(3508, "not available")
INVALID_TEXT = Disconnect(1007, "invalid UTF-8")  # RFC 6455, as the next one
MESSAGE_TOO_BIG = Disconnect(1009, "message too big")  # RFC 6455, not a Centrifugo code

UNSUBSCRIBED_BY_SERVER = Unsubscribe(2000, "server unsubscribe")
UNSUBSCRIBED_INSUFFICIENT_STATE = Unsubscribe(2500, "insufficient state")
UNSUBSCRIBED_EXPIRED = Unsubscribe(2501, "subscription expired")


class Disconnected(Exception):  # it names an outcome, not an error reply
    """Raised where a command ends its connection instead of being answered."""

    def __init__(self, disconnect: Disconnect, detail: str = "") -> None:
        super().__init__(detail or disconnect.reason)
        self.disconnect = disconnect
