"""Where requests may go: which URLs are usable, and which addresses may be connected to.

Asked when an upstream is saved, and by the resolver at every connection.
"""

import ipaddress
import socket
from typing import Final, NamedTuple
from urllib.parse import urlsplit

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
# RFC 4291: what else there is of IPv6 has a purpose of its own, and Python's releases differ in
# what they call global of it.
_UNICAST6: Final = ipaddress.ip_network("2000::/3")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refused(ValueError):
    """Nothing is sent there."""


class Url(NamedTuple):
    """The parts of a base URL; ``path`` has no slash at its end."""

    scheme: str
    host: str
    port: int
    path: str


def parsed(url: str) -> Url:
    """Return the parts of a URL that requests may go to, wherever that is.

    Raises:
        Refused: Not http or https, no host, or with more than host, port and path.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Refused(str(error)) from error
    if not url.isascii() or not url.isprintable() or any(each in url for each in " \\"):
        raise Refused("use printable ASCII without spaces and backslashes")
    if parts.scheme not in ("http", "https"):
        raise Refused("it begins with http:// or https://")
    if "@" in parts.netloc:
        raise Refused("user and password are not sent in a URL")
    if not parts.hostname:
        raise Refused("it names no host")
    if "?" in url or "#" in url:
        raise Refused("it ends with the path")
    return Url(
        parts.scheme,
        parts.hostname,
        port or (443 if parts.scheme == "https" else 80),
        parts.path.rstrip("/"),
    )


def check_literal(host: str, *, allow_private: bool) -> None:
    """Refuse a host that is an address of the wrong kind, in whatever way it is written.

    Raises:
        Refused: As ``check`` does.
    """
    try:
        address: Address = ipaddress.ip_address(host)
    except ValueError:
        try:
            # What the system takes for one as well: 127.1, 0x7f000001, 017700000001.
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return
    check(address, allow_private=allow_private)


def check(address: Address, *, allow_private: bool) -> None:
    """Refuse an address that nobody serves at, or a private one where that is not allowed.

    Raises:
        Refused: It is of the wrong kind; so is one that hides such an address.
    """
    for each in (address, *_embedded(address)):
        if each.is_multicast or each.is_unspecified or _is_broadcast(each):
            raise Refused("nobody can be asked at that address")
        if not allow_private and not _is_public(each):
            raise Refused("the address is private")


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST6:
        return address in _NAT64  # what it stands for is looked at too
    return address.is_global


def _is_broadcast(address: Address) -> bool:
    return address == ipaddress.IPv4Address("255.255.255.255")


def _embedded(address: Address) -> list[Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[Address] = []
    if address.ipv4_mapped is not None:
        found.append(address.ipv4_mapped)
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found
