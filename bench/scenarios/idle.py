"""Idle memory, the connect storm that leads to it, idle CPU; then everybody in one channel."""

from bench.client.crowd import Crowd
from bench.measure import milliseconds, pss_bytes
from bench.scenarios.stage import Broadcasts, Figures, Stage, open_all, stalls

CHANNEL = "bench:all"


def run(stage: Stage) -> dict[str, Figures]:
    """Return the figures of "idle" and of "fan_out": the same connections serve both."""
    with stage.crowd() as crowd:
        return {"idle": idle(stage, crowd), "fan_out": fan_out(stage, crowd)}


def idle(stage: Stage, crowd: Crowd) -> Figures:
    """Open all connections; measure what that takes and what they cost when nothing happens."""
    sizes = stage.sizes
    stage.warm_up(crowd)
    crowd.tally.opening_times_ns = type(crowd.tally.opening_times_ns)("q")
    base = stage.memory_bytes()
    watch = stage.stopwatch()
    storm = open_all(crowd, [CHANNEL] * sizes.connections)
    cpu_seconds, own_share = watch.cpu_seconds, watch.own_share
    crowd.rest(sizes.settle_seconds)
    settled = stage.memory_bytes()
    watch = stage.stopwatch()
    crowd.rest(sizes.idle_seconds)
    return {
        "connections": sizes.connections,
        "base_bytes": base,
        "process_bytes": settled,
        "bytes_per_connection": (settled - base) / sizes.connections,
        "helper_bytes": pss_bytes(stage.running.helper_pids),
        "cpu_ms_per_connect": cpu_seconds / sizes.connections * 1e3,
        "connects_per_s": sizes.connections / storm.seconds,
        "open_p50_ms": milliseconds(crowd.tally.opening_times_ns, 0.5),
        "open_p99_ms": milliseconds(crowd.tally.opening_times_ns, 0.99),
        "driver_share": own_share,
        "idle_cpu_share": watch.cpu_share,
    }


def fan_out(stage: Stage, crowd: Crowd) -> Figures:
    """Broadcast to everybody, without the probe for CPU and latency, with it for stalls."""
    sizes = stage.sizes
    Broadcasts(CHANNEL, sizes.connections).run(crowd, most=3, least=1, seconds=1.0)
    crowd.tally.reset()
    broadcasts = Broadcasts(CHANNEL, sizes.connections)
    watch = stage.stopwatch()
    broadcasts.run(
        crowd,
        most=sizes.broadcasts,
        least=sizes.broadcasts_least,
        seconds=sizes.broadcast_seconds,
    )
    figures = broadcasts.figures(crowd, cpu_seconds=watch.cpu_seconds)
    return figures | stalls(stage, crowd, CHANNEL, sizes.connections)
