"""Many channels with few subscribers each, published to one after the other at a steady pace."""

from bench.measure import milliseconds
from bench.scenarios.pace import Pace
from bench.scenarios.stage import Figures, Stage, losses, open_all

AHEAD = 50  # publications on their way: a tenth of a second's


def run(stage: Stage) -> dict[str, Figures]:
    sizes = stage.sizes
    channels = [f"bench:channel{number}" for number in range(sizes.channels)]
    with stage.crowd() as crowd:
        stage.warm_up(crowd)
        base = stage.memory_bytes()
        everybody = [channels[index % len(channels)] for index in range(sizes.connections)]
        open_all(crowd, everybody)
        crowd.rest(sizes.settle_seconds)
        settled = stage.memory_bytes()
        crowd.tally.reset()
        watch = stage.stopwatch()
        pace = Pace(
            channels, sizes.connections // len(channels), rate=sizes.channel_rate, ahead=AHEAD
        )
        published, seconds = pace.run(crowd, sizes.channel_publications)
        missing = losses(crowd)
        cpu_seconds, cpu_share, own_share = watch.cpu_seconds, watch.cpu_share, watch.own_share
        return {
            "channels": {
                "channels": len(channels),
                "bytes_per_connection": (settled - base) / sizes.connections,
                "publications_per_s": published / seconds,
                "cpu_us_per_publication": cpu_seconds / published * 1e6,
                "cpu_us_per_delivery": cpu_seconds / max(1, crowd.tally.delivered) * 1e6,
                "cpu_share": cpu_share,
                "each_p50_ms": milliseconds(crowd.tally.latencies_ns, 0.5),
                "each_p99_ms": milliseconds(crowd.tally.latencies_ns, 0.99),
                "driver_share": own_share,
                **missing,
            }
        }
