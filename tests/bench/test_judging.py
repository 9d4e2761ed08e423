"""A budget is met by what was measured, and by nothing else."""

import pytest

from bench.budgets import BUDGETS, judge
from bench.measure import percentile
from bench.report import is_met

GOOD = {
    "is_quick": False,
    "known": ["idle", "sporadic"],
    "peers": {
        "heliograph": {
            "scenarios": {
                "idle": {
                    "bytes_per_connection": 12_000,
                    "process_bytes": 100_000_000,
                    "cpu_ms_per_connect": 0.7,
                },
                "fan_out": {"cpu_us_per_delivery": 8.0, "last_p99_ms": 30.0, "lost": 0},
                "publish": {
                    "single_to_empty": 1.2,
                    "batch_per_s": 15_000,
                    "broadcast_per_s": 20_000,
                },
                "crowd": {
                    "bytes_per_connection": 12_000,
                    "idle_cpu_share": 0.04,
                    "stall_p95_ms": 6.0,
                    "return_seconds": 12.0,
                    "return_failed": 0,
                },
            }
        },
        "heliograph-upstream": {
            "scenarios": {
                "sporadic": {
                    "call_p99_ms": 210.0,
                    "lag_p99_ms": 3.0,
                    "threads_started": 0,
                    "process_bytes": 104_000_000,
                    "unanswered": 0,
                },
            }
        },
        "websockets": {"scenarios": {"fan_out": {"cpu_us_per_delivery": 8.0}}},
        "channels-core": {
            "scenarios": {
                "idle": {"cpu_ms_per_connect": 1.5},
                "fan_out": {"cpu_us_per_delivery": 300.0},
            }
        },
        "channels-pubsub": {
            "scenarios": {
                "idle": {"cpu_ms_per_connect": 1.1},
                "fan_out": {"cpu_us_per_delivery": 200.0},
            }
        },
    },
}


def changed(peer: str, scenario: str, name: str, value: float | None) -> dict:
    """Return good results with one figure changed, or taken away."""
    peers = {
        each: {"scenarios": {key: dict(figures) for key, figures in row["scenarios"].items()}}
        for each, row in GOOD["peers"].items()
    }
    figures = peers[peer]["scenarios"][scenario]
    if value is None:
        del figures[name]
    else:
        figures[name] = value
    return {**GOOD, "peers": peers}


def missed(results: dict) -> list[str]:
    return [each.budget.title for each in judge(results) if not each.is_met]


def test_good_results_meet_every_budget():
    assert missed(GOOD) == []
    assert is_met(GOOD)


@pytest.mark.parametrize(
    ("scenario", "name", "value", "title"),
    [
        ("idle", "bytes_per_connection", 14.1 * 1024, "memory per connection"),
        ("idle", "process_bytes", 111 * 1024 * 1024, "whole process"),
        ("fan_out", "cpu_us_per_delivery", 8.9, "CPU per delivery, to bare websockets"),
        ("fan_out", "last_p99_ms", 61, "publish to last receiver, p99"),
        ("crowd", "stall_p95_ms", 10.1, "loop stall, broadcast to 10,000"),
        ("crowd", "return_failed", 1, "10,000: of those, failed"),
        ("publish", "single_to_empty", 0.79, "HTTP publish, to an empty view"),
        ("publish", "batch_per_s", 9_999, "HTTP publish, batch of 100"),
        ("fan_out", "lost", 1, "lost, doubled or closed unasked"),
        ("sporadic", "call_p99_ms", 260.1, "sporadic HTTP: calls, p99"),
        ("sporadic", "lag_p99_ms", 20.1, "sporadic HTTP: loop lag, p99"),
        ("sporadic", "threads_started", 1, "sporadic HTTP: threads started by calls"),
        ("sporadic", "process_bytes", 110_100_000, "sporadic HTTP: memory, to idle"),
        ("sporadic", "unanswered", 1, "sporadic HTTP: not answered"),
        ("sporadic", "closed", 1, "lost, doubled or closed unasked"),
    ],
)
def test_what_is_just_too_much_misses_its_budget(scenario, name, value, title):
    ours = "heliograph-upstream" if scenario == "sporadic" else "heliograph"

    results = changed(ours, scenario, name, value)

    assert missed(results) == [title]
    assert not is_met(results)


def test_the_cheaper_row_of_stock_channels_counts():
    results = changed("channels-pubsub", "fan_out", "cpu_us_per_delivery", 150.0)

    assert missed(results) == ["CPU per delivery, to stock Channels"]


def test_what_was_not_measured_is_not_met():
    results = changed("heliograph", "crowd", "return_seconds", None)

    assert missed(results) == ["10,000: return of all, recovered"]


def test_a_run_is_not_judged_by_what_it_did_not_know_of():
    results = changed("heliograph-upstream", "sporadic", "call_p99_ms", None)
    older = {name: each for name, each in results.items() if name != "known"}

    assert missed(results) == ["sporadic HTTP: calls, p99"]
    assert missed(older) == []


def test_a_quick_run_does_not_judge():
    results = changed("heliograph", "idle", "cpu_ms_per_connect", 9.0)

    assert is_met({**results, "is_quick": True})


def test_every_budget_has_an_aim_that_is_no_easier_than_its_must():
    for budget in BUDGETS:
        easier = budget.aim < budget.must if budget.is_least else budget.aim > budget.must
        assert not easier, budget.title


def test_a_percentile_is_a_value_that_was_seen():
    assert percentile([4, 1, 3, 2], 0.5) == 2
    assert percentile([4, 1, 3, 2], 0.99) == 4
    assert percentile(list(range(1, 101)), 0.95) == 95
