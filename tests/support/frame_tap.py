"""Read the WebSocket frames that pass through a proxy, on behalf of no client.

A witness for clients that cannot be asked what they were sent: the official SDKs drop silently what
they do not expect. Pure; hand ``see`` to ``FaultProxy`` as its tap.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.proxy import Direction

_TEXT = 1


@dataclass
class Stream:
    """One direction of one connection: the HTTP head, then frames."""

    buffer: bytearray = field(default_factory=bytearray)
    has_head: bool = False
    fragments: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[str]:
        """Return the texts that these bytes complete."""
        self.buffer += data
        if not self.has_head:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return []
            del self.buffer[: end + 4]
            self.has_head = True
        texts = []
        while (frame := self._frame()) is not None:
            is_final, opcode, payload = frame
            if opcode in (0, _TEXT):
                self.fragments += payload
                if is_final:
                    texts.append(self.fragments.decode())
                    self.fragments.clear()
        return texts

    def _frame(self) -> tuple[bool, int, bytes] | None:
        """Take one whole frame off the buffer (RFC 6455, section 5.2)."""
        data = self.buffer
        if len(data) < 2:
            return None
        length, start = data[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start])
        is_masked = bool(data[1] & 0x80)
        end = start + 4 * is_masked + length
        if len(data) < end:
            return None
        payload = bytes(data[start + 4 * is_masked : end])
        if is_masked:
            mask = bytes(data[start : start + 4])
            payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        final_and_opcode = data[0]
        del data[:end]
        return bool(final_and_opcode & 0x80), final_and_opcode & 0x0F, payload


@dataclass
class Session:
    """What was asked and delivered in one channel on one connection."""

    link: int
    asked_offset: int | None
    epoch: str = ""
    is_answered: bool = False
    recovered: bool = False
    recovered_offsets: list[int] = field(default_factory=list)
    live_offsets: list[int] = field(default_factory=list)

    @property
    def offsets(self) -> list[int]:
        return self.recovered_offsets + self.live_offsets


class FrameTap:
    """Collects the sessions of every connection of one proxy, for one channel."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.sessions: list[Session] = []
        self._streams: dict[tuple[int, Direction], Stream] = {}
        self._asked: dict[tuple[int, int], Session] = {}
        self._live: dict[int, Session] = {}

    def see(self, link: int, direction: Direction, data: bytes) -> None:
        """Take bytes as the proxy passes them on."""
        stream = self._streams.setdefault((link, direction), Stream())
        for text in stream.feed(data):
            for line in text.split("\n"):
                if direction == "up":
                    self._sent(link, json.loads(line))
                else:
                    self._received(link, json.loads(line))

    def _sent(self, link: int, command: dict[str, Any]) -> None:
        asked = command.get("subscribe")
        if asked is not None and asked["channel"] == self.channel:
            offset = asked.get("offset", 0) if asked.get("recover") else None
            session = Session(link, offset, asked.get("epoch", ""))
            self.sessions.append(session)
            self._asked[link, command["id"]] = session

    def _received(self, link: int, message: dict[str, Any]) -> None:
        session = self._asked.get((link, message.get("id", 0)))
        if session is not None and "subscribe" in message:
            result = message["subscribe"]
            session.is_answered = True
            session.epoch = result.get("epoch", "")
            session.recovered = result.get("recovered", False)
            session.recovered_offsets = [p["offset"] for p in result.get("publications", [])]
            self._live[link] = session
        push = message.get("push") or {}
        if push.get("channel") == self.channel and "pub" in push:
            self._live[link].live_offsets.append(push["pub"]["offset"])
