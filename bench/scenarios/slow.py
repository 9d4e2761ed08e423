"""Some connections never read: what the others notice, how far memory grows, who is closed."""

import time
from collections import Counter

from bench.client.crowd import Crowd
from bench.client.reader import OPEN, Reader
from bench.measure import milliseconds
from bench.scenarios.pace import Pace
from bench.scenarios.stage import Figures, Stage, losses, open_all, seats

CHANNEL = "bench:slow"
RECEIVE_BUFFER_BYTES = 4096  # the kernel keeps little for who does not read
RATE = 20  # publications a second
AHEAD = 4  # publications on their way to those that read
LOOK_EVERY = 10  # publications
DRAIN_SECONDS = 10.0


def run(stage: Stage) -> dict[str, Figures]:
    sizes = stage.sizes
    with stage.crowd() as crowd:
        stage.warm_up(crowd)
        open_all(crowd, [CHANNEL] * (sizes.slow_connections - sizes.slow_frozen))
        frozen = _frozen(crowd, sizes.slow_connections, sizes.slow_frozen)
        crowd.rest(sizes.settle_seconds)
        crowd.tally.reset()
        before = stage.memory_bytes()
        most = _publish(stage, crowd)
        figures = losses(crowd)
        crowd.rest(sizes.settle_seconds)
        after = stage.memory_bytes()
        figures |= {
            "readers": sizes.slow_connections - sizes.slow_frozen,
            "frozen": sizes.slow_frozen,
            "bytes_to_each": (crowd.numbers[CHANNEL] - 1) * (sizes.slow_padding_bytes + 100),
            "growth_bytes": most - before,
            "growth_after_bytes": after - before,
            "each_p50_ms": milliseconds(crowd.tally.latencies_ns, 0.5),
            "each_p99_ms": milliseconds(crowd.tally.latencies_ns, 0.99),
        }
        return {"slow": figures | _fate(crowd, frozen)}


def _frozen(crowd: Crowd, first_index: int, count: int) -> list[Reader]:
    """Open connections, and never read from them again."""
    frozen = crowd.prepare(seats(crowd, [CHANNEL] * count, first_index=first_index))
    crowd.open(frozen, receive_buffer_bytes=RECEIVE_BUFFER_BYTES)
    for reader in frozen:
        crowd.forget(reader.sock)
        crowd.readers.remove(reader)
    return frozen


def _publish(stage: Stage, crowd: Crowd) -> int:
    """Publish steadily; return the most memory that the server took meanwhile."""
    sizes = stage.sizes
    seen: list[int] = []

    def look(number: int) -> None:
        if number % LOOK_EVERY == 0:
            seen.append(stage.memory_bytes())

    padding = b"y" * sizes.slow_padding_bytes
    readers = sizes.slow_connections - sizes.slow_frozen
    Pace([CHANNEL], readers, RATE, ahead=AHEAD, padding=padding).run(
        crowd, sizes.slow_publications, each=look
    )
    crowd.rest(0.2)
    return max(*seen, stage.memory_bytes())


def _fate(crowd: Crowd, frozen: list[Reader]) -> Figures:
    """Let the frozen ones read at last, and see which were closed, and with which code."""
    crowd.tally.closed = 0
    for reader in frozen:
        crowd.watch(reader.sock, reader)
    until = time.monotonic() + DRAIN_SECONDS
    seen = -1
    # Those that are still open have read all once nothing comes any more.
    while time.monotonic() < until and seen != crowd.tally.delivered + crowd.tally.closed:
        seen = crowd.tally.delivered + crowd.tally.closed
        crowd.rest(0.5)
    closed = [reader for reader in frozen if reader.state != OPEN]
    codes = Counter(reader.close_code or "cut" for reader in closed)
    for reader in frozen:
        reader.close()
    told = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items(), key=str))
    return {"frozen_closed": len(closed), "frozen_codes": told or "none"}
