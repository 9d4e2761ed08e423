"""The words of the wire: commands, replies, pushes and what they carry.

Field names and their zero values are those of the Centrifugo client protocol. A field with its
default is not written; a field without one is always written. ``Raw`` carries a payload through
untouched, so that the publisher's bytes survive. In commands ``null`` equals absent.
"""

from typing import Annotated, NamedTuple

from msgspec import Meta, Raw, Struct, field

ABSENT = Raw()  # one object, because omission compares defaults by identity
UINT64_MAX = 2**64 - 1

UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Unsigned = Annotated[
    int, Meta(ge=0)
]  # uint64; msgspec bounds end at int64, codec.py checks the top


def is_absent(raw: Raw) -> bool:
    """Tell whether a payload field was left out or given as ``null``."""
    payload = bytes(raw)
    return not payload or payload == b"null"


class StreamPosition(NamedTuple):
    """A place in one channel's stream; offsets compare only within an epoch."""

    offset: int = 0
    epoch: str = ""


class ClientInfo(Struct, omit_defaults=True, frozen=True):
    """Who a connection is, as others see it: in presence, join, leave and publications."""

    user: str
    client: str
    conn_info: Raw = ABSENT
    chan_info: Raw = ABSENT


class Publication(Struct, omit_defaults=True):
    """One message of a channel.

    ``offset`` is 0 for a publication that is not in the stream. ``epoch`` is set on offset 1 only.
    """

    data: Raw = ABSENT
    offset: int = 0
    info: ClientInfo | None = None
    tags: dict[str, str] | None = None
    epoch: str = ""


class Flag(Struct):
    """A truth value in an object, so that false differs from absent."""

    value: bool | None = None


class OverrideFlags(Struct):
    """Channel options that differ for one subscription: in tokens, proxies and the server API.

    Source: Centrifugo server API, subscribe, ``override``.
    """

    presence: Flag | None = None
    join_leave: Flag | None = None
    force_push_join_leave: Flag | None = None
    force_recovery: Flag | None = None
    force_positioning: Flag | None = None


# Commands -----------------------------------------------------------------------------------


class SincePosition(Struct):
    """A position as clients send it."""

    offset: Unsigned | None = None
    epoch: str | None = None


class SubscribeRequest(Struct):
    channel: str | None = None
    token: str | None = None
    recover: bool | None = None
    offset: Unsigned | None = None
    epoch: str | None = None
    data: Raw = ABSENT
    positioned: bool | None = None
    recoverable: bool | None = None
    join_leave: bool | None = None
    delta: str | None = None
    tf: Raw = ABSENT
    flag: int | None = None
    type: Int32 | None = None


class ConnectRequest(Struct):
    token: str | None = None
    data: Raw = ABSENT
    subs: dict[str, SubscribeRequest | None] | None = None
    name: str | None = None
    version: str | None = None
    headers: dict[str, str] | None = None


class ChannelRequest(Struct):
    """unsubscribe, presence and presence_stats: nothing but a channel."""

    channel: str | None = None


class PublishRequest(Struct):
    channel: str | None = None
    data: Raw = ABSENT
    type: Int32 | None = None


class HistoryRequest(Struct):
    channel: str | None = None
    limit: Int32 | None = None
    since: SincePosition | None = None
    reverse: bool | None = None


class RPCRequest(Struct):
    method: str | None = None
    data: Raw = ABSENT


class SendRequest(Struct):
    data: Raw = ABSENT


class RefreshRequest(Struct):
    token: str | None = None


class SubRefreshRequest(Struct):
    channel: str | None = None
    token: str | None = None


class Command(Struct):
    """One command: ``id`` and the first present of its requests, in the order listed here."""

    id: UInt32 | None = None
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: ChannelRequest | None = None
    publish: PublishRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    history: HistoryRequest | None = None
    rpc: RPCRequest | None = None
    send: SendRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


# Results ------------------------------------------------------------------------------------


class SubscribeResult(Struct, omit_defaults=True):
    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    positioned: bool = False
    epoch: str = ""
    offset: int = 0
    recovered: bool = False
    was_recovering: bool = False
    publications: list[Publication] = field(default_factory=list)
    data: Raw = ABSENT


class ConnectResult(Struct, omit_defaults=True):
    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    ping: int = 0
    pong: bool = False
    subs: dict[str, SubscribeResult] = field(default_factory=dict)
    data: Raw = ABSENT
    time: int = 0  # Unix milliseconds


class Empty(Struct):
    """A result that says nothing but "done"; written as ``{}``."""


class PresenceResult(Struct):
    presence: dict[str, ClientInfo]


class PresenceStatsResult(Struct):
    num_clients: int
    num_users: int


class HistoryResult(Struct):
    publications: list[Publication]
    offset: int
    epoch: str


class RefreshResult(Struct, omit_defaults=True):
    expires: bool = False
    ttl: int = 0


class RPCResult(Struct, omit_defaults=True):
    data: Raw = ABSENT


class ErrorBody(Struct, omit_defaults=True):
    code: int
    message: str
    temporary: bool = False


class Reply(Struct, omit_defaults=True):
    """The answer to the command with the same ``id``: an error or exactly one result."""

    id: int
    error: ErrorBody | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: Empty | None = None
    publish: Empty | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    rpc: RPCResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: RefreshResult | None = None


# Pushes -------------------------------------------------------------------------------------


class InfoPush(Struct):
    """Body of join and leave."""

    info: ClientInfo


class CodePush(Struct):
    """Body of unsubscribe and disconnect; both fields are needed by the SDKs."""

    code: int
    reason: str


class SubscribePush(Struct, omit_defaults=True):
    """Body of the push that tells of a subscription which the server made."""

    recoverable: bool = False
    positioned: bool = False
    epoch: str = ""
    offset: int = 0
    data: Raw = ABSENT


class Push(Struct, omit_defaults=True):
    channel: str = ""
    pub: Publication | None = None
    join: InfoPush | None = None
    leave: InfoPush | None = None
    unsubscribe: CodePush | None = None
    subscribe: SubscribePush | None = None
    disconnect: CodePush | None = None
    refresh: RefreshResult | None = None


class PushEnvelope(Struct):
    push: Push
