"""Draw what a terminal showed as an SVG picture.

The picture is text: it needs no font but the viewer's own. Each run of characters has a fixed
length, so that columns are aligned in any font. It has a background of its own and is readable on
a light and on a dark page. The same lines give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

COLUMNS = 110
#: Pixels: the size of the font, of a character's cell, and of the border around the text.
FONT, WIDTH, HEIGHT, BORDER = 14, 8.4, 19, 14
STYLES = {
    "note": "fill: #56b6c2",
    "prompt": "fill: #7ec699",
    "command": "fill: #ffffff; font-weight: bold",
    "output": "fill: #d0d4dc",
}
HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" \
viewBox="0 0 {width} {height}">
<title>{title}</title>
<style>
text {{ font: {font}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; \
white-space: pre }}
{styles}
</style>
<rect x="0.5" y="0.5" width="{inner_width}" height="{inner_height}" rx="8" fill="#1c2128" \
stroke="#6e7681"/>
"""
#: Characters that XML cannot have.
FORBIDDEN = re.compile("[^ -\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Run(NamedTuple):
    """Characters in one style of STYLES."""

    style: str
    text: str


def rows(line: Iterable[Run], columns: int) -> Iterator[list[Run]]:
    """Yield the rows of a line as a terminal of that width wraps it."""
    row: list[Run] = []
    room = columns
    for style, text in line:
        rest = FORBIDDEN.sub("\ufffd", text.expandtabs())
        while len(rest) > room:
            yield [*row, Run(style, rest[:room])]
            row, rest, room = [], rest[room:], columns
        row.append(Run(style, rest))
        room -= len(rest)
    yield row


def drawn(row: Iterable[Run], top: int) -> Iterator[str]:
    """Yield the SVG elements of a row; spaces at the ends of a run are left out."""
    column = 0
    for style, text in row:
        start = column + len(text) - len(text.lstrip(" "))
        if shown := text.strip(" "):
            yield (
                f'<text class="{style}" x="{BORDER + start * WIDTH:g}" y="{top}" '
                f'textLength="{len(shown) * WIDTH:g}" lengthAdjust="spacingAndGlyphs" '
                f'xml:space="preserve">{escape(shown)}</text>\n'
            )
        column += len(text)


def svg(lines: Sequence[Sequence[Run]], title: str, columns: int = COLUMNS) -> str:
    """Return the picture of lines."""
    all_rows = [row for line in lines for row in rows(line, columns)]
    width = round(columns * WIDTH) + 2 * BORDER
    height = len(all_rows) * HEIGHT + 2 * BORDER
    head = HEAD.format(
        width=width,
        height=height,
        inner_width=width - 1,
        inner_height=height - 1,
        title=escape(title),
        font=FONT,
        styles="\n".join(f".{style} {{ {rules} }}" for style, rules in STYLES.items()),
    )
    body = "".join(
        element
        for number, row in enumerate(all_rows, 1)
        for element in drawn(row, BORDER + number * HEIGHT - 5)
    )
    return f"{head}{body}</svg>\n"
