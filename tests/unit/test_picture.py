"""The picture of a terminal: is each character where the terminal had it, in XML that parses?"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from tests.san.bed import picture, typed
from tests.san.bed.picture import Run

LINES = [
    [Run("note", "# not one byte changes: a < b & c")],
    [Run("prompt", "root@browse:~# "), Run("command", "ls")],
    [Run("output", "bin  boot")],
]


def screen(svg: str) -> list[str]:
    """Return the rows of text that a picture shows, each character in its cell."""
    rows: dict[int, str] = {}
    for text in ET.fromstring(svg.encode()).iter("{http://www.w3.org/2000/svg}text"):
        words = text.text or ""
        column = (float(text.attrib["x"]) - picture.BORDER) / picture.WIDTH
        assert abs(float(text.attrib["textLength"]) / picture.WIDTH - len(words)) < 0.01
        row = (int(text.attrib["y"]) - picture.BORDER + 5) // picture.HEIGHT - 1
        rows[row] = rows.get(row, "").ljust(round(column)) + words
    return [rows.get(number, "") for number in range(max(rows, default=-1) + 1)]


def test_a_picture_has_the_lines_in_their_colours() -> None:
    svg = picture.svg(LINES, "a shell")
    assert screen(svg) == ["".join(run.text for run in line) for line in LINES]
    assert '<text class="command"' in svg and "<title>a shell</title>" in svg
    assert svg == picture.svg(LINES, "a shell")


def test_a_long_line_is_wrapped_as_a_terminal_wraps_it() -> None:
    line = [Run("prompt", "12345 "), Run("command", "7890abcdefghijkl")]
    assert screen(picture.svg([line], "", columns=10)) == ["12345 7890", "abcdefghij", "kl"]
    full = [[Run("output", "1234567890")], [Run("output", "next")]]
    assert screen(picture.svg(full, "", columns=10)) == ["1234567890", "next"]


def test_a_picture_fetches_nothing() -> None:
    svg = picture.svg(LINES, "")
    assert svg.count("http") == 1 and "@import" not in svg and "url(" not in svg
    assert "<script" not in svg


@given(st.lists(st.lists(st.builds(Run, st.sampled_from(list(picture.STYLES)), st.text()))))
def test_any_output_gives_a_picture_that_parses(lines: list[list[Run]]) -> None:
    svg = picture.svg(lines, "a < b", columns=20)
    assert all(len(row) <= 20 for row in screen(svg))


def test_output_is_what_stays_on_the_terminal() -> None:
    progress = "\r\x1b[K1 of 2\r\x1b[K2 of 2\r\x1b[Kdone\r\n\x1b[31m-old\x1b[0m\r\n"
    assert typed.settled(progress) == "done\n-old\n"
