"""JSON frames to commands, replies and pushes to frames.

No other module sees the socket's JSON. Incoming text is decoded strictly once, here at the door:
what one serialiser accepts and another refuses must not reach other people's connections.
"""

import base64
import re
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Raw

from realtime.protocol import websocket
from realtime.protocol.disconnects import BAD_REQUEST, Disconnect, Disconnected, Unsubscribe
from realtime.protocol.errors import BadRequest, ProtocolError
from realtime.protocol.messages import (
    UINT64_MAX,
    ClientInfo,
    CodePush,
    Command,
    ErrorBody,
    InfoPush,
    Publication,
    Push,
    PushEnvelope,
    RefreshResult,
    Reply,
    SubscribePush,
    is_absent,
)

DEPTH_MAX: Final = 128
DIGITS_MAX: Final = 300
PING_FRAME: Final = websocket.frame(b"{}")
NATIVE_PING_FRAME: Final = websocket.frame(b"", websocket.PING)

_encode = msgspec.json.Encoder().encode
_decode_command = msgspec.json.Decoder(Command).decode
_decode_publication = msgspec.json.Decoder(Publication).decode
_decode_info = msgspec.json.Decoder(ClientInfo).decode
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_LONG_NUMBER = re.compile(rb"[0-9.]{%d}" % (DIGITS_MAX + 1))


def decode_commands(frame: str | bytes) -> Iterator[Command]:
    """Give the commands of one WebSocket message, in order.

    Each is decoded when its turn comes, so that those before a malformed one are carried out.

    Raises:
        Disconnected: 3501; the message is empty, has a blank line, or is not JSON of the expected
            shape from here on; or it is not UTF-8, and then before the first command.
    Source: Centrifugo client protocol, JSON framing: one object a line, the last newline optional.
    """
    try:
        text = frame if isinstance(frame, str) else frame.decode("utf-8")
        for line in text.removesuffix("\n").split("\n"):
            command = _decode_command(line)
            _refuse_wide_offsets(command)
            yield command
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Disconnected(BAD_REQUEST, f"malformed frame: {error}") from error


def _refuse_wide_offsets(command: Command) -> None:
    since = command.history.since if command.history else None
    subs = (command.connect.subs if command.connect else None) or {}
    for holder in (command.subscribe, since, *subs.values()):
        if holder is not None and (holder.offset or 0) > UINT64_MAX:
            raise Disconnected(BAD_REQUEST, "offset exceeds 64 bits")


def payload(raw: Raw | bytes) -> bytes:
    """Return a payload as it may be stored and sent: the publisher's bytes, checked.

    Newlines between tokens are taken out, because a newline separates messages on the wire.

    Raises:
        BadRequest: Not JSON as every receiver reads it: invalid UTF-8, a lone surrogate, NaN, a
            number out of range or of more than 300 digits, nesting deeper than 128.
    """
    content = bytes(raw)
    try:
        content.decode("utf-8")
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(str(error)) from error
    if len(content) > DEPTH_MAX:
        _refuse_extremes(content)
    if b"\n" in content or b"\r" in content:
        content = content.replace(b"\n", b"").replace(b"\r", b"")
    return content


def _refuse_extremes(content: bytes) -> None:
    bare = _STRING.sub(b"", content)
    if _LONG_NUMBER.search(bare):
        raise BadRequest(f"a number has more than {DIGITS_MAX} digits")
    if bare.count(b"[") + bare.count(b"{") <= DEPTH_MAX:
        return
    depth = 0
    for byte in bare:
        if byte in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise BadRequest(f"nested deeper than {DEPTH_MAX}")
        elif byte in b"]}":
            depth -= 1


def optional_payload(raw: Raw) -> Raw | None:
    """Return ``payload`` of a field that may be left out, None if it was."""
    return None if is_absent(raw) else Raw(payload(raw))


def from_base64(encoded: str) -> Raw:
    """Return the payload that a field such as ``b64data`` holds, not checked yet.

    Raises:
        BadRequest: Not base64.
    """
    try:
        return Raw(base64.b64decode(encoded, validate=True))
    except ValueError as error:
        raise BadRequest("not base64") from error


def either_payload(raw: Raw, encoded: str | None) -> Raw | None:
    """Return ``payload`` of a field or of its twin in base64, which stands above it.

    Returns:
        None if there is neither.
    Raises:
        BadRequest: As from ``payload``, or not base64.
    Source: Centrifugo server API, conventions.
    """
    return optional_payload(from_base64(encoded) if encoded else raw)


def reply_frame(reply: Reply) -> bytes:
    """Return the frame of a reply."""
    return websocket.frame(_encode(reply))


def error_frame(command_id: int, error: ProtocolError) -> bytes:
    """Return the frame of an error reply."""
    body = ErrorBody(error.code, error.message, error.temporary)
    return websocket.frame(_encode(Reply(command_id, error=body)))


def publication_frame(channel: str, publication: Publication) -> bytes:
    """Return the frame that pushes a publication to a channel's subscribers."""
    return websocket.frame(_encode(PushEnvelope(Push(channel, pub=publication))))


def join_frame(channel: str, info: ClientInfo) -> bytes:
    """Return the frame that tells of a new subscriber."""
    return websocket.frame(_encode(PushEnvelope(Push(channel, join=InfoPush(info)))))


def leave_frame(channel: str, info: ClientInfo) -> bytes:
    """Return the frame that tells of a subscriber gone."""
    return websocket.frame(_encode(PushEnvelope(Push(channel, leave=InfoPush(info)))))


def unsubscribe_frame(channel: str, unsubscribe: Unsubscribe) -> bytes:
    """Return the frame by which the server ends a subscription."""
    body = CodePush(unsubscribe.code, unsubscribe.reason)
    return websocket.frame(_encode(PushEnvelope(Push(channel, unsubscribe=body))))


def subscribe_frame(channel: str, push: SubscribePush) -> bytes:
    """Return the frame that tells of a subscription which the server made."""
    return websocket.frame(_encode(PushEnvelope(Push(channel, subscribe=push))))


def refresh_frame(result: RefreshResult) -> bytes:
    """Return the frame that tells of another end of the connection."""
    return websocket.frame(_encode(PushEnvelope(Push(refresh=result))))


def disconnect_frame(disconnect: Disconnect) -> bytes:
    """Return the frame that says why the connection is about to be closed."""
    body = CodePush(disconnect.code, disconnect.reason)
    return websocket.frame(_encode(PushEnvelope(Push(disconnect=body))))


def encode_publication(publication: Publication) -> bytes:
    """Return the stored form of a publication; the stream's entry id carries its offset."""
    return _encode(publication)


def decode_publication(stored: bytes | str) -> Publication:
    """Return the publication of a stored form."""
    return _decode_publication(stored)


def encode_info(info: ClientInfo) -> bytes:
    """Return the stored form of a client's info."""
    return _encode(info)


def decode_info(stored: bytes | str) -> ClientInfo:
    """Return the client info of a stored form."""
    return _decode_info(stored)


def encoded_size(publication: Publication) -> int:
    """Return how many bytes a publication takes inside a reply."""
    return len(_encode(publication))
