"""When Python looks for garbage in cycles: little at a time, and never among what stays.

Python's own full collection looks at every object of every connection and stops the server for as
long as that takes. Connections make no cycles, so nothing would be found there; HTTP requests do.

Source: docs/decisions/0020-garbage-collection.md has the measurements.
"""

import gc
from typing import Final

_YOUNG: Final = 2_000
_MIDDLE: Final = 5
_NEVER: Final = 1_000_000
OLD_MAX: Final = 4  # how many collections of the middle generation one of the old follows


def begin() -> None:
    """Set what is there now aside for good; from now on ``turn`` collects the old generation."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)


def turn(*, is_quiet: bool) -> None:
    """Collect the old generation if it has grown.

    Args:
        is_quiet: Whether no request is under way. Then all that is left is set aside: objects of
            connections, whose references free them when they end. A request's would stay for ever.
    """
    if gc.get_count()[2] < OLD_MAX:
        return
    gc.collect()
    if is_quiet:
        gc.freeze()
