"""What one instance says of itself when all are asked: its figures, channels and connections.

Owned by the instance. Who asks, and how the answers are brought together, is in ``registry.py``
and ``operations.py``.
"""

import logging
import socket
import time
from typing import Final

import msgspec

from realtime import conf, registry
from realtime.arrivals import Spawn
from realtime.connections import ConnectionTable
from realtime.hub import Hub
from realtime.layers import LayerMessage
from realtime.protocol.errors import BrokerUnavailable
from realtime.redis_client import RedisServers
from realtime.slices import sliced

logger = logging.getLogger(__name__)

CHANNELS_AT_ONCE: Final = 100  # looked at in a tenth of a millisecond

_decode_question = msgspec.json.Decoder(registry.Question).decode


class Report:
    """Answers the surveys that reach one instance."""

    def __init__(
        self,
        uid: str,
        servers: RedisServers,
        hub: Hub,
        connections: ConnectionTable,
        *,
        spawn: Spawn,
    ) -> None:
        self._uid = uid
        self._servers = servers
        self._hub = hub
        self._connections = connections
        self._spawn = spawn
        self._started_at = time.monotonic()

    def notice(self, message: LayerMessage) -> None:
        """Answer a message of the control group, if it is a survey."""
        if message.type != registry.SURVEY:
            return
        try:
            question = _decode_question(message.body)
        except msgspec.DecodeError as error:
            logger.warning("unknown survey: %s", error)
        else:
            self._spawn(self._answer(question), "answer a survey")

    async def _answer(self, question: registry.Question) -> None:
        content = await self._content(question)
        if content is None:
            return  # a newer version's question
        try:
            await self._servers.run(registry.answer(question, self._uid, content))
        except BrokerUnavailable as error:
            logger.warning("a survey was not answered: %s", error)

    async def _content(self, question: registry.Question) -> object:
        match question.op:
            case "info":
                return await self.info()
            case "channels":
                return await self._channels(question.pattern)
            case "connections":
                return await self._page(question)
            case _:
                return None

    async def _channels(self, pattern: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        channels = list(self._hub.channels.values())
        starts = range(0, len(channels), CHANNELS_AT_ONCE)
        async for start in sliced(starts):
            part = channels[start : start + CHANNELS_AT_ONCE]
            counts |= self._hub.client_counts(pattern, part)
        return counts

    async def _page(self, wanted: registry.Question) -> list[registry.ConnectionInfo]:
        page = await self._connections.page(
            wanted.user, wanted.channel, after=wanted.after, limit=wanted.limit
        )
        return [
            registry.ConnectionInfo(each.client, each.user, self._uid, each.channels())
            for each in page
        ]

    async def info(self) -> registry.NodeInfo:
        """Return what the server API shows of this instance."""
        subscription_count = channel_count = 0
        async for channel in sliced(list(self._hub.channels.values())):
            subscription_count += len(channel.subscriptions)
            channel_count += bool(channel.subscriptions)
        return registry.NodeInfo(
            uid=self._uid,
            name=f"{socket.gethostname()}_{self._uid[:8]}",
            version=conf.SERVER_VERSION,
            num_clients=len(self._connections),
            num_users=self._connections.user_count,
            num_subs=subscription_count,
            num_channels=channel_count,
            uptime=int(time.monotonic() - self._started_at),
        )
