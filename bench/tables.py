"""The tables of a results file, as text for a terminal and as Markdown. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.budgets import KB, MB, Judgement, Results, judge

SATURATED = 0.9  # of the driver's core: what was measured then is the driver's limit
NOTED_TOLERANCE = 0.3


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; the first column is text, the others numbers or ``is_text``."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_text: bool = False

    def text(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]
        return "\n".join([self.title, *(self._aligned(line, widths) for line in lines)])

    def markdown(self) -> str:
        under = ["---", *["---" if self.is_text else "---:"] * (len(self.head) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in (self.head, under, *self.rows))

    def _aligned(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        turned = [
            f"{cell:<{width}}" if self.is_text or not column else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(turned).rstrip()


@dataclass(frozen=True)
class Column:
    """One figure of a scenario, divided by ``per`` for its unit."""

    head: str
    scenario: str
    name: str
    per: float = 1.0


MAIN = (
    Column("KB/conn.", "idle", "bytes_per_connection", KB),
    Column("MB process", "idle", "process_bytes", MB),
    Column("idle CPU %", "idle", "idle_cpu_share", 0.01),
    Column("ms CPU/connect", "idle", "cpu_ms_per_connect"),
    Column("µs CPU/delivery", "fan_out", "cpu_us_per_delivery"),
    Column("deliveries/s", "fan_out", "deliveries_per_s"),
    Column("last p50 ms", "fan_out", "last_p50_ms"),
    Column("last p99 ms", "fan_out", "last_p99_ms"),
    Column("stall p95 ms", "fan_out", "stall_p95_ms"),
    Column("lost", "fan_out", "lost"),
    Column("doubled", "fan_out", "doubled"),
    Column("driver %", "fan_out", "driver_share", 0.01),
)


def _columns(scenario: str, *figures: tuple[str, str] | tuple[str, str, float]) -> list[Column]:
    return [Column(each[0], scenario, *each[1:]) for each in figures]


OTHERS: Mapping[str, Sequence[Column]] = {
    "Many channels with few subscribers": _columns(
        "channels",
        ("KB/conn.", "bytes_per_connection", KB),
        ("publications/s", "publications_per_s"),
        ("µs CPU/publication", "cpu_us_per_publication"),
        ("CPU %", "cpu_share", 0.01),
        ("p50 ms", "each_p50_ms"),
        ("p99 ms", "each_p99_ms"),
        ("lost", "lost"),
        ("doubled", "doubled"),
    ),
    "Mixed traffic with sporadic HTTP": _columns(
        "mixed",
        ("p50 ms", "each_p50_ms"),
        ("p99 ms", "each_p99_ms"),
        ("HTTP p50 ms", "http_p50_ms"),
        ("HTTP p99 ms", "http_p99_ms"),
        ("CPU %", "cpu_share", 0.01),
        ("lost", "lost"),
        ("doubled", "doubled"),
    ),
    "Slow readers": _columns(
        "slow",
        ("others p50 ms", "each_p50_ms"),
        ("others p99 ms", "each_p99_ms"),
        ("MB grown", "growth_bytes", MB),
        ("MB kept", "growth_after_bytes", MB),
        ("frozen", "frozen"),
        ("of them closed", "frozen_closed"),
        ("others closed", "closed"),
        ("lost", "lost"),
    ),
    "Reconnect and recover": _columns(
        "recover",
        ("connections", "connections"),
        ("seconds", "seconds"),
        ("ms CPU/return", "cpu_ms_per_return"),
        ("failed", "failed"),
        ("lost", "lost"),
        ("doubled", "doubled"),
    ),
    "HTTP publish": _columns(
        "publish",
        ("empty view/s", "empty_per_s"),
        ("single/s", "single_per_s"),
        ("8 at a time: empty view/s", "empty8_per_s"),
        ("single/s", "single8_per_s"),
        ("batch of 100/s", "batch_per_s"),
        ("broadcast to 100/s", "broadcast_per_s"),
    ),
    "Sporadic HTTP calls": _columns(
        "sporadic",
        ("calls/s", "calls_per_s"),
        ("p50 ms", "call_p50_ms"),
        ("p99 ms", "call_p99_ms"),
        ("max ms", "call_max_ms"),
        ("not answered", "unanswered"),
        ("lag p99 ms", "lag_p99_ms"),
        ("lag max ms", "lag_max_ms"),
        ("threads before", "threads_before"),
        ("started", "threads_started"),
        ("after", "threads_after"),
        ("MB quiet", "quiet_bytes", MB),
        ("MB calling", "process_bytes", MB),
        ("CPU %", "cpu_share", 0.01),
        ("HTTP requests", "asked"),
        ("HTTP connections", "asked_connections"),
        ("driver %", "driver_share", 0.01),
    ),
    "10,000 connections": _columns(
        "crowd",
        ("KB/conn.", "bytes_per_connection", KB),
        ("MB process", "process_bytes", MB),
        ("idle CPU %", "idle_cpu_share", 0.01),
        ("µs CPU/delivery", "cpu_us_per_delivery"),
        ("last p99 ms", "last_p99_ms"),
        ("stall p95 ms", "stall_p95_ms"),
        ("stall max ms", "stall_max_ms"),
        ("return s", "return_seconds"),
        ("failed", "return_failed"),
        ("lost", "return_lost"),
    ),
}


def main_table(results: Results) -> Table:
    """Return the table of idle memory, connecting and fan-out.

    Every peer is in it, but for those that are made for another scenario.
    """
    return Table(
        f"{results['sizes']['connections']:,} connections",
        ["", *(column.head for column in MAIN)],
        [
            _row(name, row, MAIN)
            for name, row in results["peers"].items()
            if row["scenarios"].keys() | row["failed"].keys() != {"sporadic"}
        ],
    )


def other_tables(results: Results) -> list[Table]:
    """Return a table for each other scenario, with the peers that took part."""
    tables = []
    for title, columns in OTHERS.items():
        scenario = columns[0].scenario
        rows = [
            _row(name, row, columns)
            for name, row in results["peers"].items()
            if scenario in row["scenarios"]
        ]
        if rows:
            tables.append(Table(title, ["", *(column.head for column in columns)], rows))
    return tables


def blocked_table(results: Results) -> Table:
    """Return what systems said themselves of their loop while calls were made."""
    rows = [
        [name, number(figures["told_blocked"]), _code(figures["log_of_blocked"])]
        for name, row in results["peers"].items()
        if "told_blocked" in (figures := row["scenarios"].get("sporadic", {}))
    ]
    head = ["", "heliograph_loop_blocked_total", "a line of its log about it"]
    return Table("What the server says of a blocked loop", head, rows, is_text=True)


def _code(text: str) -> str:
    """Return a text as code in a cell, which a bar would end."""
    return f"`{text.replace('|', '/')}`" if text else "-"


def budget_table(results: Results) -> Table:
    rows = [_judged(each) for each in judge(results)]
    return Table("Budgets", ["", "must", "aim", "measured", "met"], rows)


def systems_table(results: Results) -> Table:
    """Return what each peer is, in which version, and how it differs."""
    rows = [
        [
            name,
            row["title"],
            ", ".join(f"{each} {version}" for each, version in row.get("versions", {}).items()),
            row.get("unavailable") or row["note"],
        ]
        for name, row in results["peers"].items()
    ]
    return Table("Systems", ["", "what", "versions", "remarks"], rows, is_text=True)


def settings_table(results: Results) -> Table:
    """Return which documented setting each peer runs with, and where that is said."""
    rows = [
        [name, setting["name"], setting["value"], setting["source"]]
        for name, row in results["peers"].items()
        for setting in row["settings"]
    ]
    return Table("Settings", ["", "setting", "value", "source"], rows, is_text=True)


def remarks(results: Results) -> list[str]:
    """Return what the tables cannot say: what is missing, and what not to trust."""
    said = []
    for name, row in results["peers"].items():
        if why := row.get("unavailable"):
            said.append(f"{name} did not run: {why}")
        said += [f"{name}, {scenario}: failed: {why}" for scenario, why in row["failed"].items()]
        said += [
            f"{name}, {scenario}: the driver took {figures['driver_share']:.0%} of its core, so "
            "the figures may be its own limit"
            for scenario, figures in row["scenarios"].items()
            if figures.get("driver_share", 0) > SATURATED
        ]
        if not results["is_quick"]:
            said += _off(name, row)
    return said


def _off(name: str, row: Mapping[str, Any]) -> list[str]:
    said = []
    for path, noted in row.get("noted", {}).items():
        scenario, _, figure = path.partition(".")
        found = row["scenarios"].get(scenario, {}).get(figure)
        if found is not None and abs(found / noted - 1) > NOTED_TOLERANCE:
            said.append(
                f"{name}: {figure} {found:.4g} is {found / noted - 1:+.0%} off the {noted:.4g} of "
                "the design"
            )
    return said


def _row(name: str, row: Mapping[str, Any], columns: Sequence[Column]) -> list[str]:
    return [name, *(_cell(row["scenarios"].get(each.scenario, {}), each) for each in columns)]


def _cell(figures: Mapping[str, Any], column: Column) -> str:
    value = figures.get(column.name)
    return "-" if value is None else number(value / column.per)


def number(value: float) -> str:
    """Return a value with three digits that count, or as a whole number."""
    if value != value:  # not a number: nothing arrived
        return "none"
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _judged(judgement: Judgement) -> list[str]:
    budget = judgement.budget
    sign = "≥" if budget.is_least else "≤"

    def bound(value: float) -> str:
        return f"{sign} {number(value)} {budget.unit}".strip()

    if judgement.measured is None:
        return [budget.title, bound(budget.must), bound(budget.aim), "not measured", "no"]
    met = "yes" if judgement.is_met else "NO"
    return [
        budget.title,
        bound(budget.must),
        bound(budget.aim),
        f"{number(judgement.measured)} {budget.unit}".strip(),
        f"{met}, aim too" if judgement.is_aim_met else met,
    ]
