"""Run work in a child process, with a deadline.

Opening or reading a disk can take as long as its session's recovery, and no signal ends such a wait
before the kernel does. So a child process does the work, and the parent waits for the child until a
deadline; a child that hangs is left to the kernel. It keeps nothing of the parent (spawn.fork):
automount waits for every process that holds the map program's stdout, and the next lookup waits for
every process that holds the target's lock.

The kernel knows without asking the disk whether a block device is in use: open(O_RDONLY|O_EXCL) is
EBUSY when the disk or one of its partitions is mounted in any mount namespace, or is claimed by
device mapper, md, swap or any program that asked for exclusive use (block/bdev.c, bd_may_claim).
"""

from __future__ import annotations

import fcntl
import marshal
import os
import select
import stat
import time

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, contextmanager, signal
from auto_iscsi.machine import spawn
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Callable

FREE, HANGS = 0, -1  #: results for a device; all others are errnos
_BLKFLSBUF = 0x1261  # linux/fs.h
_EXIT_TIME = 1.0  # seconds that a killed child has to go away
_ANSWER = 1  # the stdout of the child
_ALL_DEVICES = 5  # times the limit of one device: the limit for a list of them


def run(work: Callable[[], Any], until: float, target: str) -> Any:
    """Return what `work` returns in a child process.

    The value has to be one that marshal can write. `until` is a time.monotonic(). Raise NoAnswer
    when there is no value by then, and Failure when `work` raises.
    """
    child = _start(lambda: os.write(_ANSWER, marshal.dumps(work())))
    try:
        value = b""
        while part := _read(child, until - time.monotonic()):
            value += part
    finally:
        _end(child, until - time.monotonic())
    if part is None:
        raise errors.NoAnswer(
            f"{target}: the disk does not answer", "is the session up? auto-iscsi status"
        )
    try:
        return marshal.loads(value)
    except (EOFError, TypeError, ValueError):  # the child failed, or was killed as it answered
        raise errors.Failure(f"{target}: the disk could not be read") from None


def probe_exclusive(host: Host, nodes: Sequence[str], seconds: float) -> list[int]:
    """Return for each device node (/dev/sdX): FREE, an errno (EBUSY: in use) or HANGS.

    Each device has `seconds` to answer, all of them together five times that; HANGS also stands for
    a device whose turn did not come. While a device is open here, nobody can mount it: the caller
    holds the locks of the targets whose lookups could want that.
    """

    def probe(node: str) -> None:
        os.close(_open(host, node))

    results: list[int] = []
    until = time.monotonic() + _ALL_DEVICES * seconds
    while len(results) < len(nodes) and time.monotonic() < until:
        left = nodes[len(results) :]
        child = _start_for_each(left, probe)
        results += _results(child, len(left), seconds)
        _end(child, _EXIT_TIME)
        if len(results) < len(nodes):
            results.append(HANGS)
    return results + [HANGS] * (len(nodes) - len(results))


@contextmanager
def hold_exclusively(
    host: Host, nodes: Sequence[str], seconds: float, *, flush: bool
) -> Iterator[list[int]]:
    """Hold devices exclusively; yield for each FREE (it is held now), an errno or HANGS.

    Until the end of the block nobody can mount the devices or build anything on them. With `flush`
    the kernel's cache of each device is first written out and dropped. Each device has `seconds`.
    """

    def hold(node: str) -> None:
        handle = _open(host, node)  # stays open until the child ends
        if flush and stat.S_ISBLK(os.fstat(handle).st_mode):
            os.fsync(handle)
            fcntl.ioctl(handle, _BLKFLSBUF, 0)

    child = _start_for_each(nodes, hold, stay=True)
    try:
        results = _results(child, len(nodes), seconds)
        yield results + [HANGS] * (len(nodes) - len(results))
    finally:
        _end(child, _EXIT_TIME)


def _open(host: Host, node: str) -> int:
    return os.open(host.path(node), os.O_RDONLY | os.O_CLOEXEC | os.O_EXCL)


class _Child(NamedTuple):
    """A child process, and the descriptor from which its answer is read."""

    pid: int
    answer: int


def _start(work: Callable[[], object]) -> _Child:
    """Start `work` in a child process, which writes its answer to its stdout."""
    reading, writing = os.pipe()
    try:
        return _Child(spawn.fork(work, writing), reading)
    finally:
        os.close(writing)


def _start_for_each(
    nodes: Sequence[str], work: Callable[[str], object], *, stay: bool = False
) -> _Child:
    """Start work(node) for each device in a child, which answers with one byte for each.

    The byte is FREE, or the errno that `work` failed with. With `stay` the child then keeps what it
    holds until it is ended, or nobody can read its answer any more: the parent was killed.
    """

    def work_for_each() -> None:
        for node in nodes:
            result = FREE
            try:
                work(node)
            except OSError as error:
                result = error.errno or 1
            os.write(_ANSWER, bytes([result]))
        if stay:
            reader = select.poll()
            reader.register(_ANSWER, 0)  # without any event poll(2) still reports POLLERR
            reader.poll()

    return _start(work_for_each)


def _read(child: _Child, seconds: float) -> bytes | None:
    """Return more of a child's answer, b"" at its end, None when nothing comes in time."""
    if not select.select([child.answer], [], [], max(0.0, seconds))[0]:
        return None
    return os.read(child.answer, 1 << 16)


def _results(child: _Child, count: int, seconds: float) -> list[int]:
    """Return the results that come, each within `seconds`."""
    results: list[int] = []
    while len(results) < count and (part := _read(child, seconds)):
        results += part
    return results


def _end(child: _Child, seconds: float) -> None:
    """Kill a child and wait until it is gone; leave it to the kernel when that takes longer."""
    os.close(child.answer)
    os.kill(child.pid, signal.SIGKILL)
    exited = os.pidfd_open(child.pid)
    try:
        select.select([exited], [], [], max(0.0, seconds))
    finally:
        os.close(exited)
    os.waitpid(child.pid, os.WNOHANG)
