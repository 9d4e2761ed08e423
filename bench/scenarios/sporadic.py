"""Thousands of connections, each of which now and then calls what asks a slow HTTP service.

Twice the same traffic: once for its CPU, once with the probe that sees how long the loop is held
up. An answer has the payload of its call in it, so the driver knows how long each took, as it does
for publications.
"""

import json
import random
import time
import urllib.request
from dataclasses import dataclass, field

from bench.client.crowd import Crowd
from bench.client.reader import OPEN, Reader
from bench.client.stall import Window
from bench.measure import Stopwatch, milliseconds, threads
from bench.peers.base import IDLE, payload
from bench.scenarios.stage import Figures, ScenarioFailed, Stage, open_all, reasons

CHANNEL = "bench:all"  # as in "idle", whose memory this is held against
SEED = 5  # the same moments in every run
TURN_SECONDS = 0.002
LOOK_SECONDS = 2.0
MEMORY_SECONDS = 0.5
ANSWER_SECONDS = 15.0  # that the last answers may take


def run(stage: Stage) -> dict[str, Figures]:
    with stage.crowd() as crowd:
        if IDLE in stage.peer.scenarios:
            stage.warm_up(crowd)  # what its memory is held against has done so too
        open_all(crowd, [CHANNEL] * stage.sizes.connections)
        calls = Calls(stage, crowd)
        crowd.rest(stage.sizes.settle_seconds)
        quiet_bytes = stage.memory_bytes()
        told_before = stage.peer.told_of_its_loop(stage.running)
        calls.warm_up()
        crowd.rest(stage.sizes.pause_seconds)
        asked = _counted(stage)["requests"]
        figures = _shares(stage, calls) | _lag(stage, crowd, calls) | calls.times()
        calls.make(MEMORY_SECONDS)
        calling_bytes = stage.memory_bytes()  # looking takes so long that answers would be late
        calls.wait()
        slow = _counted(stage)
        figures |= {
            "quiet_bytes": quiet_bytes,
            "process_bytes": calling_bytes,
            "asked": slow["requests"] - asked,
            "asked_at_once": slow["most_at_once"],
            "asked_connections": slow["connections"],
        }
        figures |= calls.outcome()
        return {"sporadic": figures | _told(stage, told_before)}


@dataclass
class Calls:
    """Calls of the connections in turn, at random moments.

    Attributes:
        made: How many.
        threads: How many of them it had at each look.
        started: Ids of threads that were not there when calls began.
    """

    stage: Stage
    crowd: Crowd
    made: int = 0
    threads: list[int] = field(default_factory=list)
    started: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        sizes, blocks = self.stage.sizes, self.stage.peer.is_blocked_by_calls
        self.rate = sizes.blocked_rate if blocks else sizes.call_rate
        self.seconds = sizes.blocked_seconds if blocks else sizes.call_seconds
        self._chance = random.Random(SEED)
        self._readers = list(self.crowd.readers)
        self._chance.shuffle(self._readers)
        self._numbers = dict.fromkeys(self._readers, 1)
        self._known: set[int] = set()
        for reader in self._readers:
            reader.expected = 1  # what a connection gets from here on are answers

    def warm_up(self) -> None:
        """Have one call load and make what all need.

        Raises:
            ScenarioFailed: It gets no answer.
        """
        self._call(self._readers[-1])
        until = time.monotonic() + ANSWER_SECONDS
        while self.unanswered and not self.crowd.tally.failures and time.monotonic() < until:
            self.crowd.turn(0.1)
        if self.unanswered:
            raise ScenarioFailed(f"a call was not answered: {reasons(self.crowd) or 'silence'}")
        self.made = 0
        self.crowd.tally.reset()

    def make(self, seconds: float) -> Window:
        """Call for some time, and look at the server's threads meanwhile."""
        self._known = threads(self.stage.running.pids)
        self.threads.append(len(self._known))
        began_ns = time.monotonic_ns()
        until = time.monotonic() + seconds
        due, look_at = time.monotonic(), time.monotonic() + LOOK_SECONDS / 2
        while (now := time.monotonic()) < until:
            while due <= now:
                self._call(self._readers[self.made % len(self._readers)])
                due += self._chance.expovariate(self.rate)
            if now >= look_at:
                self.look()
                look_at += LOOK_SECONDS
            self.crowd.turn(TURN_SECONDS)
        return Window(began_ns, time.monotonic_ns())

    def look(self) -> None:
        """See which threads there are."""
        found = threads(self.stage.running.pids)
        self.threads.append(len(found))
        self.started |= found - self._known

    def wait(self) -> None:
        """Wait until every call is answered, or time is up."""
        self.crowd.wait_delivered(self.made, ANSWER_SECONDS)

    @property
    def unanswered(self) -> int:
        return self.made - self.crowd.tally.delivered

    def times(self) -> Figures:
        """Return how long answers took so far."""
        tally = self.crowd.tally
        return {
            "call_p50_ms": milliseconds(tally.latencies_ns, 0.5),
            "call_p99_ms": milliseconds(tally.latencies_ns, 0.99),
            "call_max_ms": milliseconds(tally.latencies_ns, 1.0),
        }

    def outcome(self) -> Figures:
        self.look()
        return {
            "connections": len(self._readers),
            "calls": self.made,
            "calls_per_s": self.rate,
            "unanswered": self.unanswered,
            "why_unanswered": reasons(self.crowd),
            "closed": self.crowd.tally.closed,
            "threads_before": self.threads[0],
            "threads_most": max(self.threads),
            "threads_after": self.threads[-1],
            "threads_started": len(self.started),
        }

    def _call(self, reader: Reader) -> None:
        """Send the next call of a connection; one that was closed gets no answer either."""
        self.made += 1
        if reader.state != OPEN:
            return
        number = self._numbers[reader]
        self._numbers[reader] = number + 1
        reader.sock.send(self.crowd.wire.call(number, payload(number, time.monotonic_ns())))


def _shares(stage: Stage, calls: Calls) -> Figures:
    """Call without the probe; return what part of a core everybody took."""
    watch, slow_watch = stage.stopwatch(), Stopwatch([stage.slow.pid])
    calls.make(calls.seconds)
    figures: Figures = {
        "cpu_share": watch.cpu_share,
        "cpu_us_per_call": watch.cpu_seconds / calls.made * 1e6,
        "driver_share": watch.own_share,
        "slow_cpu_share": slow_watch.cpu_share,
    }
    calls.wait()
    return figures


def _lag(stage: Stage, crowd: Crowd, calls: Calls) -> Figures:
    """Call while the probe pings on a connection of its own; return how long its pings took."""
    with stage.probe() as probe:
        crowd.rest(stage.sizes.pause_seconds)
        window = calls.make(calls.seconds)
        calls.wait()  # a ping that waits for a blocked loop counts too
        crowd.rest(stage.sizes.pause_seconds)
    seen = probe.within(window)
    return {
        "lag_p50_ms": milliseconds(seen, 0.5),
        "lag_p99_ms": milliseconds(seen, 0.99),
        "lag_max_ms": milliseconds(seen, 1.0),
    }


def _told(stage: Stage, before: tuple[float, str] | None) -> Figures:
    """Return what the system itself says of its loop since ``before``."""
    after = stage.peer.told_of_its_loop(stage.running)
    if before is None or after is None:
        return {}
    count = after[0] - before[0]
    return {"told_blocked": count, "log_of_blocked": after[1] if count else ""}


def _counted(stage: Stage) -> dict[str, int]:
    """Return what the slow service has counted."""
    with urllib.request.urlopen(f"{stage.slow.url}/counted", timeout=5) as answer:
        counted: dict[str, int] = json.load(answer)
        return counted
