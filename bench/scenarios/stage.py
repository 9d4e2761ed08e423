"""What every scenario stands on, and the broadcast that several of them make."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.client.crowd import Crowd, Storm
from bench.client.stall import StallProbe, Window
from bench.measure import Stopwatch, milliseconds, percentile, pss_bytes
from bench.peers.all import made
from bench.peers.base import Peer, Running, Seat, SlowService
from bench.sizes import Sizes

Figures = dict[str, float | int | str]

BROADCAST_SECONDS = 10.0  # within which one has to reach everybody
PAUSE_SECONDS = 0.02  # between two broadcasts, at least
INTERVAL_SECONDS = 0.05  # from one to the next, at least
WARM_UP = 3


@dataclass(frozen=True)
class Stage:
    """A peer that runs, and the core of the driver."""

    peer: Peer
    running: Running
    sizes: Sizes
    core: int

    @contextmanager
    def crowd(self) -> Iterator[Crowd]:
        """Have a driver with connections that publish."""
        with Crowd(self.running, made(self.peer.wire)) as crowd:
            crowd.open_controls()
            yield crowd

    @property
    def slow(self) -> SlowService:
        assert self.running.slow is not None, "every peer of SPORADIC starts one"
        return self.running.slow

    def memory_bytes(self) -> int:
        return pss_bytes(self.running.pids)

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(self.running.pids)

    def probe(self) -> StallProbe:
        return StallProbe(self.running, self.peer.wire, core=self.core)

    def warm_up(self, crowd: Crowd) -> None:
        """Have one connection do everything once, so that nothing is loaded or made later."""
        (reader,) = seats(crowd, ["bench:warm"])
        crowd.open(crowd.prepare([reader]))
        for _ in range(WARM_UP):
            crowd.publish("bench:warm")
            crowd.wait_delivered(crowd.tally.delivered + 1, 2.0)
        crowd.cut()
        crowd.tally.reset()
        crowd.rest(self.sizes.pause_seconds)


def seats(crowd: Crowd, channels: list[str], *, first_index: int = 0) -> list[Seat]:
    """Return one seat for each entry of ``channels``, with its token."""
    indices = range(first_index, first_index + len(channels))
    tokens = crowd.tokens(indices)
    return [Seat(*each) for each in zip(indices, channels, tokens, strict=True)]


def open_all(crowd: Crowd, channels: list[str]) -> Storm:
    """Open a connection for each entry of ``channels``; all of them or none will do.

    Raises:
        ScenarioFailed: Some did not open.
    """
    storm = crowd.open(crowd.prepare(seats(crowd, channels)))
    if storm.failed:
        raise ScenarioFailed(f"{storm.failed} connections did not open: {reasons(crowd)}")
    return storm


class ScenarioFailed(Exception):
    """What was to be measured did not take place; the text says why."""


def reasons(crowd: Crowd) -> str:
    """Return why connections failed, the commonest first."""
    failures = crowd.tally.failures.most_common(3)
    return "; ".join(f"{count} x {why}" for why, count in failures)


@dataclass
class Broadcasts:
    """One publication after the other to everybody in a channel.

    Each begins when the one before has reached everybody, and not before a paced moment.
    """

    channel: str
    receivers: int
    last_ns: array[int] = field(default_factory=lambda: array("q"))
    windows: list[Window] = field(default_factory=list)
    busy_seconds: float = 0.0
    own_seconds: float = 0.0
    late: int = 0

    def run(self, crowd: Crowd, *, most: int, least: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        for number in range(most):
            if number >= least and time.monotonic() > until:
                return
            self._one(crowd)

    def _one(self, crowd: Crowd) -> None:
        tally = crowd.tally
        target = tally.delivered + self.receivers
        own = time.process_time()
        began_ns = crowd.publish(self.channel)
        if crowd.wait_delivered(target, BROADCAST_SECONDS):
            self.last_ns.append(tally.last_at_ns - began_ns)
        else:
            self.late += 1
        self.own_seconds += time.process_time() - own
        ended_ns = time.monotonic_ns()
        self.busy_seconds += (ended_ns - began_ns) / 1e9
        self.windows.append(Window(began_ns, ended_ns))
        pause_ns = ended_ns + int(PAUSE_SECONDS * 1e9)
        crowd.rest_until_ns(max(pause_ns, began_ns + int(INTERVAL_SECONDS * 1e9)))

    def figures(self, crowd: Crowd, *, cpu_seconds: float) -> Figures:
        """Return what was seen; ``cpu_seconds`` is what the measured processes took."""
        each = crowd.tally.latencies_ns
        return {
            "broadcasts": len(self.windows),
            "cpu_us_per_delivery": cpu_seconds / max(1, crowd.tally.delivered) * 1e6,
            "deliveries_per_s": crowd.tally.delivered / self.busy_seconds,
            "last_p50_ms": milliseconds(self.last_ns, 0.5),
            "last_p99_ms": milliseconds(self.last_ns, 0.99),
            "each_p50_ms": milliseconds(each, 0.5),
            "each_p99_ms": milliseconds(each, 0.99),
            "driver_share": self.own_seconds / self.busy_seconds,
            "late": self.late,
            **losses(crowd),
        }


def stalls(stage: Stage, crowd: Crowd, channel: str, receivers: int) -> Figures:
    """Broadcast while a probe pings on another connection; return how long it had to wait."""
    broadcasts = Broadcasts(channel, receivers)
    with stage.probe() as probe:
        crowd.rest(stage.sizes.pause_seconds)
        began_ns = time.monotonic_ns()
        crowd.rest(stage.sizes.pause_seconds)
        quiet = Window(began_ns, time.monotonic_ns())
        broadcasts.run(
            crowd,
            most=stage.sizes.stall_broadcasts,
            least=stage.sizes.broadcasts_least,
            seconds=stage.sizes.broadcast_seconds,
        )
        crowd.rest(0.3)
    largest = probe.largest_ms(broadcasts.windows)
    return {
        "stall_p50_ms": percentile(largest, 0.5),
        "stall_p95_ms": percentile(largest, 0.95),
        "stall_max_ms": max(largest),
        "stall_quiet_ms": probe.largest_ms([quiet])[0],
    }


def losses(crowd: Crowd) -> Figures:
    """Return lost and doubled publications, what never came among the lost."""
    missing = crowd.settle()
    return {
        "lost": crowd.tally.lost + missing,
        "doubled": crowd.tally.doubled,
        "closed": crowd.tally.closed,
    }
