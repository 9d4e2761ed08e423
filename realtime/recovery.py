"""What a returning client missed, or why it cannot be shown; pure.

Called with what was read from a channel's stream. Offsets compare only within an epoch, and one
epoch back: after a restart of Redis the old epoch is good up to where its files ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from realtime.protocol.messages import Publication, StreamPosition

UNKNOWN = StreamPosition()


@dataclass(frozen=True, slots=True)
class History:
    """Part of a channel's stream.

    Attributes:
        publications: In the order they were asked for.
        position: The stream's top.
        previous: Where the epoch before this one ended; ``("", 0)`` if that is unknown.
    """

    publications: Sequence[Publication]
    position: StreamPosition
    previous: StreamPosition = UNKNOWN

    def knows(self, position: StreamPosition) -> bool:
        """Tell whether a position's offset still means the same in this stream.

        An empty epoch stands for any. One above the top of this epoch means nothing yet.
        """
        if position.epoch in ("", self.position.epoch):
            return True
        is_previous = position.epoch == self.previous.epoch and self.previous.epoch != ""
        return is_previous and position.offset <= self.previous.offset

    def continues(self, position: StreamPosition) -> bool:
        """Tell whether somebody can go on from a position here."""
        return self.knows(position) and position.offset <= self.position.offset


@dataclass(frozen=True, slots=True)
class Recovery:
    """The outcome of a recovery: whether it holds, and the publications missed, oldest first."""

    is_recovered: bool
    publications: Sequence[Publication] = ()


FAILED = Recovery(is_recovered=False)


def recover(since: StreamPosition, history: History, *, limit: int) -> Recovery:
    """Return what follows ``since``, or that it cannot be shown whole.

    Args:
        since: What the client holds; an empty epoch stands for any.
        history: The newest publications of the stream, oldest first, up to its top.
        limit: Most publications to give; a client that missed more is not recovered.
    Source: Centrifugo client protocol, the recovered test of stream mode.
    """
    if not history.continues(since):
        return FAILED
    missed = [entry for entry in history.publications if entry.offset > since.offset]
    if not missed:
        return Recovery(since.offset == history.position.offset)
    is_whole = (
        missed[0].offset == since.offset + 1
        and missed[-1].offset == history.position.offset
        and len(missed) == history.position.offset - since.offset
    )
    if not is_whole or len(missed) > limit:
        return FAILED
    return Recovery(True, missed)


def recover_newest(since: StreamPosition, history: History) -> Recovery:
    """Return the newest publication, unless the client has it or it is kept no more.

    Args:
        since: What the client holds; it has the newest only if it names its epoch as well.
        history: At least the newest publication of the stream, as the last one, if it is kept.
    Source: Centrifugo client protocol, cache recovery mode.
    """
    top = history.position.offset
    has_newest = since.offset > 0 and since.epoch != "" and since.offset == top
    if has_newest and history.knows(since):
        return Recovery(True)
    if not history.publications or history.publications[-1].offset != top:
        return FAILED
    return Recovery(True, history.publications[-1:])
