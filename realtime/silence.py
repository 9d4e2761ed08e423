"""For how long a server has given no sign of life.

Kept by the channel layer's link to it, which keeps nobody waiting for a server that has been silent
for a while. Does no I/O.
"""

import asyncio
import math


class Silence:
    """One server's silence, by the clock of the running loop.

    Args:
        long_seconds: What is long: the deadline of a call.
    """

    def __init__(self, *, long_seconds: float) -> None:
        self._long_seconds = long_seconds
        self._since = math.inf

    @property
    def has_begun(self) -> bool:
        """Whether the server's last chance to say something went by."""
        return self._since < math.inf

    @property
    def is_long(self) -> bool:
        """Whether there was no sign of life for a whole deadline."""
        return asyncio.get_running_loop().time() - self._since >= self._long_seconds

    def begin(self, *, seconds_ago: float = 0.0) -> None:
        """Note that the server said nothing when it should have; the first time counts."""
        since = asyncio.get_running_loop().time() - seconds_ago
        self._since = min(self._since, since)

    def end(self) -> None:
        """Note a sign of life."""
        self._since = math.inf
