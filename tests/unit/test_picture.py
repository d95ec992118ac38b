"""The picture of a terminal: is each character where the terminal had it, in XML that parses?

And the picture and the commands that README.md shows: would auto-iscsi take them?
"""

from __future__ import annotations

import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.admin import cli
from auto_iscsi.san import when
from tests.san.bed import picture, typed
from tests.san.bed.picture import Run

ROOT = Path(__file__).resolve().parents[2]
DRAWN = (ROOT / "docs/demo.svg").read_text()
README = (ROOT / "README.md").read_text()
#: Of a command line after its prompt, in a picture or in README.md.
OURS = re.compile(r"# auto-iscsi ([^|]*)")
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


def lines_of_commands(svg: str) -> list[str]:
    """Return each line of a picture that has a prompt, with the rows into which it was wrapped."""
    kinds: dict[int, str] = {}
    for text in ET.fromstring(svg.encode()).iter("{http://www.w3.org/2000/svg}text"):
        row = (int(text.attrib["y"]) - picture.BORDER + 5) // picture.HEIGHT - 1
        kinds.setdefault(row, text.attrib["class"])
    lines: list[str] = []
    for number, shown in enumerate(screen(svg)):
        if kinds.get(number) == "prompt":
            lines.append(shown)
        elif kinds.get(number) == "command":
            lines[-1] = lines[-1].ljust(-(-len(lines[-1]) // picture.COLUMNS) * picture.COLUMNS)
            lines[-1] += shown
    return lines


def commands(lines: list[str]) -> list[list[str]]:
    """Return the arguments of auto-iscsi in command lines."""
    return [shlex.split(found[1]) for line in lines for found in [OURS.search(line)] if found]


def parse(words: list[str]) -> None:
    """Parse the arguments as auto-iscsi does, with what a place says of a volume and a time."""
    arguments = cli._parser().parse_args(words)
    if hasattr(arguments, "place"):
        volume, _, path = when.split_place(arguments.place)
        assert volume == "vm-beta" and path.startswith("/")


IN_PICTURE = commands(lines_of_commands(DRAWN))
IN_README = commands([line for line in README.splitlines() if line.startswith("# auto-iscsi ")])


@pytest.mark.parametrize("words", [*IN_PICTURE, *IN_README], ids=" ".join)
def test_a_command_that_is_shown_exists(words: list[str]) -> None:
    parse(words)


def test_a_command_that_does_not_exist_is_found() -> None:
    for words in (["restoer", "vm-beta:/x", "/root"], ["diff", "vm-beta:/x"]):
        with pytest.raises(SystemExit):
            parse(words)


def test_a_wrapped_command_is_read_back() -> None:
    command = "auto-iscsi versions vm-beta:/" + "x y " * 100
    line = [Run("prompt", "root@browse:~# "), Run("command", command)]
    shown = lines_of_commands(picture.svg([line, [Run("output", "no")]], ""))
    assert [each.rstrip() for each in shown] == [f"root@browse:~# {command}".rstrip()]


def test_the_picture_is_small_and_the_readme_has_its_commands_as_text() -> None:
    assert "](docs/demo.svg)" in README
    assert len(DRAWN.encode()) < 60_000
    verbs = ["list", "versions", "diff", "restore"]
    assert [each for each in IN_PICTURE if each[0] in verbs] == [
        each for each in IN_README if each[0] in verbs
    ]
