"""The subscriptions of one connection: made, held and ended, one change at a time.

Owned by the session. Whoever changes something holds ``lock`` from start to end, so that a
client's commands, the server API and the hub's verdicts come one after another.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from realtime import conf, hooks
from realtime.granting import Caller, Grant, info_of, server_grant
from realtime.hooks import Kind
from realtime.instance import Instance
from realtime.outbox import Outbox
from realtime.presence import Member
from realtime.protocol import codec
from realtime.protocol.disconnects import (
    INSUFFICIENT_STATE,
    SUBSCRIPTION_EXPIRED,
    UNSUBSCRIBED_BY_SERVER,
    UNSUBSCRIBED_EXPIRED,
    UNSUBSCRIBED_INSUFFICIENT_STATE,
    Disconnected,
    Unsubscribe,
)
from realtime.protocol.errors import (
    BrokerUnavailable,
    InternalError,
    LimitExceeded,
    ProtocolError,
)
from realtime.protocol.messages import StreamPosition
from realtime.subscribing import Allowance, Opening, Start, push_of
from realtime.subscription import Subscription
from realtime.tokens import SubscribeOptions

logger = logging.getLogger(__name__)

EXPIRED_CLOSE_SECONDS: Final = 25.0  # Source: Centrifugo, client.expired_sub_close_delay
RETRY_SECONDS: Final = 0.5  # doubles up to the next
RETRY_MAX_SECONDS: Final = 10.0


class Subscriptions:
    """What one connection is subscribed to.

    Attributes:
        caller: Who the connection is, as the channels see it.
    """

    __slots__ = ("_held", "_instance", "_is_closed", "_lock", "_outbox", "_unfulfilled", "caller")

    def __init__(
        self, instance: Instance, outbox: Outbox, lock: asyncio.Lock, *, caller: Caller
    ) -> None:
        self._instance = instance
        self._outbox = outbox
        self._lock = lock
        self._held: dict[str, Subscription] = {}
        # What the server API asked for and Redis did not allow yet: by channel, which attempt.
        self._unfulfilled: dict[str, object] | None = None
        self._is_closed = False
        self.caller = caller

    def __contains__(self, channel: object) -> bool:
        return channel in self._held

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(list(self._held.values()))

    @property
    def is_closed(self) -> bool:
        """Whether nothing may begin here any more."""
        return self._is_closed

    def get(self, channel: str) -> Subscription | None:
        """Return the subscription to a channel, None if there is none."""
        return self._held.get(channel)

    def members(self) -> list[Member]:
        """Return the presence entries."""
        return [
            Member(subscription.channel, info_of(self.caller, subscription))
            for subscription in self._held.values()
            if subscription.has_presence
        ]

    # Beginning -------------------------------------------------------------------------------

    def opening(
        self,
        channel: str,
        granted: Grant,
        start: Start,
        allowance: Allowance,
        *,
        is_server_side: bool = False,
    ) -> Opening:
        """Return the steps that lead to a subscription, none of them taken."""
        subscription = Subscription(
            sys.intern(channel),  # one text for everybody subscribed to it
            outbox=self._outbox,
            holder=self,
            is_positioned=granted.is_positioned,
            wants_join_leave=granted.wants_join_leave,
            is_server_side=is_server_side,
        )
        subscription.chan_info = granted.chan_info
        subscription.expire_at = granted.expire_at
        # Source: Centrifugo sub_refresh proxy: where there is one, no client brings new tokens.
        subscription.is_server_refreshed = (
            hooks.find(Kind.SUB_REFRESH, channel, self._instance.parts) is not None
        )
        subscription.sends_join_leave = granted.options.join_leave
        return Opening(self._instance, self.caller, granted, subscription, start, allowance)

    def go_live(self, opening: Opening) -> None:
        """Hold a subscription; nothing was awaited since the client was told of it."""
        self._held[opening.subscription.channel] = opening.subscription
        self._give_up(opening.subscription.channel)
        opening.go_live()

    async def undo(self, opening: Opening) -> None:
        """Leave no trace of a subscribe that failed."""
        await self._attempt(opening.undo)

    async def announce(self, opening: Opening) -> None:
        """Tell a channel of its new subscriber, if its options say so."""
        if opening.subscription.sends_join_leave:
            channel, info = opening.member()
            await self._attempt(lambda: self._instance.broker.join(channel, info))

    async def _attempt(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do what may be lost: presence entries lapse, joins and leaves are not kept."""
        try:
            await step()
        except BrokerUnavailable as error:
            logger.warning("client %s: Redis was not told: %s", self.caller.client, error)

    # By the server API -----------------------------------------------------------------------

    def subscribe_later(
        self, channel: str, options: SubscribeOptions, since: StreamPosition | None
    ) -> None:
        """Subscribe by the server's own will; the client is told."""
        start = Start(since is not None, since or StreamPosition())
        self._instance.tasks.spawn(self._subscribe(channel, options, start), "subscribe")

    async def _subscribe(self, channel: str, options: SubscribeOptions, start: Start) -> None:
        # The server API has said yes, so this goes on for as long as the client is there, unless
        # something that came later has ended it or done it.
        async with self._lock:
            if await self._is_done(channel, options, start):
                return
            attempt = object()
            self._unfulfilled = {**(self._unfulfilled or {}), channel: attempt}
        retry_seconds = RETRY_SECONDS
        while True:
            await asyncio.sleep(retry_seconds)
            retry_seconds = min(2 * retry_seconds, RETRY_MAX_SECONDS)
            async with self._lock:
                if (self._unfulfilled or {}).get(channel) is not attempt:
                    return
                if await self._is_done(channel, options, start):
                    self._give_up(channel)
                    return

    def _give_up(self, channel: str) -> None:
        if self._unfulfilled is not None:
            self._unfulfilled.pop(channel, None)

    async def _is_done(self, channel: str, options: SubscribeOptions, start: Start) -> bool:
        """Try to subscribe; tell whether there is nothing left to try."""
        try:
            await self._open(channel, options, start)
        except InternalError as error:
            logger.warning("client %s not subscribed yet: %s", self.caller.client, error)
            return False
        except ProtocolError as error:
            logger.error("client %s cannot be subscribed: %s", self.caller.client, error)
        except Disconnected as outcome:
            self._outbox.close(outcome.disconnect)
        return True

    async def _open(self, channel: str, options: SubscribeOptions, start: Start) -> None:
        if self._is_closed or channel in self._held:
            return
        if len(self._held) >= conf.current().channel_limit:
            raise LimitExceeded("it has as many channels as it may")
        granted = server_grant(self._instance.options_of(channel), options)
        opening = self.opening(channel, granted, start, Allowance(), is_server_side=True)
        try:
            result = await opening.run()
        except BaseException:
            await self.undo(opening)
            raise
        if self._is_closed:  # meanwhile; the client has been told of the end of everything
            await self.undo(opening)
            return
        # Nothing may be awaited between these: what arrives now follows the push.
        self._outbox.write(codec.subscribe_frame(channel, push_of(result)))
        for publication in result.publications:
            self._outbox.write(codec.publication_frame(channel, publication))
        self.go_live(opening)
        await self.announce(opening)

    def unsubscribe_later(self, channel: str) -> None:
        """End a subscription by the server's own will; the client is told in any case."""
        self._instance.tasks.spawn(
            self._unsubscribe(channel, None, UNSUBSCRIBED_BY_SERVER), "unsubscribe"
        )

    # Ending ----------------------------------------------------------------------------------

    async def leave(self, channel: str) -> None:
        """End a subscription, if there is one: hub, presence, then the leave message."""
        self._give_up(channel)
        subscription = self._held.pop(channel, None)
        if subscription is None:
            return
        self._instance.hub.remove(subscription)
        if subscription.has_presence:
            client = self.caller.client
            await self._attempt(lambda: self._instance.presence.remove(channel, client))
        if subscription.sends_join_leave:
            info = info_of(self.caller, subscription)
            await self._attempt(lambda: self._instance.broker.leave(channel, info))

    def check_time(self) -> list[Subscription]:
        """End the subscriptions that have expired, after the grace.

        Returns those that the server asks about; they have no grace.
        """
        now, expired = time.time(), []
        for subscription in self:
            grace_seconds = 0.0 if subscription.is_server_refreshed else EXPIRED_CLOSE_SECONDS
            if not 0 < subscription.expire_at <= now - grace_seconds:
                continue
            if subscription.is_server_refreshed:
                expired.append(subscription)
            else:
                self.end(subscription, UNSUBSCRIBED_EXPIRED)
        return expired

    def end(self, subscription: Subscription, unsubscribe: Unsubscribe) -> None:
        """End a subscription because of what became of it, and tell the client why."""
        if self._held.get(subscription.channel) is not subscription:
            return
        if subscription.is_server_side:
            lost = unsubscribe is UNSUBSCRIBED_INSUFFICIENT_STATE
            self._outbox.close(INSUFFICIENT_STATE if lost else SUBSCRIPTION_EXPIRED)
            return
        subscription.end()
        self._instance.tasks.spawn(
            self._unsubscribe(subscription.channel, subscription, unsubscribe),
            "end a subscription",
        )

    async def _unsubscribe(
        self, channel: str, expected: Subscription | None, unsubscribe: Unsubscribe
    ) -> None:
        # Under the lock: a subscribe under way ends first, and the client's next one comes after.
        async with self._lock:
            if self._is_closed:
                return
            if expected is not None and self._held.get(channel) is not expected:
                return
            await self.leave(channel)
            self._outbox.write(codec.unsubscribe_frame(channel, unsubscribe))

    def begin_no_more(self) -> None:
        """Let the server API begin nothing here any more: the connection is about to end."""
        self._is_closed = True

    async def close(self) -> None:
        """End all of them: the connection is gone."""
        self._is_closed = True
        self._leave_hub()
        async with self._lock:
            self._leave_hub()  # what was being made just now
            await self._say_goodbye()

    def _leave_hub(self) -> None:
        for subscription in self:
            self._instance.hub.remove(subscription)

    async def _say_goodbye(self) -> None:
        left = list(self)
        self._held.clear()
        present = [(each.channel, self.caller.client) for each in left if each.has_presence]
        told = [Member(e.channel, info_of(self.caller, e)) for e in left if e.sends_join_leave]
        # One deadline for all: with Redis away a connection must not take long to end.
        await asyncio.gather(
            self._instance.presence.remove_many(present), self._instance.broker.leave_many(told)
        )
