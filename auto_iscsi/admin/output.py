"""How does a report look, to a person and to a program?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

_RED, _YELLOW, _GREEN, _DIM = "31", "33", "32", "2"


class Paint(NamedTuple):
    """Colour, where there is somebody to see it."""

    on: bool

    def bad(self, text: str) -> str:
        """What keeps targets from being mounted."""
        return self._in(_RED, text)

    def doubtful(self, text: str) -> str:
        """What a person should look at."""
        return self._in(_YELLOW, text)

    def good(self, text: str) -> str:
        """What is as it should be."""
        return self._in(_GREEN, text)

    def aside(self, text: str) -> str:
        """What is there for completeness."""
        return self._in(_DIM, text)

    def _in(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self.on and text else text


class Report(NamedTuple):
    """What a verb found out."""

    status: int  #: of the program
    lines: list[str]  #: for a person
    data: Any  #: for --json


def paint_for(stream: TextIO) -> Paint:
    """Return the paint for a stream: only on a terminal, and not under https://no-color.org."""
    dumb = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return Paint(stream.isatty() and not dumb)


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Return rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths))).rstrip()
        for row in rows
    ]


def wrapped(text: str, width: int = 79) -> list[str]:
    """Return a text as lines."""
    import textwrap  # only where there is so much to say

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
