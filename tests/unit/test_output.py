"""How reports look: columns, colour where somebody sees it, nothing that a terminal would obey."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from auto_iscsi import wording
from auto_iscsi.admin import output

PROJECT = Path(__file__).parents[2]


def test_columns_are_aligned_and_end_where_their_text_does() -> None:
    assert output.columns([("a", "bb", "c"), ("aaa", "b", "")]) == ["a    bb  c", "aaa  b"]


def test_what_cannot_be_printed_is_shown_as_what_it_is() -> None:
    assert wording.printable("a\x1b[2J\u202e\u00e9\n") == "a\\x1b[2J\\u202e\u00e9\\n"


def on_terminal(file: Path, **environment: str) -> bytes:
    """Return what `check` writes to a terminal."""
    ours, its = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "auto_iscsi", "check", str(file)],
        cwd=PROJECT,
        stdout=its,
        env={"TERM": "xterm", **environment},
    )
    os.close(its)
    try:
        return os.read(ours, 4096)
    finally:
        os.close(ours)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_there_is_colour_on_a_terminal_unless_it_is_not_wanted(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "f").write_text("lun = x\n")
    assert b"\033[31merror\033[0m: lun" in on_terminal(tmp_path / "f")
    assert b"error: lun" in on_terminal(tmp_path / "f", **environment)


def test_there_is_none_in_a_pipe_and_a_reader_may_leave(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("lun = x\n" + "".join(f"s{n} = 1\n" for n in range(5000)))
    command = [sys.executable, "-m", "auto_iscsi", "check", str(tmp_path / "f")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1 and "\033" not in done.stdout
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, stdout=pipe, stderr=pipe) as process:
        assert process.stdout and process.stderr
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
