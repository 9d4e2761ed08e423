"""Who is subscribed to a channel, on all instances; entries lapse unless renewed.

Called by the instance for sessions. An instance that dies takes no entry away, so each one lives
for ``presence_ttl_seconds`` by the clock of Redis and is renewed before that.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from realtime import conf
from realtime.protocol import codec
from realtime.protocol.errors import BrokerUnavailable
from realtime.protocol.messages import ClientInfo, PresenceStatsResult
from realtime.redis_act import Act, Script, script
from realtime.redis_client import RedisServers
from realtime.redis_keys import of_channel

_HERE = Path(__file__).parent / "broker"


class Member(NamedTuple):
    """One connection's entry in one channel."""

    channel: str
    info: ClientInfo


def _script(name: str) -> Script:
    return script(_HERE / "members.lua", _HERE / f"{name}.lua")


def add(member: Member) -> Act[None]:
    """Write an entry, or renew it."""
    channel, info = member
    keys = of_channel(channel)
    return Act(
        keys.group,
        _script("presence_add"),
        (keys.presence, keys.presence_expiry),
        (info.client, _entry(info), conf.current().presence_ttl_seconds),
        lambda _: None,
    )


def remove(channel: str, client: str) -> Act[None]:
    """Take an entry away."""
    keys = of_channel(channel)
    return Act(
        keys.group,
        _script("presence_remove"),
        (keys.presence, keys.presence_expiry),
        (client,),
        lambda _: None,
    )


def members(channel: str) -> Act[dict[str, ClientInfo]]:
    """Read all entries, by client."""
    keys = of_channel(channel)
    return Act(
        keys.group, _script("presence_get"), (keys.presence, keys.presence_expiry), (), _members
    )


def stats(channel: str) -> Act[PresenceStatsResult]:
    """Count entries, and the different users among them."""
    keys = of_channel(channel)
    return Act(
        keys.group,
        _script("presence_stats"),
        (keys.presence, keys.presence_expiry),
        (),
        lambda answer: PresenceStatsResult(num_clients=answer[0], num_users=answer[1]),
    )


def _entry(info: ClientInfo) -> bytes:
    # The user stands in front, so that counting users parses no JSON inside Redis.
    user = info.user.encode()
    return b"%d:%b%b" % (len(user), user, codec.encode_info(info))


def _members(answer: Any) -> dict[str, ClientInfo]:
    pairs = zip(answer[::2], answer[1::2], strict=True)
    return {client.decode(): codec.decode_info(_info_part(entry)) for client, entry in pairs}


def _info_part(entry: bytes) -> bytes:
    length, _, rest = entry.partition(b":")
    return rest[int(length) :]


class Presence:
    """Presence for the coroutines of one event loop; raises ``BrokerUnavailable``."""

    def __init__(self, servers: RedisServers) -> None:
        self._servers = servers

    async def add(self, member: Member) -> None:
        """Write an entry; others see it once this returns."""
        await self._servers.run(add(member))

    async def renew(self, batch: Sequence[Member]) -> list[BrokerUnavailable | None]:
        """Renew many entries in one round trip a server."""
        return await self._servers.run_many([add(member) for member in batch])

    async def remove(self, channel: str, client: str) -> None:
        """Take an entry away; others no longer see it once this returns."""
        await self._servers.run(remove(channel, client))

    async def remove_many(
        self, entries: Sequence[tuple[str, str]]
    ) -> list[BrokerUnavailable | None]:
        """Take many entries, each (channel, client), away in one round trip a server."""
        return await self._servers.run_many([remove(*entry) for entry in entries])

    async def members(self, channel: str) -> dict[str, ClientInfo]:
        """Return the entries of a channel by client."""
        return await self._servers.run(members(channel))

    async def stats(self, channel: str) -> PresenceStatsResult:
        """Return how many clients, and how many different users, are present."""
        return await self._servers.run(stats(channel))
