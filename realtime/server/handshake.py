"""A WebSocket's handshake: what is refused before an application hears of it, and ASGI's scope.

Called by the protocol when Autobahn has found the request to be in order.
"""

from typing import Any, Final
from urllib.parse import unquote

from daphne.utils import parse_x_forwarded_for

Headers = list[tuple[bytes, bytes]]

ASGI: Final = {"version": "3.0"}


def refusal(request: Any) -> tuple[int, str] | None:
    """Return status and reason of a handshake that no application could answer, None for none."""
    # Daphne would answer 500 with Python's words, and log a traceback for any stranger.
    if not request.headers.get("sec-websocket-protocol", "").isascii():
        return 400, "Bad Request"
    return None


def scope_of(protocol: Any, request: Any) -> dict[str, Any]:
    """Return the scope of a connection, without extensions."""
    headers: Headers = [
        (name.encode("ascii"), value.encode("latin-1"))
        for name, value in request.headers.items()
        if "_" not in name  # CVE-2015-0219: it would pass for the name with a hyphen
    ]
    return {
        "type": "websocket",
        "asgi": ASGI,
        "path": unquote(request.path),
        "raw_path": request.path.encode("ascii"),
        "root_path": protocol.server.root_path,
        "query_string": protocol._raw_query_string,
        "headers": headers,
        "client": _client(protocol, headers),
        "server": _address(protocol.transport.getHost()),
        "subprotocols": _subprotocols(request),
    }


def _client(protocol: Any, headers: Headers) -> list[Any] | None:
    address = _address(protocol.transport.getPeer())
    server = protocol.server
    if server.proxy_forwarded_address_header:
        address, _ = parse_x_forwarded_for(
            dict(headers),
            server.proxy_forwarded_address_header,
            server.proxy_forwarded_port_header,
            server.proxy_forwarded_proto_header,
            address,
        )
    return address


def _address(where: Any) -> list[Any] | None:
    has_port = hasattr(where, "host") and hasattr(where, "port")
    return [str(where.host), where.port] if has_port else None  # a unix socket has none


def _subprotocols(request: Any) -> list[str]:
    # As they are: Autobahn, which is told which one is taken, unquotes nothing.
    asked = request.headers.get("sec-websocket-protocol", "")
    return [name.strip() for name in asked.split(",")] if asked else []
