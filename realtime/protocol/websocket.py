"""RFC 6455 framing: pure functions on bytes.

Everything that goes to a socket travels through the process as a finished frame, so that a
publication is framed once however many connections it goes to. Frames for one socket may be joined.
A server that only offers plain ASGI ``send`` gets the payloads back with ``split``.
"""

from collections.abc import Iterator
from struct import Struct

TEXT = 0x1
BINARY = 0x2
PING = 0x9
PONG = 0xA
_FINAL = 0x80
_LENGTH_16 = Struct("!BBH")
_LENGTH_64 = Struct("!BBQ")
REASON_MAX_BYTES = 123
HEAD_MAX_BYTES = 10
_MASKED = 0x80
_CLIENT_HEAD_BYTES = 6
_WHOLE_MESSAGES = (_FINAL | TEXT, _FINAL | BINARY)


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return ``payload`` as one final, unmasked frame.

    Source: RFC 6455 section 5.2; a server does not mask.
    """
    length = len(payload)
    if length < 126:
        return bytes((_FINAL | opcode, length)) + payload
    if length < 65536:
        return _LENGTH_16.pack(_FINAL | opcode, 126, length) + payload
    return _LENGTH_64.pack(_FINAL | opcode, 127, length) + payload


def read_message(data: bytes, start: int, max_bytes: int) -> tuple[int, bytes, int] | None:
    """Return opcode, payload and end of a client's message that lies in ``data`` as one frame.

    None for anything else: control frames, parts, what is not here as a whole, is longer than
    ``max_bytes``, or breaks the protocol.
    """
    if len(data) < start + _CLIENT_HEAD_BYTES or data[start] not in _WHOLE_MESSAGES:
        return None
    length = data[start + 1] - _MASKED
    mask_at = start + 2
    if length == 126:
        length = int.from_bytes(data[mask_at : mask_at + 2], "big")
        mask_at += 2
        if length < 126:
            return None
    elif not 0 <= length < 126:
        return None
    begin = mask_at + 4
    end = begin + length
    if end > len(data) or length > max_bytes:
        return None
    mask = data[mask_at:begin] * (length // 4 + 1)
    masked = int.from_bytes(data[begin:end], "little")
    payload = masked ^ int.from_bytes(mask[:length], "little")
    return data[start] & 0xF, payload.to_bytes(length, "little"), end


def reason_bytes(reason: str) -> bytes:
    """Return a close reason, cut between characters to what a close frame has room for."""
    return reason.encode()[:REASON_MAX_BYTES].decode("utf-8", "ignore").encode()


def split(framed: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the opcode and the payload of each of the joined frames made by ``frame``."""
    start = 0
    while start < len(framed):
        opcode, length = framed[start] & 0xF, framed[start + 1]
        start += 2
        if length == 126:
            length = int.from_bytes(framed[start : start + 2], "big")
            start += 2
        elif length == 127:
            length = int.from_bytes(framed[start : start + 8], "big")
            start += 8
        yield opcode, framed[start : start + length]
        start += length
