"""Lay out reports: aligned columns, and colour on a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

BOXES = "├─└│"
_RED, _YELLOW, _GREEN, _DIM = "31", "33", "32", "2"


class Report(NamedTuple):
    """The result of a verb."""

    status: int  #: the exit status
    lines: list[str]  #: for a person
    data: Any  #: for --json


class Paint(NamedTuple):
    """Colour a text, or return it as it is."""

    is_on: bool
    has_boxes: bool = False  #: whether the stream's encoding has the characters of BOXES

    def error(self, text: str) -> str:
        """Colour something that keeps targets from being mounted."""
        return self._colour(_RED, text)

    def warning(self, text: str) -> str:
        """Colour something that the administrator should look at."""
        return self._colour(_YELLOW, text)

    def ok(self, text: str) -> str:
        """Colour something that is correct."""
        return self._colour(_GREEN, text)

    def dim(self, text: str) -> str:
        """Colour headers and remarks."""
        return self._colour(_DIM, text)

    def _colour(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.is_on and text else text


def paint_for(stream: TextIO) -> Paint:
    """Return the paint for a stream: colour only on a terminal, and see https://no-color.org."""
    try:
        has_boxes = bool(BOXES.encode(stream.encoding or "ascii"))
    except (UnicodeEncodeError, LookupError):
        has_boxes = False
    is_unwanted = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return Paint(stream.isatty() and not is_unwanted, has_boxes)


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Return rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths))).rstrip()
        for row in rows
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], paint: Paint) -> list[str]:
    """Return a header and rows as lines with aligned columns; only the header is coloured."""
    first, *others = columns([header, *rows])
    return [paint.dim(first), *others]


def wrap(text: str, width: int = 79) -> list[str]:
    """Return a text as lines of at most `width` characters; words and options stay whole."""
    import textwrap  # here: few reports need it

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
