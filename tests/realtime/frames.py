"""Frames as the tests of the engine look at them."""

import json
from typing import Any

from realtime.outbox import FrameWriter
from realtime.protocol import websocket


def message_of(frame: bytes) -> Any:
    """Return the message in a frame that holds one."""
    return json.loads(websocket.payload_of(frame))


class RecordingWriter(FrameWriter):
    """A socket that takes what it is told to take and keeps what was written."""

    def __init__(self, *, waiting_bytes: int = 0) -> None:
        self.frames: list[bytes] = []
        self.closes: list[tuple[int, str]] = []
        self.waiting_bytes = waiting_bytes

    def write_frame(self, frame: bytes) -> None:
        self.frames.append(frame)

    def close(self, code: int, reason: str) -> None:
        self.closes.append((code, reason))

    def queued_bytes(self) -> int:
        return self.waiting_bytes

    @property
    def messages(self) -> list[Any]:
        return [message_of(frame) for frame in self.frames]
