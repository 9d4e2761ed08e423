"""``python -m bench``: run every system through the same scenarios, print one report, store it.

``make bench`` calls it with what it needs installed. Exit code 0: every must is met, or the run
was quick; 1: one is not; 2: the arguments are wrong; 130: interrupted.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine, report
from bench.budgets import OURS
from bench.peers.all import load
from bench.peers.base import FAN_OUT, IDLE, SPORADIC, Peer
from bench.runner import DRIVER_CORE, SERVER_CORE, run_peer, say, settle_here, wanted
from bench.scenarios import SCENARIOS
from bench.sizes import FULL, QUICK


def main() -> int:
    peers = load()
    options = _options(peers)
    settle_here()
    sizes = QUICK if options.quick else FULL
    only = frozenset(options.scenario) if options.scenario else None
    results: dict[str, Any] = {
        "date": machine.now(),
        "commit": machine.commit(),
        "machine": machine.facts(server_core=SERVER_CORE, driver_core=DRIVER_CORE),
        "is_quick": options.quick,
        "known": list(SCENARIOS),
        "sizes": asdict(sizes),
        "peers": {},
    }
    if results["machine"]["load_at_start"] > 0.5:
        say("other programs are busy on this machine: absolute figures will be too high")
    for peer in peers:
        if options.peer and peer.name not in options.peer:
            continue
        say(peer.title)
        scenarios = wanted(peer, only)
        if options.quick and peer.name != OURS:
            scenarios = [name for name in scenarios if name in (IDLE, SPORADIC)][:1]
        results["peers"][peer.name] = run_peer(peer, scenarios, sizes, fresh=not options.quick)
    path = report.store(results, options.out)
    print(report.text(report.read(path)))
    say(f"stored in {path}")
    return 0 if report.is_met(results) else 1


def _options(peers: list[Peer]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "")[:79])
    parser.add_argument("--quick", action="store_true", help="few connections, under a minute")
    parser.add_argument(
        "--peer", action="append", choices=[peer.name for peer in peers], help="only this one"
    )
    parser.add_argument(
        "--scenario",
        action="append",
        choices=list(SCENARIOS),
        help=f"only this one; {FAN_OUT} comes with {IDLE}",
    )
    parser.add_argument("--out", type=Path, help="where the results go")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted; everything that was started has been ended")
        sys.exit(130)
