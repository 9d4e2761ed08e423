"""Put the tables and pictures of a results file into docs/explanation/performance.md.

    python -m bench.page bench/results/FILE.json

The text between the tables is written by hand. The page names its results file; the test of the
documents makes the tables again from that and compares.
"""

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.tables import (
    OTHERS,
    Table,
    blocked_table,
    budget_table,
    main_table,
    other_tables,
    remarks,
    settings_table,
    systems_table,
)

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "explanation" / "performance.md"
PICTURES = ROOT / "docs" / "explanation" / "img"

NOTHING = "Not in this run."

_PART = re.compile(r"(<!-- bench: (?P<name>[^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SOURCE = re.compile(r"\(\.\./\.\./(bench/results/[^)]+\.json)\)")


class PageError(Exception):
    """The page and its results do not belong together."""


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Return the Markdown of every table by the name that the page has for it."""
    every: list[Table] = [budget_table(results), *other_tables(results)]
    every += [blocked_table(results), systems_table(results), settings_table(results)]
    # The page may be younger than the results, and have a place for what they lack.
    named = dict.fromkeys(OTHERS, NOTHING)
    named |= {table.title: table.markdown() if table.rows else NOTHING for table in every}
    return named | {
        "Connections and fan-out": main_table(results).markdown(),
        "Machine": _machine(results),
        "Remarks": _listed(remarks(results) or ["None."]),
    }


def _machine(results: dict[str, Any]) -> str:
    machine, sizes = results["machine"], results["sizes"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    floor, load = machine["send_floor_us"], machine["load_at_start"]
    return _listed(
        [
            f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; one `send()` "
            f"takes {floor:.1f} µs",
            f"Python {machine['python']}; {packages}",
            f"commit {results['commit']['id'][:10]}, {results['date'][:10]}; "
            f"{sizes['connections']:,} connections, load at the start {load}",
        ]
    )


def _listed(items: Sequence[str]) -> str:
    return "\n".join(
        textwrap.fill(
            item, 110, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False,
            break_long_words=False,
        )
        for item in items
    )  # fmt: skip


def rewritten(text: str, results: dict[str, Any]) -> str:
    """Return the page with each table as the results have it.

    Raises:
        PageError: It asks for a table that the results do not have.
    """
    made = tables(results)

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in made:
            raise PageError(f"the results have no table {name!r}, only: {', '.join(made)}")
        return f"{match[1]}\n{made[name]}\n\n{match[3]}"

    return _PART.sub(replace, text)


def source(text: str) -> Path:
    """Return the results file that the page names.

    Raises:
        PageError: It names none, or several.
    """
    names = set(_SOURCE.findall(text))
    if len(names) != 1:
        raise PageError(f"the page has to name one results file, and names {sorted(names)}")
    return ROOT / names.pop()


def main(argument: str) -> None:
    from bench.plots import draw_all  # only here: the test has no use for matplotlib

    path = Path(argument).resolve().relative_to(ROOT)
    results = report.read(ROOT / path)
    text = _SOURCE.sub(f"(../../{path})", PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(rewritten(text, results), encoding="utf-8")
    for picture in (PAGE, *draw_all(results, PICTURES)):
        print(picture.relative_to(ROOT))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit((__doc__ or "").strip())
    main(sys.argv[1])
