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
        name: Part(title, about, [Row(**{**row, "medians": tuple(row["medians"])}) for row in rows])
        for name, (title, about, rows) in kept.items()
    }


def write(parts: Mapping[str, Part]) -> None:
    """Keep the results, and show them in RESULTS.md and in the chart."""
    kept = {
        name: (part.title, part.about, [row._asdict() for row in part.rows])
        for name, part in parts.items()
    }
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    for path, text in shown(parts).items():
        path.write_text(text)


def shown(parts: Mapping[str, Part]) -> dict[Path, str]:
    """Return the files that show the results to people."""
    sections = [
        f"## {part.title}\n\n{part.about}.\n\n{rendered(part.rows)}" for part in parts.values()
    ]
    files = {RESULTS: "\n".join([HEAD, *sections])}
    rows = {(name, row.what): row for name, part in parts.items() for row in part.rows}
    if image := chart.drawn(rows):
        files[CHART] = image
    return files
