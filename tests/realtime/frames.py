"""Frames as the tests of the engine look at them."""

import json
import sys
from typing import Any

from realtime.outbox import FrameWriter
from realtime.protocol import websocket


def message_of(frame: bytes) -> Any:
    """Return the message in a frame that holds one."""
    (message,) = messages_of(frame)
    return message


def messages_of(frames: bytes) -> list[Any]:
    """Return the messages in frames that may be joined."""
    return [json.loads(payload) for _, payload in websocket.split(frames)]


class RecordingWriter(FrameWriter):
    """A socket that takes what it is told to take and keeps what was written."""

    def __init__(self, *, waiting_bytes: int = 0) -> None:
        self.frames: list[bytes] = []
        self.closes: list[tuple[int, str]] = []
        self.waiting_bytes = waiting_bytes

    def write_frame(self, frame: bytes, limit_bytes: int = sys.maxsize) -> bool:
        if self.waiting_bytes and self.waiting_bytes + len(frame) > limit_bytes:
            return False
        self.frames.append(frame)
        return True

    def close(self, code: int, reason: str) -> None:
        self.closes.append((code, reason))

    @property
    def messages(self) -> list[Any]:
        return messages_of(b"".join(self.frames))
