"""Everybody is cut, misses some publications, comes back at once and recovers them."""

import time

from bench.client.crowd import Crowd
from bench.measure import milliseconds
from bench.scenarios.stage import Figures, Stage, open_all, reasons

CHANNEL = "bench:recover"
IN_FLIGHT = 200
LIMIT_SECONDS = 60.0


def run(stage: Stage) -> dict[str, Figures]:
    with stage.crowd() as crowd:
        stage.warm_up(crowd)
        open_all(crowd, [CHANNEL] * stage.sizes.connections)
        crowd.publish(CHANNEL)
        crowd.wait_delivered(stage.sizes.connections, 5.0)
        return {"recover": come_back(stage, crowd, CHANNEL)}


def come_back(stage: Stage, crowd: Crowd, channel: str) -> Figures:
    """Cut everybody, publish what they miss, let them return; return how that went.

    The time ends when the last one has everything that it missed.
    """
    missed = stage.sizes.missed_publications
    former = crowd.cut()
    crowd.rest(stage.sizes.pause_seconds)
    for _ in range(missed):
        crowd.publish(channel)
        crowd.rest(0.02)
    crowd.rest(stage.sizes.pause_seconds)
    readers = crowd.prepare([reader.seat for reader in former], former)
    tally = crowd.tally
    tally.reset()
    tally.failures.clear()
    tally.opening_times_ns = type(tally.opening_times_ns)("q")
    watch = stage.stopwatch()
    began = time.monotonic()
    storm = crowd.open(readers, in_flight=IN_FLIGHT, limit_seconds=LIMIT_SECONDS)
    missing = crowd.settle(max(0.0, LIMIT_SECONDS - storm.seconds))
    seconds, cpu_seconds = time.monotonic() - began, watch.cpu_seconds
    return {
        "connections": len(readers),
        "missed_by_each": missed,
        "seconds": seconds,
        "cpu_ms_per_return": cpu_seconds / len(readers) * 1e3,
        "open_p50_ms": milliseconds(tally.opening_times_ns, 0.5),
        "open_p99_ms": milliseconds(tally.opening_times_ns, 0.99),
        "failed": storm.failed,
        "why_failed": reasons(crowd) if storm.failed else "",
        "recovered": tally.delivered,
        "lost": tally.lost + missing,
        "doubled": tally.doubled,
        "driver_share": watch.own_share,
    }
