"""HTTP publishing: single, in batches, as broadcasts, beside an empty view of the same server.

One at a time means that each of some connections sends the next request once the one before is
answered. The kinds take turns, so that what disturbs the machine disturbs them all. Nobody is
subscribed.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle
from statistics import median

from bench.client.crowd import Crowd
from bench.client.http_line import HttpLine
from bench.peers.base import CannotDo, payload
from bench.scenarios.stage import Figures, ScenarioFailed, Stage

CHANNELS = [f"bench:publish{number}" for number in range(100)]
CONCURRENT = 8
PREPARED = 40  # different requests of a kind


def run(stage: Stage) -> dict[str, Figures]:
    with stage.crowd() as crowd:
        stage.warm_up(crowd)
        rates = _rounds(stage, crowd)
        figures: Figures = {**rates}
        if "empty_per_s" in rates:
            figures["single_to_empty"] = rates["single_per_s"] / rates["empty_per_s"]
            figures["single8_to_empty8"] = rates["single8_per_s"] / rates["empty8_per_s"]
        return {"publish": figures}


def _rounds(stage: Stage, crowd: Crowd) -> dict[str, float]:
    """Return the median rate of each kind, in publications (or empty requests) a second."""
    requests = _requests(crowd)
    kinds: dict[str, tuple[str, int, int]] = {
        "empty_per_s": ("empty", 1, 1),
        "single_per_s": ("single", 1, 1),
        "empty8_per_s": ("empty", CONCURRENT, 1),
        "single8_per_s": ("single", CONCURRENT, 1),
        "batch_per_s": ("batch", CONCURRENT, len(CHANNELS)),
        "broadcast_per_s": ("broadcast", CONCURRENT, len(CHANNELS)),
    }
    kinds = {name: kind for name, kind in kinds.items() if kind[0] in requests}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(stage.sizes.publish_rounds):
        for name, (kind, lines, worth) in kinds.items():
            answers = _answers_per_s(crowd, requests[kind], lines, stage.sizes.publish_seconds)
            rates[name].append(answers * worth)
    return {name: median(found) for name, found in rates.items()}


def _requests(crowd: Crowd) -> dict[str, list[bytes]]:
    """Return requests of each kind that the peer has."""
    wire = crowd.wire

    def data() -> bytes:
        return payload(1, time.monotonic_ns())  # nobody looks at the number here

    makers: dict[str, Callable[[int], bytes]] = {
        "empty": lambda _: wire.empty_view(),
        "single": lambda number: wire.publish(CHANNELS[number % len(CHANNELS)], data()),
        "batch": lambda _: wire.publish_batch([(name, data()) for name in CHANNELS]),
        "broadcast": lambda _: wire.broadcast(CHANNELS, data()),
    }
    made = {}
    for kind, make in makers.items():
        with suppress(CannotDo):
            made[kind] = [make(number) for number in range(PREPARED)]
    return made


def _answers_per_s(crowd: Crowd, requests: list[bytes], lines: int, seconds: float) -> float:
    """Keep so many connections busy for some time; return the rate of their answers."""
    endless = cycle(requests)
    is_over = False
    opened = [crowd.line() for _ in range(lines)]

    def answered(line_index: int) -> Callable[[bytes, int], None]:
        def on_answer(body: bytes, _took_ns: int) -> None:
            if b'"error"' in body:
                raise ScenarioFailed(body[:200].decode(errors="replace"))
            if not is_over:
                opened[line_index].send(next(endless))

        return on_answer

    for index, line in enumerate(opened):
        line.on_answer = answered(index)
        line.send(next(endless))
    crowd.rest(0.1)
    before, began = _answers(opened), time.monotonic()
    crowd.rest(seconds)
    rate = (_answers(opened) - before) / (time.monotonic() - began)
    is_over = True
    until = time.monotonic() + 5
    while not all(line.is_idle for line in opened) and time.monotonic() < until:
        crowd.turn(0.1)
    for line in opened:
        line.close()
    return rate


def _answers(lines: Sequence[HttpLine]) -> int:
    return sum(line.answered for line in lines)
