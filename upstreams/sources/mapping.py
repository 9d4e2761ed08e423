"""From an answer to the value of a channel: JSON pointers, byte for byte.

The part that a pointer names is taken out as it stands, so that a number keeps its digits. Pure.
Source: RFC 6901.
"""

import re
from typing import Final

import msgspec
from msgspec import Raw

_ESCAPE: Final = re.compile(r"~([01]?)")
_INDEX: Final = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_WHITESPACE: Final = b" \t\r\n"
_object = msgspec.json.Decoder(dict[str, Raw]).decode
_array = msgspec.json.Decoder(list[Raw]).decode


class UnusablePointer(ValueError):
    """The text says what is wrong with a pointer."""


class NoValue(Exception):
    """An answer is not JSON, or has not what a pointer names."""


def tokens(pointer: str) -> tuple[str, ...]:
    """Return the steps of a pointer; none for the empty one, which is the whole.

    Raises:
        UnusablePointer: It does not begin with a slash, or has a ``~`` without 0 or 1 behind it.
    """
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        raise UnusablePointer("it begins with a slash, or is empty")
    return tuple(_ESCAPE.sub(_unescaped, token) for token in pointer[1:].split("/"))


def _unescaped(escape: re.Match[str]) -> str:
    if not escape[1]:
        raise UnusablePointer("behind ~ stands 0 (for ~) or 1 (for /)")
    return "~" if escape[1] == "0" else "/"


def checked(body: bytes) -> Raw:
    """Return an answer as JSON.

    Raises:
        NoValue: It is none.
    """
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise NoValue("the answer is not JSON") from error
    return Raw(body.strip(_WHITESPACE))


def resolve(answer: Raw, pointer: str) -> Raw:
    """Return what a pointer names in ``checked`` JSON.

    Raises:
        NoValue: It names nothing there.
    """
    value = answer
    for token in tokens(pointer):
        found = _member(value, token)
        if found is None:
            raise NoValue(f"no {pointer} in the answer")
        value = found
    return value


def _member(value: Raw, token: str) -> Raw | None:
    content = bytes(value).lstrip(_WHITESPACE)
    if content.startswith(b"{"):
        return _object(content).get(token)
    if content.startswith(b"[") and _INDEX.fullmatch(token):
        items = _array(content)
        # A longer index than any array has could not even be converted.
        return items[int(token)] if len(token) < 10 and int(token) < len(items) else None
    return None


def is_same(one: Raw, other: Raw) -> bool:
    """Tell whether two values are the same JSON, whatever their spaces and the order of keys."""
    return bytes(one) == bytes(other) or _canonical(one) == _canonical(other)


def _canonical(value: Raw) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(value), order="sorted")
