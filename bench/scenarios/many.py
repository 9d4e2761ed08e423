"""10,000 connections: memory, idle CPU, broadcasts to all, and the return of all at once."""

from bench.peers.base import RECOVER
from bench.scenarios.recover import come_back
from bench.scenarios.stage import Broadcasts, Figures, Stage, open_all, stalls

CHANNEL = "bench:crowd"


def run(stage: Stage) -> dict[str, Figures]:
    sizes = stage.sizes
    count = sizes.crowd_connections
    with stage.crowd() as crowd:
        stage.warm_up(crowd)
        base = stage.memory_bytes()
        storm = open_all(crowd, [CHANNEL] * count)
        crowd.rest(sizes.settle_seconds)
        settled = stage.memory_bytes()
        watch = stage.stopwatch()
        crowd.rest(sizes.crowd_idle_seconds)
        idle_share = watch.cpu_share
        crowd.tally.reset()
        broadcasts = Broadcasts(CHANNEL, count)
        watch = stage.stopwatch()
        broadcasts.run(crowd, most=30, least=5, seconds=sizes.broadcast_seconds)
        figures: Figures = {
            "connections": count,
            "connects_per_s": count / storm.seconds,
            "process_bytes": settled,
            "bytes_per_connection": (settled - base) / count,
            "idle_cpu_share": idle_share,
            **broadcasts.figures(crowd, cpu_seconds=watch.cpu_seconds),
            **stalls(stage, crowd, CHANNEL, count),
        }
        if RECOVER in stage.peer.scenarios:
            returned = come_back(stage, crowd, CHANNEL)
            figures |= {f"return_{name}": each for name, each in returned.items()}
        return {"crowd": figures}
