"""A usual day: publications to many channels, HTTP requests now and then, connections that come
and go.
"""

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.client.crowd import Crowd
from bench.client.reader import Reader
from bench.measure import milliseconds
from bench.scenarios.stage import Figures, Stage, losses, open_all, seats

PUBLICATIONS_PER_S = 200
REQUESTS_PER_S = 50
COMINGS_PER_S = 20
CHANNELS = 300


@dataclass
class Rhythm:
    """Something that is done so many times a second."""

    act: Callable[[], None]
    rate: int
    done: int = 0

    def catch_up(self, elapsed_seconds: float) -> None:
        while self.done < elapsed_seconds * self.rate:
            self.act()
            self.done += 1


@dataclass
class Guests:
    """Connections of which one comes and one goes at a time."""

    crowd: Crowd
    waiting: list[Reader]
    here: list[Reader] = field(default_factory=list)

    def change(self) -> None:
        if self.waiting:
            guest = self.waiting.pop()
            self.crowd.start(guest)
            self.here.append(guest)
        if len(self.here) > COMINGS_PER_S:  # stays about a second
            gone = self.here.pop(0)
            self.crowd.readers.remove(gone)
            gone.close()


def run(stage: Stage) -> dict[str, Figures]:
    sizes = stage.sizes
    channels = [f"bench:mixed{number}" for number in range(CHANNELS)]
    http_ns = array("q")
    with stage.crowd() as crowd:
        stage.warm_up(crowd)
        open_all(crowd, [channels[index % CHANNELS] for index in range(sizes.connections)])
        line = crowd.line()
        line.on_answer = lambda _body, took_ns: http_ns.append(took_ns)
        request = crowd.wire.empty_view()
        guests = _guests(crowd, channels, count=int(sizes.mixed_seconds * COMINGS_PER_S))
        numbers = iter(range(1_000_000))
        rhythms = [
            Rhythm(lambda: _publish(crowd, channels, next(numbers)), PUBLICATIONS_PER_S),
            Rhythm(lambda: line.send(request), REQUESTS_PER_S),
            Rhythm(guests.change, COMINGS_PER_S),
        ]
        crowd.tally.reset()
        watch = stage.stopwatch()
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < sizes.mixed_seconds:
            for rhythm in rhythms:
                rhythm.catch_up(elapsed)
            crowd.turn(0.002)
        cpu_share, own_share = watch.cpu_share, watch.own_share
        figures: Figures = {
            "each_p50_ms": milliseconds(crowd.tally.latencies_ns, 0.5),
            "each_p99_ms": milliseconds(crowd.tally.latencies_ns, 0.99),
            "http_p50_ms": milliseconds(http_ns, 0.5),
            "http_p99_ms": milliseconds(http_ns, 0.99),
            "http_answers": len(http_ns),
            "came": rhythms[2].done,
            "failed": crowd.tally.failed,
            "cpu_share": cpu_share,
            "driver_share": own_share,
            **losses(crowd),
        }
        line.close()
        return {"mixed": figures}


def _publish(crowd: Crowd, channels: list[str], number: int) -> None:
    crowd.publish(channels[number % len(channels)])


def _guests(crowd: Crowd, channels: list[str], *, count: int) -> Guests:
    places = seats(
        crowd, [channels[number % len(channels)] for number in range(count)], first_index=100_000
    )
    return Guests(crowd, crowd.prepare(places, first=True))
