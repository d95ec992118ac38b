"""What may never end is done apart: its answer comes back, and its hanging holds nobody up."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.machine import apart


def test_the_answer_comes_back() -> None:
    assert apart.do(lambda: [True, None, "x"], time.monotonic() + 30, "t") == [True, None, "x"]


def test_what_fails_apart_is_a_failure_here() -> None:
    with pytest.raises(errors.Failure, match="could not be looked at"):
        apart.do(lambda: 1 // 0, time.monotonic() + 30, "t")


def test_who_hangs_is_not_waited_for_and_holds_none_of_our_files(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    note = tmp_path / "pid"

    def hang() -> None:
        with open(note, "w") as file:
            file.write(f"{os.getpid()}")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(300)

    before = time.monotonic()
    try:
        with pytest.raises(errors.TimedOut, match="t: does not answer"):
            apart.do(hang, before + 1.0, "t")
        assert time.monotonic() - before < 10
        os.close(theirs)
        assert os.read(ours, 1) == b""  # nobody else has its other end
    finally:
        os.close(ours)
        if note.exists():
            with contextlib.suppress(ChildProcessError):  # ended by us, and now by the kernel
                os.waitpid(int(note.read_text()), 0)
