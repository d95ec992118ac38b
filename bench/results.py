"""Where are the results of earlier runs, and what is made of them?

results.json has what was measured last, by part. RESULTS.md shows it to people, and the chart its
most important numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import chart
from bench.table import Row, rendered

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results.json"
RESULTS = HERE / "RESULTS.md"
CHART = HERE.parent / "docs/speed.svg"
HEAD = """# The last `make bench`

How it is measured: bench/__main__.py.

![What a visit costs, and how lookups and reports grow with the host](../docs/speed.svg)
"""


class Part(NamedTuple):
    """The results of a part."""

    title: str
    about: str  #: when and where it ran, and how long
    rows: Sequence[Row]


def read() -> dict[str, Part]:
    """Return the results of earlier runs."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return {
        name: Part(title, about, [Row(*row[:-1], tuple(row[-1])) for row in rows])
        for name, (title, about, rows) in kept.items()
    }


def write(parts: Mapping[str, Part]) -> None:
    """Keep the results, and show them in RESULTS.md."""
    KEPT.write_text(json.dumps(parts, indent=1, ensure_ascii=False) + "\n")
    sections = [
        f"## {part.title}\n\n{part.about}.\n\n{rendered(part.rows)}" for part in parts.values()
    ]
    RESULTS.write_text("\n".join([HEAD, *sections]))


def draw(parts: Mapping[str, Part]) -> None:
    """Draw the chart, if all parts that it shows have been measured."""
    rows = {(name, row.what): row for name, part in parts.items() for row in part.rows}
    if image := chart.drawn(rows):
        CHART.write_text(image)
