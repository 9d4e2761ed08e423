"""What one connection is owed: finished frames, in order, up to a bound.

The session and the hub write here and nowhere else. A server offers a ``FrameWriter`` in
``scope["extensions"][FRAME_WRITER]``; where it does not, ``consumers.py`` brings one on top of
plain ASGI ``send``.
"""

import logging
import sys
from typing import Protocol

from realtime.protocol import codec
from realtime.protocol.disconnects import SLOW, WRITE_ERROR, Disconnect

logger = logging.getLogger(__name__)

FRAME_WRITER = "realtime.frames"


class FrameWriter(Protocol):
    """A way to the socket that never waits.

    Attributes:
        closed_with: What the server closed with by itself, for a bound of its own.
    """

    closed_with: Disconnect | None = None

    def write_frame(self, frame: bytes, limit_bytes: int = sys.maxsize) -> bool:
        """Send finished WebSocket frames, or queue what the socket does not take at once.

        Frames written after the connection ended are dropped in silence.

        Args:
            frame: One frame, or several behind one another.
            limit_bytes: Most that may be queued; anything is accepted onto an empty queue.
        Returns:
            Whether there was room; if not, nothing was written.
        """

    def close(self, code: int, reason: str) -> None:
        """Send a close frame behind what is queued and end the connection.

        Later frames are dropped. A peer that neither reads nor answers is cut off after a few
        seconds.
        """


class Outbox:
    """The bounded outgoing side of one connection.

    A frame is always accepted onto an empty queue; one that would take the queue beyond
    ``limit_bytes`` closes the connection with 3008, so that a slow reader costs a bound and
    nobody waits for it.
    """

    __slots__ = ("_limit_bytes", "_writer", "closed_with")

    def __init__(self, writer: FrameWriter, *, limit_bytes: int) -> None:
        self._writer = writer
        self._limit_bytes = limit_bytes
        self.closed_with: Disconnect | None = None

    def write(self, frame: bytes) -> None:
        """Send a frame, or several joined, or close the connection if its reader is too slow."""
        if self.closed_with is not None:
            return
        try:
            if self._writer.write_frame(frame, self._limit_bytes):
                return
        except Exception:
            # One connection's server has failed; the walk over all the others goes on.
            logger.exception("a frame could not be written")
            self.close(WRITE_ERROR)
        else:
            self.close(SLOW)

    def close(self, disconnect: Disconnect) -> None:
        """Say why, then close; the first reason stands.

        The push comes before the close frame because centrifuge-js reads a terminal code from
        either, and not every server passes the close reason on.
        """
        if self.closed_with is not None:
            return
        self.closed_with = disconnect
        try:
            try:
                self._writer.write_frame(codec.disconnect_frame(disconnect))
            finally:
                self._writer.close(disconnect.code, disconnect.reason)
        except Exception:
            # Called in walks over all connections, as ``write`` is.
            logger.exception("a connection could not be closed")
