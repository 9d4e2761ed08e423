"""How other apps do one thing once for all instances, and only while somebody wants it.

Part of the door: ``services`` passes these on.
"""

from collections.abc import Sequence

from realtime import lease, reach
from realtime.broker import acts
from realtime.lease import Lease
from realtime.protocol.errors import BrokerUnavailable, NotAvailable
from realtime.protocol.messages import Publication


async def atake_lease(
    name: str, owner: str, *, ttl_seconds: float, marks: bool = False, forgets: bool = False
) -> Lease:
    """Take a lease that is free, or keep one's own; see ``lease.take``.

    Raises:
        BrokerUnavailable: Redis did not answer in time; whether it was taken is not known.
    """
    return await reach.arun(
        lease.take(name, owner, ttl_seconds=ttl_seconds, marks=marks, forgets=forgets)
    )


async def agive_back_leases(held: Sequence[tuple[str, str]]) -> None:
    """Let others have leases at once, given as name and owner; without Redis they lapse."""
    async with reach.servers() as servers:
        await servers.run_many([lease.give_back(name, owner) for name, owner in held])


async def awatched(channels: Sequence[str]) -> list[bool | None]:
    """Tell of each channel whether anybody is subscribed to it on any instance.

    Who has left counts for a second more. None where Redis did not answer in time.
    """
    async with reach.servers() as servers:
        answers = await servers.run_many([lease.watched(channel) for channel in channels])
    return [None if isinstance(answer, BrokerUnavailable) else answer for answer in answers]


async def akeep(channel: str) -> Publication | None:
    """Return a channel's newest publication, if it has one, and keep it as if it came just now.

    So a value that is still true stays for who comes later, without being published again.

    Raises:
        UnknownChannel: The namespace is not configured.
        NotAvailable: The channel keeps no history.
        BrokerUnavailable: Redis did not answer in time.
    """
    namespace = (await reach.asnapshot()).options_of(channel)
    if not namespace.has_history:
        raise NotAvailable
    return await reach.arun(acts.keep(channel, ttl_seconds=namespace.history_ttl))
