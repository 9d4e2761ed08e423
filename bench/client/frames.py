"""Server frames of RFC 6455 as bytes, and the publications in them. Pure."""

from bench.peers.base import (
    SENT_AT_DIGITS,
    SENT_AT_MARKER,
    SEQUENCE_DIGITS,
    SEQUENCE_MARKER,
)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

# Sequence number and CLOCK_MONOTONIC nanoseconds of one publication.
Stamp = tuple[int, int]


def split(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return the whole frames at the start of ``data`` as (opcode, payload), and what is left."""
    frames = []
    start, size = 0, len(data)
    while size - start >= 2:
        length, body = data[start + 1], start + 2
        if length == 126:
            body = start + 4
            length = int.from_bytes(data[start + 2 : body], "big") if body <= size else size
        elif length == 127:
            body = start + 10
            length = int.from_bytes(data[start + 2 : body], "big") if body <= size else size
        if body + length > size:
            break
        frames.append((data[start] & 0x0F, data[body : body + length]))
        start = body + length
    return frames, data[start:]


def is_one_message(data: bytes) -> bool:
    """Tell whether ``data`` is exactly one unbroken text or binary frame below 64 KiB."""
    if len(data) < 4 or data[0] not in (0x81, 0x82):
        return False
    length = data[1]
    if length < 126:
        return len(data) == 2 + length
    return length == 126 and len(data) == 4 + (data[2] << 8 | data[3])


def stamps(data: bytes) -> list[Stamp]:
    """Return the stamps of all publications in ``data``."""
    found = []
    at = data.find(SEQUENCE_MARKER)
    while at >= 0:
        at += len(SEQUENCE_MARKER)
        number = int(data[at : at + SEQUENCE_DIGITS])
        at = data.index(SENT_AT_MARKER, at) + len(SENT_AT_MARKER)
        found.append((number, int(data[at : at + SENT_AT_DIGITS])))
        at = data.find(SEQUENCE_MARKER, at)
    return found
