"""The JSON bodies of the HTTP API: the only place that reads them.

Field names are those of the Centrifugo server API. Unknown fields are ignored, except by resources;
``null`` equals absent, ``Raw`` carries a payload through untouched.
"""

import re
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from realtime.protocol.messages import (
    ABSENT,
    UINT64_MAX,
    Int32,
    OverrideFlags,
    UInt32,
    Unsigned,
)

COMMANDS_MAX: Final = 10_000  # of one body, with each channel of a broadcast for one
_Body = TypeVar("_Body")
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class MalformedBody(Exception):
    """The body is not UTF-8, not JSON, or not of the expected shape.

    Attributes:
        field: What of well-formed JSON is not of the shape, dotted, or empty for all of it; None
            if it is no JSON.
    """

    def __init__(self, reason: str, *, field: str | None = None) -> None:
        super().__init__(reason)
        self.field = field


class PayloadRequest(Struct):
    """What publish and broadcast have in common; ``delta`` is accepted and has no effect yet."""

    data: Raw = ABSENT
    b64data: str | None = None
    skip_history: bool | None = None
    tags: dict[str, str] | None = None
    idempotency_key: str | None = None
    delta: bool | None = None
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


class SubscribeRequest(Struct):
    """Whom to subscribe, to what and how; an empty user is the anonymous one."""

    user: str | None = None
    channel: str | None = None
    client: str | None = None
    session: str | None = None
    expire_at: Int64 | None = None
    info: Raw = ABSENT
    b64info: str | None = None
    data: Raw = ABSENT
    b64data: str | None = None
    recover_since: SincePosition | None = None
    override: OverrideFlags | None = None


class RefreshRequest(Struct):
    """Whose connections get which end; an empty user is the anonymous one."""

    user: str | None = None
    client: str | None = None
    session: str | None = None
    expired: bool | None = None
    expire_at: Int64 | None = None
    info: Raw = ABSENT


class RPCRequest(Struct):
    """A call of an extension of the server."""

    method: str | None = None
    params: Raw = ABSENT


class BatchCommand(Struct):
    """One command of a batch: the first present of its requests, in the order listed here."""

    publish: PublishRequest | None = None
    broadcast: BroadcastRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    disconnect: DisconnectRequest | None = None
    refresh: RefreshRequest | None = None
    history: HistoryRequest | None = None
    history_remove: ChannelRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    channels: ChannelsRequest | None = None
    info: InfoRequest | None = None
    rpc: RPCRequest | None = None

    def named_request(self) -> tuple[str, Struct] | None:
        """Return the method's name and its request; None if no known method is named."""
        for method in self.__struct_fields__:
            request = getattr(self, method)
            if request is not None:
                return method, request
        return None


class BatchRequest(Struct):
    """Several commands in one body."""

    commands: Annotated[list[BatchCommand | None], Meta(max_length=COMMANDS_MAX)] | None = None
    parallel: bool | None = None


class LegacyCommand(Struct):
    """One line of a body without a method in the address."""

    method: str | None = None
    params: Raw = Raw(b"{}")


class PublicationBody(Struct, forbid_unknown_fields=True):
    """One publication for the channel in the address.

    ``data`` is any JSON but ``null`` and is carried byte for byte. ``idempotency_key`` may come in
    the header ``Idempotency-Key`` instead: a repeat within five minutes publishes nothing. With
    ``version``, what is not newer than the channel's last one of ``version_epoch`` is dropped.
    """

    data: Annotated[Raw, Meta(extra_json_schema={"not": {"type": "null"}})]
    tags: dict[str, str] | None = None
    skip_history: bool | None = None
    idempotency_key: str | None = None
    version: Unsigned | None = None
    version_epoch: str | None = None


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
    except msgspec.ValidationError as error:
        raise MalformedBody(str(error), field=_field_of(str(error))) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedBody(str(error)) from error
    _refuse_wide_numbers(request)
    return request


def _field_of(reason: str) -> str:
    """Return the field that msgspec complains of; empty for the body as a whole."""
    path = re.search(r" - at `\$\.?([^`\[]*)[^`]*`$", reason)
    if path is not None:
        return path[1]
    named = re.search(r"field `([^`]*)`$", reason)
    return named[1] if named is not None else ""


def _refuse_wide_numbers(request: object) -> None:
    """Refuse what exceeds 64 bits in the unsigned numbers: msgspec's own bounds end at 63."""
    if isinstance(request, BatchRequest):
        for command in request.commands or ():
            _refuse_wide_numbers(command)
    elif isinstance(request, BatchCommand):
        named = request.named_request()
        _refuse_wide_numbers(named[1] if named else None)
    elif isinstance(request, PayloadRequest | PublicationBody):
        _refuse_wide("version", request.version)
    elif isinstance(request, HistoryRequest) and request.since:
        _refuse_wide("since.offset", request.since.offset)
    elif isinstance(request, SubscribeRequest) and request.recover_since:
        _refuse_wide("recover_since.offset", request.recover_since.offset)


def _refuse_wide(name: str, number: int | None) -> None:
    if number is not None and number > UINT64_MAX:
        raise MalformedBody(f"{name} exceeds 64 bits", field=name)
