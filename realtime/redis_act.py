"""One thing to do in Redis, as data: a script, what it touches, how to read its answer.

Written by the broker, presence, the registry and the control stream; carried out by
``redis_client.py``.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Script(NamedTuple):
    """A Lua script and the digest that Redis knows it by."""

    text: str
    sha: str


@cache
def script(*paths: Path) -> Script:
    """Return the script in ``paths``, read once; the first ones hold what the last one uses."""
    text = "\n".join(path.read_text() for path in paths)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Act(NamedTuple, Generic[T]):
    """One thing to do in Redis.

    ``group`` is the layer's group whose place on the ring of servers decides the server.
    """

    group: str
    script: Script
    keys: Sequence[str]
    args: Sequence[str | bytes | int | float]
    parse: Callable[[Any], T]
