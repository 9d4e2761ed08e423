"""How long a server's loop lets others wait: a process that sends WebSocket pings all the time.

    python -m bench.client.probe '{"wire": ..., "host": ..., "port": ..., "core": 1}'

It has a connection of its own in a quiet channel, prints "ready", pings until its stdin ends,
and then prints [[sent_ns, round_trip_ns], ...]. Each ping carries its number, and none waits for
the one before, so a loop that stands still for 10 ms is seen as a round trip of 9 ms or more. The
answer of RFC 6455 comes from the same loop that serves everybody else, in every server.
"""

import contextlib
import json
import os
import select
import socket
import sys
import time
from dataclasses import dataclass

from bench.client import frames
from bench.client.reader import CLOSED, OPEN, Reader
from bench.client.tally import Tally
from bench.peers.all import made
from bench.peers.base import Seat, Wire, client_frame

INTERVAL_NS = 1_000_000
CHANNEL = "bench:probe"
INDEX = 1_000_000  # a user of its own
OPEN_SECONDS = 10.0


@dataclass
class Probe:
    """Pings on the socket of an open reader."""

    reader: Reader
    wire: Wire

    def __post_init__(self) -> None:
        self.sent_at_ns: list[int] = []
        self.round_trips: list[tuple[int, int]] = []
        self._buffer = b""

    def run(self) -> None:
        """Ping until stdin ends."""
        sock = self.reader.sock
        next_ns = time.monotonic_ns()
        while True:
            wait = max(0.0, (next_ns - time.monotonic_ns()) / 1e9)
            ready, _, _ = select.select([sock, sys.stdin], [], [], wait)
            if sock in ready:
                self._read(sock)
            if sys.stdin in ready:
                return
            if time.monotonic_ns() >= next_ns:
                next_ns += INTERVAL_NS
                self._ping(sock)

    def _ping(self, sock: socket.socket) -> None:
        number = len(self.sent_at_ns)
        frame = client_frame(b"%d" % number, opcode=frames.PING)
        self.sent_at_ns.append(time.monotonic_ns())
        sock.send(frame)

    def _read(self, sock: socket.socket) -> None:
        data = sock.recv(65536)
        now_ns = time.monotonic_ns()
        if not data:
            raise SystemExit("the server closed the probe's connection")
        whole, self._buffer = frames.split(self._buffer + data)
        for opcode, payload in whole:
            if opcode == frames.PONG and payload.isdigit():
                sent_at_ns = self.sent_at_ns[int(payload)]
                self.round_trips.append((sent_at_ns, now_ns - sent_at_ns))
            elif payload == self.wire.ping:
                sock.send(client_frame(self.wire.pong))


def main() -> None:
    given = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {given["core"]})
    wire = made(given["wire"])
    seat = Seat(INDEX, CHANNEL, wire.token(INDEX))
    reader = Reader(seat, wire, Tally(), forget=lambda _sock: None)
    sock = reader.start((given["host"], given["port"]))
    until = time.monotonic() + OPEN_SECONDS
    while reader.state != OPEN:
        if reader.state == CLOSED or time.monotonic() > until:
            raise SystemExit("the probe could not subscribe")
        select.select([sock], [], [], 1)
        reader.on_readable()
    _hurry()
    probe = Probe(reader, wire)
    print("ready", flush=True)
    probe.run()
    json.dump(probe.round_trips, sys.stdout)


def _hurry() -> None:
    """Go before the driver and Redis on this core, so that waiting for them is not measured."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))


if __name__ == "__main__":
    main()
