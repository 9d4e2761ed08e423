"""Twisted's HTTP connection, with a deadline for what arrives, and an end when the server drains.

Built by the server's HTTP factory, one per socket, and left behind by a WebSocket's upgrade.
"""

from typing import Any

from twisted.protocols.basic import LineReceiver
from twisted.web.http import HTTPChannel


class DeadlineChannel(HTTPChannel):
    """An HTTP connection that has ``timeOut`` seconds for each request to arrive, all in all."""

    def dataReceived(self, data: bytes) -> None:
        """Read on without more time: what trickles in byte by byte would hold on for hours.

        The parent's differs in nothing but that it starts the time anew.
        """
        LineReceiver.dataReceived(self, data)

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Let this request be the last one of the connection if the server is about to end.

        A client that sent another one meanwhile could not tell whether it was done.
        """
        is_persistent = bool(super().checkPersistence(request, version))
        if is_persistent and self.factory.server.is_draining:
            request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
            return False
        return is_persistent
