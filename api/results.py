"""What the HTTP API answers with, beside what the client protocol shares.

Field names and zero values of methods are those of the Centrifugo server API, with ``unanswered``
added. Resources are described to the reader by the same classes that are written out.
"""

from collections.abc import Sequence

from msgspec import UNSET, Raw, Struct, UnsetType, field

from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import ClientInfo, ErrorBody, Publication, is_absent
from realtime.services import ConnectionInfo
from realtime.snapshot import ChannelOptions


class PublishResult(Struct, omit_defaults=True):
    """Where the publication is in the stream; nothing for a channel without history."""

    offset: int = 0
    epoch: str = ""


class BroadcastResponse(Struct, omit_defaults=True):
    """What became of one channel's publication."""

    result: PublishResult | None = None
    error: ErrorBody | None = None


class BroadcastResult(Struct):
    """One response for each channel, in their order."""

    responses: list[BroadcastResponse]


class ChannelCount(Struct):
    """How many connections are subscribed."""

    num_clients: int


class ChannelsResult(Struct, omit_defaults=True):
    """Active channels; ``unanswered`` names the instances that are missing from the sums."""

    channels: dict[str, ChannelCount]
    unanswered: list[str] = field(default_factory=list)


class InfoResult(Struct, omit_defaults=True):
    """The instances; ``unanswered`` names those that did not say how they are."""

    nodes: Sequence[Struct]
    unanswered: list[str] = field(default_factory=list)


# Resources ------------------------------------------------------------------------------------


class Position(Struct):
    """Where a publication is in its stream; offset 0 and no epoch if it is in none."""

    offset: int
    epoch: str


class Client(Struct):
    """Who a connection is, as others see it."""

    client: str
    user: str
    conn_info: Raw | UnsetType = UNSET
    chan_info: Raw | UnsetType = UNSET


class StoredPublication(Struct):
    """A publication; ``info`` is of the client that published it, if one did."""

    offset: int
    data: Raw
    info: Client | UnsetType = UNSET
    tags: dict[str, str] | UnsetType = UNSET


class PublicationPage(Struct):
    """Publications in the order asked for, and the stream's top; ``next`` while there are more."""

    publications: list[StoredPublication]
    offset: int
    epoch: str
    next: str | UnsetType = UNSET


class Presence(Struct):
    """How many connections and users are subscribed, and unless counts alone were asked, who."""

    num_clients: int
    num_users: int
    clients: list[Client] | UnsetType = UNSET


class ConnectionPage(Struct):
    """Connections in the order of their clients; ``next`` while there are more.

    ``unanswered`` names the instances whose connections are missing.
    """

    connections: list[ConnectionInfo]
    next: str | UnsetType = UNSET
    unanswered: list[str] | UnsetType = UNSET


class NamespaceResult(Struct):
    """The options of the channels whose name begins with ``name:``; times in seconds."""

    name: str
    options: ChannelOptions


class NamespaceList(Struct):
    """Every namespace, by name; the one without a name is for channels without a namespace."""

    namespaces: list[NamespaceResult]


def client(info: ClientInfo) -> Client:
    """Return a client's info as resources write it."""
    return Client(info.client, info.user, _present(info.conn_info), _present(info.chan_info))


def stored_publication(publication: Publication) -> StoredPublication:
    """Return a publication as resources write it."""
    return StoredPublication(
        publication.offset,
        publication.data,
        client(publication.info) if publication.info else UNSET,
        publication.tags or UNSET,
    )


def _present(payload: Raw) -> Raw | UnsetType:
    return UNSET if is_absent(payload) else payload


# Errors ---------------------------------------------------------------------------------------


def error_body(error: ProtocolError) -> ErrorBody:
    """Return an error as the API writes it: there, nothing is marked as temporary."""
    return ErrorBody(error.code, error.message)
