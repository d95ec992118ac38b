"""Add partitions to those that the kernel has of a disk, or delete some (linux/blkpg.h, BLKPG).

The disk is neither read nor written. The kernel refuses to delete a partition that anybody has
open, and to add one that overlaps another or lies outside the disk (block/partitions/core.c).
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import struct
import time

from auto_iscsi.disks.scsi_disks import Extent
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLKPG, _ADD, _DELETE = 0x1269, 1, 2  # linux/fs.h, linux/blkpg.h
_PARTITION = "=qqi64s64s4x"  # struct blkpg_partition: start and length in bytes, number, two names
_ARGUMENT = "@iiiP"  # struct blkpg_ioctl_arg: operation, flags, length and address of the other
_SECTOR = 512  # bytes
_BUSY_SECONDS = 2.0  # for which udev or a scan of LVM's can have a partition open
_STEP = 0.02  # seconds between two tries


def delete(host: Host, target: str, disk: str, numbers: Sequence[int], until: float) -> str:
    """Delete partitions of the disk /dev/DISK; return what the kernel refused, "" for nothing.

    Raise NoAnswer when that takes until `until`.
    """
    extents = [Extent(number, 0, 0) for number in numbers]
    return _run(host, target, disk, _DELETE, extents, until)


def add(host: Host, target: str, disk: str, extents: Sequence[Extent], until: float) -> str:
    """Add partitions of the disk /dev/DISK; return what the kernel refused, "" for nothing.

    Raise NoAnswer when that takes until `until`.
    """
    return _run(host, target, disk, _ADD, extents, until)


def _run(
    host: Host, target: str, disk: str, operation: int, extents: Sequence[Extent], until: float
) -> str:
    if not extents:
        return ""
    node = host.path(f"/dev/{disk}")
    error = bounded.run(lambda: _change(node, operation, extents), until, target)
    return os.strerror(error) if error else ""


def _change(node: str, operation: int, extents: Sequence[Extent]) -> int:
    """Add or delete partitions; return the errno of the first failure, 0 for none."""
    until = time.monotonic() + _BUSY_SECONDS
    handle = os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for extent in extents:
            error = _ask(handle, operation, extent)
            while error == errno.EBUSY and operation == _DELETE and time.monotonic() < until:
                time.sleep(_STEP)
                error = _ask(handle, operation, extent)
            if error and not (error == errno.ENXIO and operation == _DELETE):  # it is gone already
                return error
    finally:
        os.close(handle)
    return 0


def _ask(handle: int, operation: int, extent: Extent) -> int:
    """Add or delete one partition; return the errno, 0 for success."""
    place = (extent.start * _SECTOR, extent.size * _SECTOR, extent.part)
    partition = array.array("B", struct.pack(_PARTITION, *place, b"", b""))
    address, size = partition.buffer_info()
    try:
        fcntl.ioctl(handle, _BLKPG, struct.pack(_ARGUMENT, operation, 0, size, address))
    except OSError as error:
        return error.errno or errno.EIO
    return 0
