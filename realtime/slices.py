"""Walks over many things in slices, so that no walk holds the event loop for long.

Used by whatever looks at all connections or all channels.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

SLICE_SECONDS: Final = 0.002


async def sliced(items: Iterable[T]) -> AsyncIterator[T]:
    """Give the items in order; after every two milliseconds the loop has a turn before the next.

    What an item was when the walk began it may no longer be: it may have ended meanwhile.
    """
    ends_at = time.monotonic() + SLICE_SECONDS
    for item in items:
        yield item
        # Before the next one is fetched, so that a generator can look again at what has changed.
        if time.monotonic() >= ends_at:
            await asyncio.sleep(0)
            ends_at = time.monotonic() + SLICE_SECONDS
