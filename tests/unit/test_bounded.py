"""Work in a child process: its value comes back, and a child that hangs holds nobody up."""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host
from tests.tree.tree import make_tree


def holders(path: Path) -> list[int]:
    """Return the processes that have a file open."""
    pids = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for handle in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{handle}") == str(path):
                    pids.append(int(pid))
    return pids


def soon(condition: Callable[[], object]) -> bool:
    """Wait until a condition is true; return whether it became true within a minute."""
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def devices(root: Path) -> Host:
    """Return a machine with devices that answer (a, b) and one that hangs when opened (fifo)."""
    make_tree(root, {"/dev/a": "", "/dev/b": ""})
    os.mkfifo(root / "dev/fifo")
    return Host(str(root))


@pytest.mark.parametrize("value", [[True, None, "x"], b"", "x" * 1_000_000])
def test_the_value_comes_back(value: object) -> None:
    assert bounded.run(lambda: value, time.monotonic() + 30, "t") == value


def test_an_exception_in_the_child_is_a_failure_here() -> None:
    with pytest.raises(errors.Failure, match="t: "):
        bounded.run(lambda: 1 // 0, time.monotonic() + 30, "t")


@pytest.mark.parametrize("length", [1, 5, 60])
def test_a_child_that_is_killed_as_it_answers_is_a_failure_here(length: int) -> None:
    def work() -> None:  # the kernel ends it when memory runs out
        os.write(1, marshal.dumps(["x" * 90])[:length])
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(errors.Failure, match="t: the disk could not be read"):
        bounded.run(work, time.monotonic() + 30, "t")


def test_a_child_that_hangs_is_not_waited_for_and_holds_none_of_our_files(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    pid_file = tmp_path / "pid"

    def hang() -> None:
        with open(pid_file, "w") as file:
            file.write(f"{os.getpid()}")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(300)

    before = time.monotonic()
    try:
        with pytest.raises(errors.NoAnswer, match="t: .* does not answer"):
            bounded.run(hang, before + 1.0, "t")
        assert time.monotonic() - before < 100  # and not the 300 of the child
        os.close(theirs)
        assert os.read(ours, 1) == b""  # nobody else has its other end
    finally:
        os.close(ours)
        if pid_file.exists():
            with contextlib.suppress(ChildProcessError):  # bounded.run has collected it already
                os.waitpid(int(pid_file.read_text()), 0)


def test_each_device_is_probed_and_one_that_hangs_does_not_hide_the_next(tmp_path: Path) -> None:
    nodes = ["/dev/a", "/dev/none", "/dev/fifo", "/dev/b"]
    answers = bounded.probe_exclusive(devices(tmp_path), nodes, 2.0)
    assert answers == [bounded.FREE, errno.ENOENT, bounded.HANGS, bounded.FREE]


def test_devices_are_held_until_the_end_of_the_block(tmp_path: Path) -> None:
    host, device = devices(tmp_path), tmp_path / "dev/a"
    nodes = ["/dev/a", "/dev/none", "/dev/fifo", "/dev/b"]
    with bounded.hold_exclusively(host, nodes, 1.0, flush=True) as answers:
        assert answers == [bounded.FREE, errno.ENOENT, bounded.HANGS, bounded.HANGS]
        (holder,) = holders(device)
        assert holder != os.getpid()
    assert holders(device) == []


def test_devices_are_free_again_when_the_process_that_held_them_is_killed(tmp_path: Path) -> None:
    host, device = devices(tmp_path), tmp_path / "dev/a"
    child = os.fork()
    if not child:
        with bounded.hold_exclusively(host, ["/dev/a"], 30.0, flush=False):
            signal.pause()
    try:
        assert soon(lambda: holders(device))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert soon(lambda: not holders(device))
