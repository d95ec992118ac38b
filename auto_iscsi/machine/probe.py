"""Does anybody hold a block device exclusively, and what is still to be written to it?

open(O_RDONLY|O_EXCL) is EBUSY when the disk or one of its partitions is mounted in any mount
namespace, or claimed by dm, md, swap or any program that asked for it (block/bdev.c, bd_may_claim).
The kernel finds that out before it asks the disk for anything; what comes after can take for ever
on a disk that does not answer, and such a wait cannot be killed. So children do it, with a limit,
and one that hangs is left to the kernel; it holds no descriptor of ours and no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import stat
import time
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple

from auto_iscsi.machine.host import Host

FREE, HANGS = 0, -1  #: what is known of a device, if not an errno
_BLKFLSBUF = 0x1261  # linux/fs.h
_PATIENCE = 1.0  # seconds for the end of a child


def exclusive(host: Host, nodes: Sequence[str], seconds: float) -> list[int]:
    """Return for each device node (/dev/sdX): FREE, EBUSY or another errno, HANGS.

    Each has `seconds`, all have five times that; who is not reached counts as HANGS. Who asks
    holds what could be mounted meanwhile: for the moment that it is open, it cannot be.
    """

    def look(number: int) -> int:
        os.close(_open(host, nodes[number]))
        return FREE

    found: list[int] = []
    over = time.monotonic() + 5 * seconds
    while len(found) < len(nodes) and time.monotonic() < over:
        child = _fork(look, range(len(found), len(nodes)))
        found += _results(child, len(nodes) - len(found), seconds)
        _end(child)
        if len(found) < len(nodes):
            found.append(HANGS)
    return found + [HANGS] * (len(nodes) - len(found))


@contextlib.contextmanager
def seized(host: Host, nodes: Sequence[str], seconds: float, *, flush: bool) -> Iterator[list[int]]:
    """Hold devices exclusively; yield for each FREE (it is held), an errno or HANGS.

    Nobody can mount them, or make anything of them, meanwhile. With `flush`, what the kernel keeps
    of them is written out, and forgotten.
    """

    def hold(number: int) -> int:
        handle = _open(host, nodes[number])  # until the child's end
        if flush and stat.S_ISBLK(os.fstat(handle).st_mode):
            os.fsync(handle)
            fcntl.ioctl(handle, _BLKFLSBUF, 0)
        return FREE

    child = _fork(hold, range(len(nodes)), stay=True)
    try:
        found = _results(child, len(nodes), seconds)
        yield found + [HANGS] * (len(nodes) - len(found))
    finally:
        _end(child)


def _open(host: Host, node: str) -> int:
    return os.open(host.path(node), os.O_RDONLY | os.O_CLOEXEC | os.O_EXCL)


class _Child(NamedTuple):
    """A process that asks the disks."""

    pid: int
    results: int  #: the descriptor from which a byte comes for each
    life: int  #: the one that it waits on: closed when we close it, or die


def _fork(work: Callable[[int], int], numbers: range, *, stay: bool = False) -> _Child:
    """Start work(0), work(1), …; an OSError counts as its errno. `stay`: until it is ended."""
    reading, writing = os.pipe()
    waiting, life = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            # It holds nothing that others wait for: no lock, no pipe of cron's.
            results, wait = (fcntl.fcntl(fd, fcntl.F_DUPFD, 16) for fd in (writing, waiting))
            os.closerange(0, 16)
            os.closerange(16, min(results, wait))
            os.closerange(min(results, wait) + 1, max(results, wait))
            os.closerange(max(results, wait) + 1, 1 << 16)
            os.chdir("/")
            for number in numbers:
                try:
                    result = work(number)
                except OSError as error:
                    result = error.errno or 1
                os.write(results, bytes([result]))
            if stay:
                os.read(wait, 1)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)  # without what Python does at its end
    os.close(writing)
    os.close(waiting)
    return _Child(pid, reading, life)


def _results(child: _Child, count: int, seconds: float) -> list[int]:
    """Return the results that come, each within `seconds`."""
    found: list[int] = []
    while len(found) < count and select.select([child.results], [], [], seconds)[0]:
        data = os.read(child.results, 4096)
        if not data:
            break
        found += data
    return found


def _end(child: _Child) -> None:
    """End a child; one that the kernel holds fast is left to it."""
    os.close(child.results)
    os.close(child.life)
    os.kill(child.pid, signal.SIGKILL)
    over = time.monotonic() + _PATIENCE
    while not os.waitpid(child.pid, os.WNOHANG)[0] and time.monotonic() < over:
        time.sleep(0.002)
