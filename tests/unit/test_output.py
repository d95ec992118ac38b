"""Reports: aligned columns, colour only on a terminal, and no control characters."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from auto_iscsi import wording
from auto_iscsi.admin import cli, output

PROJECT = Path(__file__).parents[2]


def test_columns_are_aligned_and_end_where_their_text_does() -> None:
    assert output.columns([("a", "bb", "c"), ("aaa", "b", "")]) == ["a    bb  c", "aaa  b"]


def test_control_characters_are_shown_as_escapes() -> None:
    assert wording.printable("a\x1b[2J\u202e\u00e9\n") == "a\\x1b[2J\\u202e\u00e9\\n"


def test_a_name_that_the_locale_lacks_ends_no_report(tmp_path: Path) -> None:
    file = tmp_path / "\u65e5.conf"
    file.write_text("[*]\nfstype = auto\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "auto_iscsi", "check", str(file)],
        cwd=PROJECT,
        capture_output=True,
        env={"PYTHONIOENCODING": "latin-1"},
    )
    assert b"Traceback" not in done.stderr and b"\\u65e5.conf" in done.stdout + done.stderr


def on_terminal(file: Path, **environment: str) -> bytes:
    """Return what `check` writes to a terminal."""
    return shown(["-m", "auto_iscsi", "check", str(file)], **environment)


def shown(words: list[str], **environment: str) -> bytes:
    """Return what Python, run with these words, writes to a terminal."""
    our_end, its_end = pty.openpty()
    subprocess.run(
        [sys.executable, *words],
        cwd=PROJECT,
        stdout=its_end,
        env={"TERM": "xterm", **environment},
    )
    os.close(its_end)
    try:
        return os.read(our_end, 4096)
    finally:
        os.close(our_end)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_gets_colour_unless_the_environment_says_no(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "f").write_text("lun = x\n")
    assert b"\033[31merror\033[0m: lun" in on_terminal(tmp_path / "f")
    assert b"error: lun" in on_terminal(tmp_path / "f", **environment)


def test_a_pipe_gets_no_colour_and_its_reader_may_close_it(tmp_path: Path) -> None:
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


def test_what_a_pager_prints_ends_with_a_newline() -> None:
    program = "from auto_iscsi.admin import cli; cli._page(['-old', '+new'])"
    assert shown(["-c", program], TERM="dumb") == b"-old\r\n+new\r\n"


def test_progress_is_one_line_that_fits_the_terminal() -> None:
    code = (
        "import sys; from auto_iscsi.admin import cli\n"
        "sys.stderr = sys.stdout\n"
        "with cli._progress() as say: say('x' * 200); say('y\\x1b[2J')"
    )
    line, second, end = shown(["-c", code]).split(b"\r\033[K")[1:]
    assert line == b"x" * 79 and second == b"y\\x1b[2J" and end == b""


def test_without_a_terminal_no_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with cli._progress() as say:
        say("visiting")
    assert capsys.readouterr().err == ""
