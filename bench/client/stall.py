"""The benchmark's side of the probe: starts it, and reads what it saw."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from bench.measure import milliseconds
from bench.peers.base import Running
from bench.peers.children import ROOT, base_environment


@dataclass(frozen=True)
class Window:
    """A span of CLOCK_MONOTONIC in which something happened."""

    start_ns: int
    end_ns: int


class StallProbe:
    """Pings one server while the block runs; ``round_trips`` are there afterwards."""

    def __init__(self, running: Running, wire_name: str, *, core: int) -> None:
        self.round_trips: list[tuple[int, int]] = []
        given = {"wire": wire_name, "host": running.host, "port": running.ports[0], "core": core}
        self._command = [sys.executable, "-m", "bench.client.probe", json.dumps(given)]

    def __enter__(self) -> "StallProbe":
        self._child = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=base_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._child.stdout is not None
        if self._child.stdout.readline() != "ready\n":
            self._child.kill()
            self._child.wait()
            raise ConnectionError("the probe did not come up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._child.kill()
        try:
            output, _ = self._child.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise
        if kind is None:
            self.round_trips = [(sent, took) for sent, took in json.loads(output)]

    def largest_ms(self, windows: Sequence[Window]) -> list[float]:
        """Return for each window the longest round trip of the pings sent in it."""
        return [milliseconds(self.within(window), 1.0) for window in windows]

    def within(self, window: Window) -> list[int]:
        """Return the round trips, in nanoseconds, of the pings sent in a window."""
        return [took for sent, took in self.round_trips if window.start_ns <= sent <= window.end_ns]
