"""A channel that this instance has subscriptions to, and the forms in which things reach them.

Owned by the hub; changed by it and by the arrivals.
"""

import asyncio
from collections import deque

from realtime.fan_out import ChannelQueue
from realtime.layers import JOIN, LEAVE, PUBLICATION, LayerMessage
from realtime.protocol import codec
from realtime.protocol.messages import Publication, StreamPosition
from realtime.redis_keys import of_channel
from realtime.subscription import Delivery, Subscription


class HubChannel:
    """A channel that this instance has subscriptions to.

    Attributes:
        position: The last publication queued for delivery; None before the first is known.
        is_listening: Whether the layer has acknowledged the group.
        active_at: When a publication with an offset was last queued.
        shard: Which server's link carries its group.
        compared_at_cut: How often that link had been cut when the position was last compared.
        is_proven: Whether the position was the stream's own when it was last read or compared.
        check_slot: Where it stands in the hub's wheel of checks.
        must_look_again: Whether a repair under way is to read once more before it ends.
        held: What arrives while a gap is filled.
    """

    __slots__ = (
        "active_at",
        "check_slot",
        "compared_at_cut",
        "group",
        "held",
        "held_bytes",
        "is_listening",
        "is_proven",
        "leave_timer",
        "lock",
        "must_look_again",
        "name",
        "position",
        "queue",
        "repair",
        "shard",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.shard = 0
        self.compared_at_cut = 0
        self.group = of_channel(name).group
        self.queue = ChannelQueue()
        self.position: StreamPosition | None = None
        self.is_listening = False
        self.is_proven = False
        self.must_look_again = False
        self.check_slot = 0
        self.lock = asyncio.Lock()
        self.leave_timer: asyncio.TimerHandle | None = None
        self.repair: asyncio.Task[None] | None = None
        self.held: deque[Delivery] = deque()
        self.held_bytes = 0
        self.active_at = asyncio.get_running_loop().time()

    @property
    def subscriptions(self) -> dict[Subscription, None]:
        """Everyone subscribed here."""
        return self.queue.subscriptions

    @property
    def has_positioned(self) -> bool:
        """Whether somebody was promised to miss nothing."""
        return any(each.is_positioned for each in self.subscriptions)


def delivery_of(channel: str, message: LayerMessage) -> Delivery | None:
    """Return what the layer carried in the form in which it is delivered; None if unknown."""
    if message.type == PUBLICATION:
        publication = codec.decode_publication(message.body)
        return publication_delivery(channel, message.offset, message.epoch, publication)
    info = codec.decode_info(message.body)
    if message.type == JOIN:
        return Delivery(codec.join_frame(channel, info), is_presence_event=True)
    if message.type == LEAVE:
        return Delivery(codec.leave_frame(channel, info), is_presence_event=True)
    return None


def publication_delivery(
    channel: str, offset: int, epoch: str, publication: Publication
) -> Delivery:
    """Return a publication in the form in which it is delivered, framed once for everybody."""
    publication.offset = offset
    if offset == 1:
        # Source: Centrifugo client protocol, pushes: the epoch goes with the first publication.
        publication.epoch = epoch
    return Delivery(codec.publication_frame(channel, publication), offset, epoch)
