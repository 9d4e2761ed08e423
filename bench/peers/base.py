"""What a benchmarked system is to the benchmark: a Peer that starts it, a Wire that speaks to it.

A Peer lives in the process of ``make bench``: it starts the system pinned to one core and says
which processes are measured. A Wire lives in the driver's process, which makes it by its dotted
name: pure functions from places and payloads to bytes, called outside the hot path wherever
possible. Every peer is driven by the same driver through these two.
"""

from __future__ import annotations

import secrets
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

PAYLOAD_BYTES = 100

# Names of scenarios. A peer lists those that it can do; its row says "-" in the others.
IDLE = "idle"  # memory of idle connections, CPU of them, and the connect storm that made them
FAN_OUT = "fan_out"  # everybody in one channel
CHANNELS = "channels"  # many channels with few subscribers each
MIXED = "mixed"  # publications to many channels while HTTP requests come and connections go
SLOW = "slow"  # some never read
RECOVER = "recover"  # everybody is cut, misses publications, comes back and recovers them
PUBLISH = "publish"  # HTTP publish: single, batch, broadcast; and an empty view of the same server
CROWD = "crowd"  # 10,000 connections
SPORADIC = "sporadic"  # each connection now and then calls something that asks a slow HTTP service

EVERYTHING = frozenset(
    {IDLE, FAN_OUT, CHANNELS, MIXED, SLOW, RECOVER, PUBLISH, CROWD, SPORADIC},
)


@dataclass(frozen=True)
class Seat:
    """One connection's place: who it is and the one channel that it subscribes to."""

    index: int
    channel: str
    token: str = ""


@dataclass(frozen=True)
class Resume:
    """What a connection that comes back knows of its former life.

    ``ready`` is the frame that had Wire.ready_marker in it (empty where there is no marker);
    ``received`` counts the publications after it; ``last`` is the payload of the frame of the last
    one, kept only where Wire.keeps_last_frame.
    """

    ready: bytes
    received: int
    last: bytes = b""


def payload(sequence: int, sent_at_ns: int, padding: bytes = b"") -> bytes:
    """Return the 100 bytes of JSON that are published, and ``padding`` more.

    ``sent_at_ns`` is CLOCK_MONOTONIC's.
    """
    head = b'{"n":"%08d","t":"%019d","pad":"' % (sequence, sent_at_ns)
    return head + b"x" * (PAYLOAD_BYTES - len(head) - 2) + padding + b'"}'


# What the driver looks for in a frame, so the payload must travel as JSON, not as a quoted string.
SEQUENCE_MARKER = b'"n":"'
SEQUENCE_DIGITS = 8
SENT_AT_MARKER = b'"t":"'
SENT_AT_DIGITS = 19


def client_frame(data: bytes, *, opcode: int = 1) -> bytes:
    """Return ``data`` as one masked frame of a client (RFC 6455)."""
    length = len(data)
    if length < 126:
        head = bytes((0x80 | opcode, 0x80 | length))
    elif length < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + length.to_bytes(8, "big")
    mask = secrets.token_bytes(4)
    key = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
    return head + mask + (int.from_bytes(data, "big") ^ key).to_bytes(length, "big")


def upgrade_request(path: str, *, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the request that opens a WebSocket at ``path``."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {secrets.token_hex(8)[:11]}AAAAAAAAAAA==",
        "Sec-WebSocket-Version: 13",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def http_request(
    method: str, path: str, body: bytes = b"", *, headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a request whose connection stays open."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class CannotDo(Exception):
    """A system has nothing of this kind; its cells stay empty."""


class Wire(ABC):
    """How a client of one system speaks; the defaults suit a server whose 101 means "joined".

    Instances are made without arguments in the driver's process.
    """

    # Bytes that are in the frame which says that the connection is subscribed; None: the 101 says
    # it. ``error_marker`` in a frame before that says that it never will be.
    ready_marker: bytes | None = None
    error_marker: bytes | None = None
    # A ping of the application's own: a frame with exactly this payload is answered with
    # client_frame(pong). Pings of RFC 6455 are answered by the driver anyway.
    ping: bytes | None = None
    pong: bytes = b""
    keeps_last_frame = False
    # Publishing: "http": publish() gives HTTP requests, one keep-alive connection to each port
    # carries them; "websocket": publish() gives masked frames, and the connection that carries
    # them is opened with control_handshake(). With several ports, every port gets it.
    control: str = "websocket"

    def token(self, index: int) -> str:
        """Return the token of a connection; made before the clock starts."""
        return ""

    @abstractmethod
    def handshake(self, seat: Seat, resume: Resume | None = None) -> bytes:
        """Return the upgrade request."""

    def opening(self, seat: Seat, resume: Resume | None = None) -> bytes:
        """Return the frames that are sent after the 101, b"" where there are none."""
        return b""

    def control_handshake(self) -> bytes:
        """Return the upgrade request of the connection that publishes."""
        raise CannotDo("publishing over a WebSocket")

    def call(self, number: int, data: bytes) -> bytes:
        """Return the frame of one call, whose answer has ``data`` in it (scenario SPORADIC only).

        ``number`` is that of the connection's calls, from 1.
        """
        raise CannotDo("calls")

    @abstractmethod
    def publish(self, channel: str, data: bytes) -> bytes:
        """Return what publishes ``data`` (the JSON of payload()) to ``channel``."""

    def publish_batch(self, items: Sequence[tuple[str, bytes]]) -> bytes:
        """Return one HTTP request with many publications (scenario PUBLISH only)."""
        raise CannotDo("batches")

    def broadcast(self, channels: Sequence[str], data: bytes) -> bytes:
        """Return one HTTP request that publishes to many channels (scenario PUBLISH only)."""
        raise CannotDo("broadcasts")

    def empty_view(self) -> bytes:
        """Return the request of a view that does nothing (scenarios MIXED and PUBLISH)."""
        raise CannotDo("views")


@dataclass(frozen=True)
class SlowService:
    """The HTTP service of bench/peers/apps/slow_upstream.py, which calls go to."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Running:
    """A system that has been started and answers.

    ``pids`` are measured; ``helper_pids`` (Redis and so on) are reported apart. ``slow`` is there
    where the system can do SPORADIC.
    """

    pids: list[int]
    ports: list[int]  # the connection of Seat.index goes to ports[index % len(ports)]
    host: str = "127.0.0.1"
    helper_pids: list[int] = field(default_factory=list)
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)  # newest last
    log: Path | None = None  # of the measured process
    slow: SlowService | None = None

    def stop(self) -> None:
        """End the children, newest first: politely, then by force after some seconds."""
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
        for child in reversed(self.children):
            try:
                child.wait(8)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@dataclass(frozen=True)
class Setting:
    """One production setting that the peer's own documentation asks for, and where it says so."""

    name: str
    value: str
    source: str


class Peer(ABC):
    """One row of the table. Subclasses set the attributes and start()."""

    name: str  # the row's label and the key in results
    title: str  # what it is, with its version where that is known without starting it
    settings: Sequence[Setting] = ()
    note: str = ""  # how its equivalent of "authenticated, subscribed, recoverable" differs
    # Figures measured when this project was designed, by "scenario.figure"; the report tells which
    # lie more than 30 % off.
    noted: Mapping[str, float] = MappingProxyType({})
    scenarios: frozenset[str] = frozenset({IDLE, FAN_OUT})
    wire: str  # dotted name of the Wire: "bench.peers.heliograph:HeliographWire"
    # Calls of SPORADIC hold up everything else, so that it gets few of them.
    is_blocked_by_calls = False

    def unavailable(self) -> str | None:
        """Return why this machine cannot run it, or None; may build what it needs."""
        return None

    def versions(self) -> dict[str, str]:
        """Return the versions that belong into the results."""
        return {}

    def told_of_its_loop(self, running: Running) -> tuple[float, str] | None:
        """Return how often its loop was blocked, as the system itself says, and a line of its log.

        None: it says nothing of that kind. Scenario SPORADIC only.
        """
        return None

    @abstractmethod
    def start(self, *, core: int, helper_core: int, work_dir: Path) -> Running:
        """Start it pinned to ``core``, its helpers to ``helper_core``; return once it answers.

        ``work_dir`` is an empty directory of its own. Raises StartFailed.
        """


class StartFailed(Exception):
    """A system did not come up; the text says why, with the end of its log."""
