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
import time
from collections.abc import Sequence
from typing import Callable

from auto_iscsi.host import Host

FREE, HANGS = 0, -1  #: what is known of a device, if not an errno
_BLKFLSBUF = 0x1261  # linux/fs.h


def exclusive(host: Host, nodes: Sequence[str], seconds: float) -> dict[str, int]:
    """Return per device node (/dev/sdX): FREE, EBUSY or another errno, HANGS.

    Each has `seconds`, all have five times that; who is not reached counts as HANGS.
    """
    paths = [host.path(node) for node in nodes]
    found = _in_children(lambda n: _opened(paths[n], os.O_EXCL), len(paths), seconds)
    return dict(zip(nodes, found))


def flush(host: Host, node: str, seconds: float) -> int:
    """Write out and forget what the kernel keeps of a device: FREE, an errno, HANGS."""
    return _in_children(lambda _: _flushed(host.path(node)), 1, seconds)[0]


def _opened(path: str, flags: int) -> int:
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags))
    return FREE


def _flushed(path: str) -> int:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.fsync(handle)
    fcntl.ioctl(handle, _BLKFLSBUF, 0)
    return FREE


def _in_children(work: Callable[[int], int], count: int, seconds: float) -> list[int]:
    """Return the results of work(0), work(1), …; an OSError counts as its errno."""
    found: list[int] = []
    over = time.monotonic() + 5 * seconds
    while len(found) < count and time.monotonic() < over:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            _serve(work, range(len(found), count), writing)
        os.close(writing)
        while select.select([reading], [], [], seconds)[0]:
            data = os.read(reading, 4096)
            if not data:
                break
            found += data
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, os.WNOHANG)
        if len(found) < count:
            found.append(HANGS)
    return found + [HANGS] * (count - len(found))


def _serve(work: Callable[[int], int], numbers: range, writing: int) -> None:
    """Be the child: hold nothing that others wait for, and say a byte for each result."""
    try:
        os.dup2(writing, 3)
        os.closerange(4, 1 << 16)
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.chdir("/")
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in numbers:
            try:
                result = work(number)
            except OSError as error:
                result = error.errno or 1
            os.write(3, bytes([min(result, 254)]))
    finally:
        os.kill(os.getpid(), signal.SIGKILL)  # without what Python does at its end
