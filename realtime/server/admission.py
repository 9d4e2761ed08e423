"""Whether a WebSocket handshake is let in: not while draining, nor beyond a limit or rate.

Owned by the server; asked by each connection's protocol before anything is made for it. HTTP
requests are not asked about: health checks and the APIs have to be answered under any load.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sized
from typing import Final

from realtime import conf

logger = logging.getLogger(__name__)

UNAVAILABLE: Final = 503
TELL_SECONDS: Final = 1.0
DRAINING: Final = "Draining"
CONNECTION_LIMIT: Final = "Connection Limit"
CONNECTION_RATE: Final = "Connection Rate"


class Admission:
    """The door of one server process.

    The connections themselves are counted, not what came and went, so that no count can be wrong.

    Args:
        connections: The open WebSockets; only their number is looked at.
        clock: Seconds that never go back.
    Attributes:
        is_draining: Whether the server is about to end.
    """

    def __init__(self, connections: Sized, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_draining = False
        self._connections = connections
        self._clock = clock
        self._tokens = 0.0
        self._filled_at = float("-inf")  # so that the bucket is full at first
        self._refused: Counter[str] = Counter()
        self._told_at = float("-inf")

    def refusal(self) -> tuple[int, str] | None:
        """Return status and reason of the answer to a handshake; None lets it in and counts it.

        Source: Centrifugo, ``client.connection_limit`` and ``client.connection_rate_limit``: 503.
        """
        reason = self._reason()
        if reason is None:
            return None
        self._refused[reason] += 1
        return UNAVAILABLE, reason

    def _reason(self) -> str | None:
        settings = conf.current()
        if self.is_draining:
            return DRAINING
        if 0 < settings.connection_limit <= len(self._connections):
            return CONNECTION_LIMIT
        if settings.connection_rate and not self._take_token(settings.connection_rate):
            return CONNECTION_RATE
        return None

    def _take_token(self, rate: int) -> bool:
        """Take one of the tokens that come in at ``rate`` a second; at most a second's are kept."""
        now = self._clock()
        self._tokens = min(rate, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def tell(self) -> None:
        """Log how many were refused since the last time, at most once a second.

        Called often by the server: a flood of handshakes must not become one of log lines.
        """
        if not self._refused or self._clock() - self._told_at < TELL_SECONDS:
            return
        self._told_at = self._clock()
        for reason, count in self._refused.items():
            logger.warning("handshakes refused with 503, %s: %d", reason.lower(), count)
        self._refused.clear()
