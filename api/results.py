"""What the methods of the server API answer with, beside what the client protocol shares.

Field names and zero values are those of the Centrifugo server API, with ``unanswered`` added.
"""

from collections.abc import Sequence

from msgspec import Struct, field

from realtime.protocol.errors import ProtocolError
from realtime.protocol.messages import ErrorBody


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


def error_body(error: ProtocolError) -> ErrorBody:
    """Return an error as the API writes it: there, nothing is marked as temporary."""
    return ErrorBody(error.code, error.message)
