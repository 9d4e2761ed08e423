"""What this project has promised itself, held against one run's results. Pure.

Ratios are between rows of the same run. Of the two rows of stock Channels the cheaper counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]
KB = 1024
MB = 1024 * 1024
OURS = "heliograph"
CALLED = "heliograph-upstream"  # the row whose connections call
WEBSOCKETS = "websockets"
STOCK = ("channels-core", "channels-pubsub")
# In these nothing may be lost, come twice, or be closed unasked.
CHECKED = ("fan_out", "channels", "mixed", "slow", "recover", "crowd", "sporadic")
FAULTS = ("lost", "doubled", "closed", "failed", "late", "return_lost", "return_doubled")


@dataclass(frozen=True)
class Budget:
    """One promise: ``must`` and ``aim`` are most, or with ``is_least`` least, values.

    ``since`` is the scenario without which a run is older than the promise.
    """

    title: str
    unit: str
    must: float
    aim: float
    measure: Callable[[Results], float | None]
    is_least: bool = False
    since: str = ""

    def judged(self, results: Results) -> "Judgement":
        return Judgement(self, self.measure(results))


@dataclass(frozen=True)
class Judgement:
    """A budget and what was measured; None where that did not take place."""

    budget: Budget
    measured: float | None

    @property
    def is_met(self) -> bool:
        return self._reaches(self.budget.must)

    @property
    def is_aim_met(self) -> bool:
        return self._reaches(self.budget.aim)

    def _reaches(self, bound: float) -> bool:
        if self.measured is None:
            return False
        return self.measured >= bound if self.budget.is_least else self.measured <= bound


def figure(results: Results, peer: str, scenario: str, name: str) -> float | None:
    """Return one figure of a run, or None."""
    row = results["peers"].get(peer, {})
    found = row.get("scenarios", {}).get(scenario, {}).get(name)
    return None if found is None else float(found)


def _row(scenario: str) -> str:
    """Return which of our rows a scenario is judged by."""
    return CALLED if scenario == "sporadic" else OURS


def _ours(scenario: str, name: str, per: float = 1.0) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        found = figure(results, _row(scenario), scenario, name)
        return None if found is None else found / per

    return measure


def _ratio(scenario: str, name: str, *others: str) -> Callable[[Results], float | None]:
    """Return what divides our figure by the least of others'."""

    def measure(results: Results) -> float | None:
        ours = figure(results, OURS, scenario, name)
        theirs = [figure(results, other, scenario, name) for other in others]
        found = [each for each in theirs if each]
        return None if ours is None or not found else ours / min(found)

    return measure


def _memory_of_calls(results: Results) -> float | None:
    """Return what divides memory with calls under way by that of as many idle connections.

    The idle ones are of a server without an upstream: what one adds counts too.
    """
    calling = figure(results, CALLED, "sporadic", "process_bytes")
    idle = figure(results, OURS, "idle", "process_bytes")
    return None if calling is None or not idle else calling / idle


def _faults(results: Results) -> float | None:
    figures = [figure(results, _row(each), each, name) for each in CHECKED for name in FAULTS]
    known = [each for each in figures if each is not None]
    return sum(known) if known else None


BUDGETS = (
    Budget("memory per connection", "KB", 14, 12, _ours("idle", "bytes_per_connection", KB)),
    Budget("whole process", "MB", 110, 100, _ours("idle", "process_bytes", MB)),
    Budget(
        "CPU per delivery, to bare websockets", "x", 1.1, 0.8,
        _ratio("fan_out", "cpu_us_per_delivery", WEBSOCKETS),
    ),
    Budget(
        "CPU per delivery, to stock Channels", "x", 0.05, 0.05,
        _ratio("fan_out", "cpu_us_per_delivery", *STOCK),
    ),
    Budget(
        "CPU per connect + auth + subscribe", "ms", 1.0, 0.7, _ours("idle", "cpu_ms_per_connect")
    ),
    Budget(
        "the same, to stock connect + group_add", "x", 1.0, 1.0,
        _ratio("idle", "cpu_ms_per_connect", *STOCK),
    ),
    Budget("publish to last receiver, p99", "ms", 60, 40, _ours("fan_out", "last_p99_ms")),
    Budget("loop stall, broadcast to 10,000", "ms", 10, 5, _ours("crowd", "stall_p95_ms")),
    Budget(
        "HTTP publish, to an empty view", "x", 0.8, 1.5, _ours("publish", "single_to_empty"),
        is_least=True,
    ),
    Budget(
        "HTTP publish, batch of 100", "/s", 10_000, 20_000, _ours("publish", "batch_per_s"),
        is_least=True,
    ),
    Budget(
        "HTTP publish, broadcast of 100", "/s", 10_000, 20_000,
        _ours("publish", "broadcast_per_s"), is_least=True,
    ),
    Budget(
        "10,000: memory per connection", "KB", 14, 12, _ours("crowd", "bytes_per_connection", KB)
    ),
    Budget("10,000: return of all, recovered", "s", 30, 15, _ours("crowd", "return_seconds")),
    Budget("10,000: of those, failed", "", 0, 0, _ours("crowd", "return_failed")),
    Budget("10,000: idle CPU", "%", 10, 5, _ours("crowd", "idle_cpu_share", 0.01)),
    Budget(
        "sporadic HTTP: calls, p99", "ms", 260, 220, _ours("sporadic", "call_p99_ms"),
        since="sporadic",
    ),
    Budget(
        "sporadic HTTP: loop lag, p99", "ms", 20, 5, _ours("sporadic", "lag_p99_ms"),
        since="sporadic",
    ),
    Budget(
        "sporadic HTTP: threads started by calls", "", 0, 0, _ours("sporadic", "threads_started"),
        since="sporadic",
    ),
    Budget("sporadic HTTP: memory, to idle", "x", 1.1, 1.05, _memory_of_calls, since="sporadic"),
    Budget(
        "sporadic HTTP: not answered", "", 0, 0, _ours("sporadic", "unanswered"), since="sporadic"
    ),
    Budget("lost, doubled or closed unasked", "", 0, 0, _faults),
)  # fmt: skip


def judge(results: Results) -> list[Judgement]:
    """Return each budget with what was measured for it.

    A budget that is younger than the program which made the results is not among them.
    """
    known = results.get("known", ())
    return [
        budget.judged(results) for budget in BUDGETS if not budget.since or budget.since in known
    ]
