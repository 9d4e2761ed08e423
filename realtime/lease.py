"""Work that one instance does for all: who may do it now, and whether anybody wants it.

A lease is held for a time by the clock of Redis and kept by taking it again. Who was frozen does
not know that it has lost it; each lease therefore has a fence, higher than those before, and what
is published with it as ``version`` loses against the next holder's. Used by ``sharing.py``.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

from realtime import redis_keys
from realtime.redis_act import Act, script
from realtime.redis_client import group_address

# Longer than any lease; a fence that is forgotten begins anew at the clock, which has gone on.
MEMORY_SECONDS: Final = 7 * 86400
_HERE = Path(__file__).parent / "broker"


class Lease(NamedTuple):
    """What became of an attempt to take a lease.

    Attributes:
        fence: Higher than that of every holder before; 0 if another holds it.
        marked_seconds_ago: When a holder last marked it before this; None for never.
    """

    fence: int
    marked_seconds_ago: float | None = None

    @property
    def is_held(self) -> bool:
        """Whether it is the caller's now."""
        return self.fence > 0


def take(
    name: str, owner: str, *, ttl_seconds: float, marks: bool = False, forgets: bool = False
) -> Act[Lease]:
    """Take a lease that is free, or keep one's own: its fence stays then.

    Args:
        name: What it is for.
        owner: Never used by anybody else, in this process or another.
        ttl_seconds: After that it is free again.
        marks: Note in it that the work is begun now, for whoever holds it next.
        forgets: Note in it that the work was never begun; not together with ``marks``.
    """
    group, key = redis_keys.lease(name)
    arguments = (owner, round(ttl_seconds * 1000), int(marks) - int(forgets), MEMORY_SECONDS)
    return Act(group, script(_HERE / "lease_take.lua"), (key,), arguments, _lease)


def _lease(answer: Any) -> Lease:
    fence, marked_milliseconds_ago = answer
    seconds = None if marked_milliseconds_ago < 0 else marked_milliseconds_ago / 1000
    return Lease(fence, seconds)


def give_back(name: str, owner: str) -> Act[None]:
    """Let others have it at once; no effect on a lease of another owner."""
    group, key = redis_keys.lease(name)
    return Act(group, script(_HERE / "lease_give_back.lua"), (key,), (owner,), lambda _: None)


def watched(channel: str) -> Act[bool]:
    """Tell whether any instance has subscriptions to a channel, or had until a second ago."""
    group = redis_keys.of_channel(channel).group
    return Act(group, script(_HERE / "watched.lua"), (), (group_address(group),), bool)
