"""One client's tie to one channel on this instance; pure.

Created by the session, registered in the hub, which hands it every delivery of the channel. It
decides alone whether the delivery is written now, kept for later, or known already.
"""

from enum import Enum
from typing import NamedTuple, Protocol

from msgspec import Raw

from realtime.protocol.disconnects import Unsubscribe
from realtime.protocol.messages import StreamPosition

BUFFER_MAX_BYTES = 1024 * 1024


class Delivery(NamedTuple):
    """One message of a channel, framed: a publication, a join or a leave.

    ``offset`` is 0 for what no stream keeps.
    """

    frame: bytes
    offset: int = 0
    epoch: str = ""
    is_presence_event: bool = False


class State(Enum):
    """Where a subscription is in its life."""

    JOINING = "joining"
    GUARDED = "guarded"
    LIVE = "live"
    ENDED = "ended"


class Outbox(Protocol):
    """Where a connection's frames go."""

    def write(self, frame: bytes) -> None:
        """Send a finished frame, or several joined."""


class Holder(Protocol):
    """Who made a subscription, and ends it."""

    def end(self, subscription: "Subscription", unsubscribe: Unsubscribe) -> None:
        """End it and tell the client why."""


class Subscription:
    """A subscription; it holds no position of its own once it is live.

    joining: deliveries are kept until the history read is merged into the reply.
    guarded: the read may have been ahead of the hub, so what it covered is not written again.
    live: everything is written.
    ended: nothing is written.

    Attributes:
        is_by_rule: Whether a channel rule allowed it, which may change its mind.
        is_server_refreshed: Whether the server asks at its end, and not the client for a new token.
    """

    __slots__ = (
        "_buffer",
        "_buffer_bytes",
        "_guard_epoch",
        "_guard_offset",
        "_holder",
        "chan_info",
        "channel",
        "expire_at",
        "has_overflowed",
        "has_presence",
        "is_by_rule",
        "is_live",
        "is_positioned",
        "is_server_refreshed",
        "is_server_side",
        "outbox",
        "sends_join_leave",
        "state",
        "wants_join_leave",
    )

    def __init__(
        self,
        channel: str,
        *,
        outbox: Outbox,
        holder: Holder,
        is_positioned: bool = False,
        wants_join_leave: bool = False,
        is_server_side: bool = False,
    ) -> None:
        self.channel = channel
        self.outbox = outbox
        self.is_positioned = is_positioned
        self.wants_join_leave = wants_join_leave
        self.is_server_side = is_server_side
        self.has_presence = False
        self.sends_join_leave = False
        self.is_by_rule = False
        self.is_server_refreshed = False
        self.chan_info: Raw | None = None
        self.expire_at = 0
        self.state = State.JOINING
        self.is_live = False
        self.has_overflowed = False
        self._holder = holder
        self._buffer: list[Delivery] | None = []
        self._buffer_bytes = 0
        self._guard_offset = 0
        self._guard_epoch = ""

    def hand(self, delivery: Delivery) -> None:
        """Take one delivery, in the channel's order."""
        if self.is_live:
            self.outbox.write(delivery.frame)
        elif self.state is State.JOINING:
            self._keep(delivery)
        elif self.state is State.GUARDED:
            # Offsets of another epoch say nothing of what was read.
            if delivery.offset and delivery.epoch == self._guard_epoch:
                if delivery.offset <= self._guard_offset:
                    return
                self._become_live()
            self.outbox.write(delivery.frame)

    def _keep(self, delivery: Delivery) -> None:
        assert self._buffer is not None
        self._buffer_bytes += len(delivery.frame)
        if self._buffer_bytes > BUFFER_MAX_BYTES:
            # The stream has what is dropped here; a subscription without position never waits
            # long enough to fill this, unless Redis is slow, and is promised no history.
            self._forget_kept()
            self.has_overflowed = True
            return
        self._buffer.append(delivery)

    def _forget_kept(self) -> None:
        self._buffer = []
        self._buffer_bytes = 0

    def follows(self, position: StreamPosition) -> bool:
        """Tell whether what was kept continues ``position`` without a hole.

        If not, the history was read too early or in another epoch, and is to be read again.
        """
        assert self._buffer is not None
        if self.has_overflowed:
            self.has_overflowed = False
            self._forget_kept()
            return False
        next_offset = position.offset + 1
        for delivery in self._buffer:
            if delivery.offset == 0:
                continue
            if delivery.epoch != position.epoch:
                self._forget_kept()
                return False
            if delivery.offset >= next_offset:
                if delivery.offset > next_offset:
                    return False
                next_offset += 1
        return True

    def keeps(self, offset: int) -> bool:
        """Tell whether the delivery with this offset was kept."""
        return any(delivery.offset == offset for delivery in self._buffer or ())

    @property
    def has_joined(self) -> bool:
        """Whether the client was told that it is subscribed, and nothing of an end."""
        return self.is_live or self.state is State.GUARDED

    def release(self, position: StreamPosition | None) -> int:
        """Go on from ``position``, which the reply told the client; return the offset reached.

        What was kept and is newer is written now. None goes live with everything that was kept.
        """
        kept, self._buffer = self._buffer or [], None
        reached = position.offset if position is not None else 0
        for delivery in kept:
            if position is None or delivery.offset == 0:
                self.outbox.write(delivery.frame)
            elif delivery.offset > reached:
                reached = delivery.offset
                self.outbox.write(delivery.frame)
        if position is None:
            self._become_live()
        else:
            self._guard_offset, self._guard_epoch = reached, position.epoch
            self.state = State.GUARDED
        return reached

    def _become_live(self) -> None:
        self.state = State.LIVE
        self.is_live = True

    def end(self) -> None:
        """Write nothing more."""
        self.state = State.ENDED
        self.is_live = False
        self._buffer = None

    def end_by_server(self, unsubscribe: Unsubscribe) -> None:
        """Ask the session to end this subscription and tell the client why."""
        self._holder.end(self, unsubscribe)
