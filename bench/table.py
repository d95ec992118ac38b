"""How is a result written: a ratio with its spread, or a number of seconds, and its goal?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One result."""

    what: str
    result: str
    spread: str = ""
    goal: str = ""
    note: str = ""
    medians: tuple[float, ...] = ()  #: what it was made of; RESULTS.md leaves them out


def compared(
    what: str, ours: Sequence[float], other: Sequence[float], goal: str = "", note: str = ""
) -> Row:
    """Return a row that compares the times of two commands which ran in turn: ours ÷ other."""
    pairs = [(a, b) for a, b in zip(ours, other) if not (math.isnan(a) or math.isnan(b))]
    if not pairs:
        return Row(what, "–", "", goal, "it failed each time")
    medians = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
    each = sorted(a / b for a, b in pairs)
    cut = len(each) // 10
    spread = f"{each[cut]:.2f}–{each[-1 - cut]:.2f}" if len(each) > 1 else ""
    return Row(what, f"{medians[0] / medians[1]:.2f}", spread, goal, note, medians)


def seconds(what: str, took: float, goal: str, note: str = "") -> Row:
    """Return a row with a time that is compared with nothing."""
    return Row(what, f"{took:.2f} s", "", goal, note, (took,))


def rendered(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    head = ("what", "result", "spread", "goal", "")
    lines_of_cells = [head, *((r.what, r.result, r.spread, r.goal, r.note) for r in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines_of_cells)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
        for cells in lines_of_cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"
