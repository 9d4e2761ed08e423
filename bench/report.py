"""What a run prints and stores."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.budgets import judge
from bench.tables import blocked_table, budget_table, main_table, other_tables, remarks

RESULTS = Path(__file__).resolve().parent / "results"


def text(results: Mapping[str, Any]) -> str:
    """Return the whole report for a terminal."""
    tables = [main_table(results), *other_tables(results), blocked_table(results)]
    parts = [
        _machine(results),
        *(table.text() for table in tables if table.rows),
        _settings(results),
        "\n".join(f"* {each}" for each in remarks(results)),
        budget_table(results).text(),
        _verdict(results),
    ]
    return "\n\n".join(part for part in parts if part)


def _machine(results: Mapping[str, Any]) -> str:
    machine, commit = results["machine"], results["commit"]
    changed = " with changes" if commit["is_changed"] else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python "
        f"{machine['python']}; commit {commit['id'][:10]}{changed}; {results['date']}\n"
        "Server on core 0; driver and Redis on core 1. One send() to one socket costs the kernel "
        f"{machine['send_floor_us']:.1f} µs here, and the load at the start was "
        f"{machine['load_at_start']}."
    )


def _settings(results: Mapping[str, Any]) -> str:
    lines = ["Settings"]
    for name, row in results["peers"].items():
        lines.append(f"{name}: {row['title']}. {row['note']}".rstrip())
        lines += [
            f"  {each['name']}: {each['value']}  ({each['source']})" for each in row["settings"]
        ]
    return "\n".join(lines)


def _verdict(results: Mapping[str, Any]) -> str:
    if results["is_quick"]:
        return "QUICK: too few connections and too short to judge by."
    missed = [each.budget.title for each in judge(results) if not each.is_met]
    return f"NOT met: {', '.join(missed)}" if missed else "Every must is met."


def is_met(results: Mapping[str, Any]) -> bool:
    """Tell whether every budget's must is met; a quick run does not judge."""
    return bool(results["is_quick"]) or all(each.is_met for each in judge(results))


def store(results: Mapping[str, Any], path: Path | None) -> Path:
    """Write the results; return where."""
    if path is None:
        day = str(results["date"])[:10]
        kind = "quick" if results["is_quick"] else f"{day}-{results['commit']['id'][:10]}"
        path = RESULTS / f"{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    written = json.dumps(_rounded(results), indent=1, ensure_ascii=False)
    path.write_text(written + "\n", encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    """Return the results of a file."""
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def _rounded(value: Any) -> Any:
    """Return the same with six digits of each number, which is more than anything here is worth."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
