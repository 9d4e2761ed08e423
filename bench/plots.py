"""Pictures of a results file: one bar for each system that took part. The same file, the same
bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from bench.budgets import KB, MB, OURS
from bench.tables import number

OURS_COLOUR, OTHER_COLOUR = "#c2410c", "#94a3b8"


@dataclass(frozen=True)
class Plot:
    """Bars of one figure; ``is_wide`` gives the axis a logarithmic scale."""

    file: str
    title: str
    scenario: str
    name: str
    per: float = 1.0
    is_wide: bool = False


PLOTS = (
    Plot("memory.png", "Memory per idle connection, KB", "idle", "bytes_per_connection", KB),
    Plot("process.png", "Whole process with its connections, MB", "idle", "process_bytes", MB),
    Plot("connect.png", "CPU per connection that opens, ms", "idle", "cpu_ms_per_connect"),
    Plot(
        "delivery.png", "CPU per delivery to one of all, µs (logarithmic)", "fan_out",
        "cpu_us_per_delivery", is_wide=True,
    ),
    Plot(
        "latency.png", "Publish to last receiver, p99, ms (logarithmic)", "fan_out",
        "last_p99_ms", is_wide=True,
    ),
)  # fmt: skip


def draw_all(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every picture; return where."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_draw(plot, results, folder / plot.file) for plot in PLOTS]


def _draw(plot: Plot, results: Mapping[str, Any], path: Path) -> Path:
    bars = _bars(plot, results)
    names, values = list(bars), list(bars.values())
    with pyplot.style.context({"font.size": 10, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(figsize=(8, 0.42 * len(bars) + 0.9), dpi=100)
        colours = [OURS_COLOUR if name == OURS else OTHER_COLOUR for name in names]
        drawn = axes.barh(names, values, color=colours)
        axes.bar_label(drawn, [number(value) for value in values], padding=4)
        axes.invert_yaxis()
        axes.set_title(plot.title, loc="left")
        axes.spines["top"].set_visible(False)
        axes.margins(x=0.12)
        if plot.is_wide:
            axes.set_xscale("log")
            axes.set_xlim(left=1)  # wherever else it began would make small ones look equal to none
        figure.tight_layout()
        figure.savefig(path, metadata={"Software": None})
        pyplot.close(figure)
    return path


def _bars(plot: Plot, results: Mapping[str, Any]) -> dict[str, float]:
    """Return the value of each system that has one, in the order of the table."""
    found = {
        name: row["scenarios"].get(plot.scenario, {}).get(plot.name)
        for name, row in results["peers"].items()
    }
    return {name: value / plot.per for name, value in found.items() if value}
