"""Which web pages may open a connection.

Called by the consumer before it accepts. A browser sends the page's origin with every handshake;
other clients send none, and are let in by their token alone.
"""

from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from realtime import conf

_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_allowed(origin: str | None, *, scheme: str, host: str) -> bool:
    """Tell whether a page of ``origin`` may connect.

    Args:
        origin: The ``Origin`` header; None if there was none.
        scheme: ``http`` or ``https``, as the client sees this server.
        host: The ``Host`` header.
    Source: Centrifugo origin check; the server's own origin is allowed besides.
    """
    if origin is None:
        return True
    asked = origin.lower()
    own = _parts(f"{scheme}://{host.lower()}")
    if own is not None and _parts(asked) == own:
        return True
    return any(fnmatchcase(asked, pattern.lower()) for pattern in conf.current().allowed_origins)


def _parts(origin: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(origin)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not parts.hostname or port is None or parts.path or parts.query:
        return None
    return parts.scheme, parts.hostname, port
