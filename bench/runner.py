"""Run scenarios against peers, each in its time, and collect what they saw."""

import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from bench.peers import children
from bench.peers.base import Peer, Running, StartFailed
from bench.scenarios import SCENARIOS
from bench.scenarios.stage import Stage
from bench.sizes import Sizes

SERVER_CORE, DRIVER_CORE = 0, 1
NOTICE_SECONDS = 0.5


class DeadlinePassed(Exception):
    """A scenario took longer than it may."""


def run_peer(peer: Peer, scenarios: Iterable[str], sizes: Sizes, *, fresh: bool) -> dict[str, Any]:
    """Run scenarios against one peer; return its part of the results.

    Each gets a server that was just started if ``fresh``, else one serves them all.
    """
    row: dict[str, Any] = {
        "title": peer.title,
        "settings": [asdict(setting) for setting in peer.settings],
        "note": peer.note,
        "noted": dict(peer.noted),
        "scenarios": {},
        "failed": {},
        "seconds": {},
    }
    if why := peer.unavailable():
        return row | {"unavailable": _without_paths(why)}
    row["versions"] = peer.versions()
    began = time.monotonic()
    groups = [[name] for name in scenarios] if fresh else [list(scenarios)]
    for names in groups:
        try:
            with started(peer) as running:
                for name in names:
                    _run_scenario(peer, running, name, sizes, row)
        except StartFailed as error:
            row["failed"] |= dict.fromkeys(names, _without_paths(f"did not start: {error}"))
    row["seconds"]["in all"] = time.monotonic() - began
    return row


def _run_scenario(
    peer: Peer, running: Running, name: str, sizes: Sizes, row: dict[str, Any]
) -> None:
    say(f"  {peer.name}: {name}")
    stage = Stage(peer, running, sizes, DRIVER_CORE)
    began = time.monotonic()
    try:
        with deadline(sizes.deadline_seconds):
            row["scenarios"] |= SCENARIOS[name](stage)
    except Exception as error:  # whatever goes wrong is this cell's result, not the end of the run
        row["failed"][name] = _without_paths(f"{type(error).__name__}: {error}")
        say(f"  {peer.name}: {name} failed: {row['failed'][name]}")
    row["seconds"][name] = time.monotonic() - began


def _without_paths(text: str) -> str:
    """Return a failure's text without where this checkout and its temporary files are."""
    return text.replace(str(children.ROOT), ".").replace(tempfile.gettempdir(), "tmp")


@contextmanager
def started(peer: Peer) -> Iterator[Running]:
    """Have a peer running; end its processes however the block ends."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        running = peer.start(core=SERVER_CORE, helper_core=DRIVER_CORE, work_dir=Path(folder))
        try:
            yield running
            # Who has not noticed yet that everybody is gone would take leave of each for seconds.
            time.sleep(NOTICE_SECONDS)
        finally:
            running.stop()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise DeadlinePassed in the block once so much time is over."""

    def passed(_number: int, _frame: FrameType | None) -> None:
        raise DeadlinePassed(f"not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, passed)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wanted(peer: Peer, only: frozenset[str] | None) -> list[str]:
    """Return the scenarios of a peer in the order in which they run."""
    return [name for name in SCENARIOS if name in peer.scenarios and (only is None or name in only)]


def settle_here() -> None:
    """Pin this process to the driver's core, and let it have as many sockets as it may."""
    cores = os.cpu_count() or 1
    if cores <= DRIVER_CORE:
        sys.exit("make bench needs two cores: one for the server, one for what drives it")
    os.sched_setaffinity(0, {DRIVER_CORE})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGHUP, interrupted)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
