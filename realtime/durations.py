"""Durations as a Centrifugo configuration writes them: ``300s``, ``1h30m``, ``720h``.

Called by ``centrifugo_config``. Whole seconds only, because nothing here is kept for less.
"""

import re
from fractions import Fraction
from math import ceil
from typing import Final

_NANOSECONDS: Final = 10**9
_SECONDS: Final = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),  # the micro sign
    "μs": Fraction(1, 10**6),  # the Greek letter, which Go reads too
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
# Twenty digits are more than Go reads, and keep the arithmetic small.
_PART: Final = re.compile(
    r"([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(" + "|".join(_SECONDS) + ")"
)
_TEXT_MAX_LENGTH: Final = 100


def parse(value: object) -> int:
    """Return a duration in seconds.

    Args:
        value: A text such as ``1h30m``, or a whole number of nanoseconds.
    Raises:
        ValueError: It is neither, below zero, or not a whole number of seconds.
    Source: Go's time.ParseDuration; Centrifugo reads a bare number as Go keeps it, in nanoseconds,
        and refuses fractions of a second as well.
    """
    if type(value) is int:
        seconds = Fraction(value, _NANOSECONDS)
        return _whole(seconds, f"{value} nanoseconds", f'for {value} seconds write "{value}s"')
    if not isinstance(value, str):
        raise ValueError('a duration such as "300s" is expected')
    seconds = _seconds(value)
    return _whole(seconds, value, f'"{write(ceil(seconds))}" would be one')


def write(seconds: int) -> str:
    """Return a duration in the largest unit that needs no fraction."""
    if seconds % 3600 == 0 and seconds:
        return f"{seconds // 3600}h"
    if seconds % 60 == 0 and seconds:
        return f"{seconds // 60}m"
    return f"{seconds}s"


def _seconds(text: str) -> Fraction:
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return Fraction(0)
    parts = _PART.findall(rest) if len(rest) <= _TEXT_MAX_LENGTH else []
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError('not a duration: write it like "300s", "10m" or "1h30m"')
    return sign * sum((Fraction(number) * _SECONDS[unit] for number, unit in parts), Fraction(0))


def _whole(seconds: Fraction, shown: str, cure: str) -> int:
    if seconds < 0:
        raise ValueError(f"{shown} is below zero")
    if seconds.denominator != 1:
        raise ValueError(f"{shown} is not a whole number of seconds: {cure}")
    return int(seconds)
