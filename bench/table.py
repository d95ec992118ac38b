"""Format results as a table: each a ratio with its spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One result."""

    what: str
    ratio: str
    spread: str
    goal: str = ""
    note: str = ""


def compared(
    what: str, ours: Sequence[float], other: Sequence[float], goal: str = "", note: str = ""
) -> Row:
    """Return a row that compares the times of two commands which ran in turn: ours ÷ other."""
    pairs = [(a, b) for a, b in zip(ours, other) if not (math.isnan(a) or math.isnan(b))]
    if not pairs:
        return Row(what, "–", "", goal, "it failed each time")
    ratio = statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)
    each = sorted(a / b for a, b in pairs)
    cut = len(each) // 10
    return Row(what, f"{ratio:.2f}", f"{each[cut]:.2f}–{each[-1 - cut]:.2f}", goal, note)


def rendered(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    head = Row("what", "ratio", "spread", "goal", "")
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in (head, *rows)
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"
