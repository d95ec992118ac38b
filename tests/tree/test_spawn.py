"""A program starts in the same way with sh and without it, and goes on when its time is over."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.machine.host import Host

pytestmark = pytest.mark.parametrize("quick", [True, False], ids=["forked", "by sh"])

REPORTS = f"""\
#!{sys.executable} -IS
import os, sys
print(*sys.argv[1:], *os.listdir("/proc/self/fd"), sep="|")
print(*sorted(os.environ))
print(*(line for line in open("/proc/self/status") if line[:6] == "SigBlk"))
print(os.getcwd(), file=sys.stderr)
sys.exit(7)
"""
WAITS = "#!/bin/sh\necho begun\nwhile [ ! -e {0}/go ]; do sleep 0.01; done\necho done >{0}/done\n"


class Start:
    """A host with one program, and the files that get its output."""

    def __init__(self, root: Path, text: str, quick: bool) -> None:
        self.root, self.quick = root, quick
        self.program = root / "usr/sbin/program"
        self.program.parent.mkdir(parents=True)
        self.program.write_text(text)
        self.program.chmod(0o755)

    def __call__(self, *words: str, seconds: float = 30, stdin: int = -1) -> int | None:
        with open(self.root / "out", "wb") as out, open(self.root / "err", "wb") as err:
            return Host(str(self.root)).run(
                "program",
                *words,
                out=out.fileno(),
                err=err.fileno(),
                until=time.monotonic() + seconds,
                quick=self.quick,
                stdin=stdin,
            )

    def printed(self, stream: str = "out") -> list[str]:
        return (self.root / stream).read_text().splitlines()


def test_a_program_gets_what_it_needs_and_nothing_of_ours(tmp_path: Path, quick: bool) -> None:
    start = Start(tmp_path, REPORTS, quick)
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    os.environ["OF_OURS"] = "1"
    try:
        assert start("-m", "a b") == 7
    finally:
        os.close(reading)
        os.close(writing)
        del os.environ["OF_OURS"]
    assert start.printed("err") == ["/"]
    first, names, *masks = start.printed()
    assert first.split("|") == ["-m", "a b", "0", "1", "2", "3"]  # 3: the folder itself
    assert set(names.split()) - {"LC_CTYPE"} == {"AUTO_ISCSI_ROOT", "LC_ALL", "PATH"}
    blocked = int(masks[0].split()[1], 16)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
        assert blocked >> number - 1 & 1


def test_a_program_goes_on_when_its_time_is_over(tmp_path: Path, quick: bool) -> None:
    start = Start(tmp_path, WAITS.format(tmp_path), quick)
    assert start(seconds=0.5) is None
    assert not (tmp_path / "done").exists()
    (tmp_path / "go").touch()
    until = time.monotonic() + 30
    while not (tmp_path / "done").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert (tmp_path / "done").read_text() == "done\n"


@pytest.mark.parametrize("text", ["#!/nowhere\n", "#!/bin/sh\nexit 127\n"])
def test_a_program_that_cannot_be_started_is_reported(
    tmp_path: Path, quick: bool, text: str
) -> None:
    start = Start(tmp_path, text, quick)
    try:
        status = start()
    except errors.BrokenInstallation as failure:
        assert str(failure).startswith(("program not started: ", "program does not start; "))
    else:
        assert not quick and status == 255  # sh 1.12 says no more


def test_a_missing_program_is_reported(tmp_path: Path, quick: bool) -> None:
    start = Start(tmp_path, REPORTS, quick)
    start.program.unlink()
    with pytest.raises(errors.BrokenInstallation, match="program is not installed"):
        start()


@pytest.mark.parametrize("is_given", [True, False], ids=["given", "null"])
def test_a_program_keeps_a_descriptor_open_as_its_stdin(
    tmp_path: Path, quick: bool, is_given: bool
) -> None:
    start = Start(tmp_path, "#!/bin/sh\nreadlink /proc/self/fd/0\n", quick)
    with open(tmp_path / "store", "wb") as store:
        assert start(stdin=store.fileno() if is_given else -1) == 0
    assert start.printed() == [str(tmp_path / "store") if is_given else "/dev/null"]
