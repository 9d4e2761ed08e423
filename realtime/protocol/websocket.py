"""RFC 6455 framing of a server's messages: pure functions on bytes.

Everything that goes to a socket travels through the process as a finished frame, so that a
publication is framed once however many connections it goes to. A server that only offers plain
ASGI ``send`` gets the payload back with ``payload_of``.
"""

from struct import Struct

TEXT = 0x1
BINARY = 0x2
PING = 0x9
_FINAL = 0x80
_LENGTH_16 = Struct("!BBH")
_LENGTH_64 = Struct("!BBQ")
REASON_MAX_BYTES = 123


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


def reason_bytes(reason: str) -> bytes:
    """Return a close reason, cut between characters to what a close frame has room for."""
    return reason.encode()[:REASON_MAX_BYTES].decode("utf-8", "ignore").encode()


def is_control(framed: bytes) -> bool:
    """Tell whether a frame is WebSocket's own, and carries no message."""
    return framed[0] & 0x8 != 0


def payload_of(framed: bytes) -> bytes:
    """Return the payload of a frame made by ``frame``."""
    length = framed[1]
    return framed[2:] if length < 126 else framed[4:] if length == 126 else framed[10:]
