"""Names to addresses that were judged. Imported by the client alone: aiohttp costs megabytes.

A name is resolved once for a connection, every address it has is judged, and the connection goes to
exactly one of those: a name that changes between the two leads nowhere else.
"""

import ipaddress
import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from upstreams import addresses


class CheckedResolver(AbstractResolver):
    """A resolver that fails for a name any of whose addresses is refused."""

    def __init__(self, inner: AbstractResolver, *, allow_private: bool) -> None:
        self._inner = inner
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name.

        Raises:
            Refused: One of them is of the wrong kind.
            OSError: There are none.
        """
        found = await self._inner.resolve(host, port, family)
        for each in found:
            # An IPv6 address may name the interface behind a percent sign.
            address = ipaddress.ip_address(each["host"].partition("%")[0])
            addresses.check(address, allow_private=self._allow_private)
        return found

    async def close(self) -> None:
        """Close what it asks."""
        await self._inner.close()
