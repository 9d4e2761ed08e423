"""The JSON bodies of the HTTP API: the only place that reads them.

Field names are those of the Centrifugo server API. Unknown fields are ignored, ``null`` equals
absent, ``Raw`` carries a payload through untouched.
"""

from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from realtime.protocol.messages import ABSENT, UINT64_MAX, Int32, UInt32, Unsigned

_Body = TypeVar("_Body")


class MalformedBody(Exception):
    """The body is not UTF-8, not JSON, or not of the expected shape."""


class PayloadRequest(Struct):
    """What publish and broadcast have in common."""

    data: Raw = ABSENT
    b64data: str | None = None
    skip_history: bool | None = None
    tags: dict[str, str] | None = None
    idempotency_key: str | None = None
    version: Unsigned | None = None
    version_epoch: str | None = None


class PublishRequest(PayloadRequest):
    """One publication."""

    channel: str | None = None


class BroadcastRequest(PayloadRequest):
    """The same publication into several channels."""

    channels: list[str] | None = None


class SincePosition(Struct):
    """A position in a stream."""

    offset: Unsigned | None = None
    epoch: str | None = None


class HistoryRequest(Struct):
    """A part of a stream; ``limit`` 0 asks for the position alone, below 0 for everything."""

    channel: str | None = None
    limit: Int32 | None = None
    since: SincePosition | None = None
    reverse: bool | None = None


class ChannelRequest(Struct):
    """presence, presence_stats and history_remove: nothing but a channel."""

    channel: str | None = None


class ChannelsRequest(Struct):
    """Which channels: a pattern, empty for all."""

    pattern: str | None = None


class InfoRequest(Struct):
    """Nothing to say."""


class DisconnectReason(Struct):
    """The close code and reason that the connections are to get."""

    code: UInt32 | None = None
    reason: str | None = None


class DisconnectRequest(Struct):
    """Whose connections to close; an empty user is the anonymous one."""

    user: str | None = None
    client: str | None = None
    session: str | None = None
    whitelist: list[str] | None = None
    disconnect: DisconnectReason | None = None


class UnsubscribeRequest(Struct):
    """Whose subscription to end; an empty user is the anonymous one."""

    user: str | None = None
    channel: str | None = None
    client: str | None = None
    session: str | None = None


class BatchCommand(Struct):
    """One command of a batch: the first present of its requests, in the order listed here."""

    publish: PublishRequest | None = None
    broadcast: BroadcastRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    disconnect: DisconnectRequest | None = None
    history: HistoryRequest | None = None
    history_remove: ChannelRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    channels: ChannelsRequest | None = None
    info: InfoRequest | None = None

    def named_request(self) -> tuple[str, Struct] | None:
        """Return the method's name and its request; None if no known method is named."""
        for method in self.__struct_fields__:
            request = getattr(self, method)
            if request is not None:
                return method, request
        return None


class BatchRequest(Struct):
    """Several commands in one body."""

    commands: list[BatchCommand | None] | None = None
    parallel: bool | None = None


class SubscriptionTokenRequest(Struct):
    """The channel a signed-in user wants to subscribe to."""

    channel: str | None = None


def decode(body: bytes, expected: type[_Body]) -> _Body:
    """Return a body as a value of the expected type.

    Raises:
        MalformedBody: It is not one.
    """
    try:
        # msgspec passes a Raw field's bytes on as they are, valid or not.
        body.decode("utf-8")
        request = msgspec.json.decode(body, type=expected)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedBody(str(error)) from error
    _refuse_wide_numbers(request)
    return request


def _refuse_wide_numbers(request: object) -> None:
    """Refuse what has no place in 64 bits; msgspec's own bounds end at 63."""
    if isinstance(request, BatchRequest):
        for command in request.commands or ():
            named = command.named_request() if command else None
            if named is not None:
                _refuse_wide_numbers(named[1])
    elif isinstance(request, HistoryRequest):
        if request.since is not None and (request.since.offset or 0) > UINT64_MAX:
            raise MalformedBody("offset exceeds 64 bits")
    elif isinstance(request, PayloadRequest) and (request.version or 0) > UINT64_MAX:
        raise MalformedBody("version exceeds 64 bits")
