"""Keep publications and carry them between instances; for the coroutines of one event loop.

Called by the instance for sessions, and by the hub to repair what it missed. What arrives comes
through the channel layer, not through here.
"""

from collections.abc import Sequence

from realtime.broker import acts
from realtime.broker.acts import Published
from realtime.layers import JOIN, LEAVE
from realtime.protocol import codec
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import ClientInfo, StreamPosition
from realtime.recovery import History
from realtime.redis_act import Act
from realtime.redis_client import RedisServers
from realtime.redis_keys import of_channel


class Broker:
    """Streams and announcements. Every method raises ``BrokerUnavailable`` after the deadline."""

    def __init__(self, servers: RedisServers) -> None:
        self._servers = servers

    async def publish(self, act: Act[Published]) -> Published:
        """Carry out ``acts.publish``; once this returns, the publication is in the stream."""
        return await self._servers.run(act)

    async def history(
        self, channel: str, *, since: StreamPosition | None, limit: int, reverse: bool
    ) -> History:
        """Return up to ``limit`` publications around ``since``; see ``acts.history``."""
        return await self._servers.run(
            acts.history(channel, since=since, limit=limit, reverse=reverse)
        )

    async def newest(
        self, channel: str, *, after_offset: int, limit: int, witness: StreamPosition | None = None
    ) -> History:
        """Return the newest publications above an offset; see ``acts.newest``."""
        return await self._servers.run(
            acts.newest(channel, after_offset=after_offset, limit=limit, witness=witness)
        )

    async def tops(
        self, positions: Sequence[tuple[str, StreamPosition]]
    ) -> list[History | BrokerUnavailable]:
        """Return the streams' tops, each channel given with the position its hub holds."""
        return await self._servers.run_many(
            [acts.top(channel, witness=position) for channel, position in positions]
        )

    async def remove(self, channel: str) -> None:
        """Drop a channel's publications; its position stays."""
        await self._servers.run(acts.remove(channel))

    async def join(self, channel: str, info: ClientInfo) -> None:
        """Tell the subscribers of a new one; may be lost."""
        await self._announce(channel, JOIN, info)

    async def leave(self, channel: str, info: ClientInfo) -> None:
        """Tell the subscribers of one gone; may be lost."""
        await self._announce(channel, LEAVE, info)

    async def leave_many(self, left: Sequence[tuple[str, ClientInfo]]) -> None:
        """Tell of many, each (channel, who), in one round trip a server; may be lost."""
        await self._servers.run_many(
            [
                acts.announce(of_channel(channel).group, LEAVE, codec.encode_info(info))
                for channel, info in left
            ]
        )

    async def _announce(self, channel: str, kind: str, info: ClientInfo) -> None:
        group = of_channel(channel).group
        await self._servers.run(acts.announce(group, kind, codec.encode_info(info)))
