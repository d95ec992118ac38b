"""Read from a filesystem's own blocks whether its journal has to be replayed.

A filesystem that was in use when it was copied says so:
- ext2, ext3, ext4: the feature needs_recovery (Documentation/filesystems/ext4/super.rst,
  s_feature_incompat),
- btrfs: a log tree (fs/btrfs, btrfs_super_block.log_root),
- XFS: the log does not end with an unmount record (fs/xfs/xfs_log_recover.c, xlog_find_head and
  xlog_check_unmount_rec),
- NTFS: ntfs_log.
The kernel decides all the same: on a read-only disk it mounts none of these when the journal has to
be replayed.
"""

from __future__ import annotations

import os
import struct

from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import mount_options, ntfs_log

if TYPE_CHECKING:
    from typing import Callable

    Read = Callable[[int, int], bytes]  #: takes offset and size in bytes; returns less at the end

_BLOCK = 512  # bytes; the unit of the XFS log, whatever the disk's block size
_RECORD_MAGIC = 0xFEEDBABE
_UNMOUNT = 0x20  # the flag of an operation: the filesystem was unmounted
_HEADER_SPAN = 32 << 10  # bytes of a record that one header block describes
_SEARCHED = 1 << 10  # blocks in which the last record has to begin; a log buffer has 256 KiB


def is_dirty(family: str, read: Read) -> bool | None:
    """Tell whether the journal has to be replayed; None: unknown, or the type has no journal."""
    examine = {
        "ext": _is_ext_dirty,
        "btrfs": _is_btrfs_dirty,
        "xfs": _is_xfs_dirty,
        **dict.fromkeys(mount_options.NTFS, ntfs_log.is_dirty),
    }.get(family)
    try:
        return examine(read) if examine else None
    except (struct.error, IndexError):  # it is shorter than its own numbers say
        return None


def is_node_dirty(host: Host, family: str, node: str) -> bool | None:
    """Tell whether the journal on a device (/dev/NODE) has to be replayed, None for unknown."""
    try:
        handle = os.open(host.path(f"/dev/{node}"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return is_dirty(family, lambda offset, size: os.pread(handle, size, offset))
    except (OSError, ArithmeticError, ValueError):  # numbers that no mkfs writes
        return None
    finally:
        os.close(handle)


def recognise(read: Read) -> tuple[str, bool | None]:
    """Return the type of what is on a device, "" for unknown, and whether its journal is dirty.

    This is for what has no device yet: libblkid, which udev asks about a device, knows more types.
    """
    try:
        fstype = _type(read)
        return fstype, is_dirty("ext" if fstype.startswith("ext") else fstype, read)
    except (OSError, ArithmeticError, ValueError):  # numbers that no mkfs writes
        return "", None


def _type(read: Read) -> str:
    """Return the type as libblkid names it (libblkid/src/superblocks)."""
    start = read(0, 4096)
    if start[:4] == b"XFSB":
        return "xfs"
    if start[:6] == b"LUKS\xba\xbe":
        return "crypto_LUKS"
    if start[4086:] in (b"SWAPSPACE2", b"SWAP-SPACE"):
        return "swap"
    if start[1080:1082] == b"\x53\xef":
        return _ext_type(start[1024:2048])
    return "btrfs" if read((64 << 10) + 64, 8) == b"_BHRfS_M" else ""


def _ext_type(block: bytes) -> str:
    """Return ext4 for a superblock with a feature that ext3 lacks (libblkid superblocks/ext.c)."""
    if len(block) < 1024:
        return ""
    compatible, incompatible, read_only = struct.unpack_from("<III", block, 0x5C)
    if incompatible & 0x8:  # a journal on a device of its own
        return "jbd"
    if incompatible & ~0x16 or read_only & ~0x7:
        return "ext4"
    return "ext3" if compatible & 0x4 else "ext2"


def _is_ext_dirty(read: Read) -> bool | None:
    block = read(1024, 1024)
    if block[56:58] != b"\x53\xef":
        return None
    return bool(struct.unpack_from("<I", block, 0x60)[0] & 0x4)


def _is_btrfs_dirty(read: Read) -> bool | None:
    block = read(64 << 10, 4096)
    if block[64:72] != b"_BHRfS_M":
        return None
    return bool(struct.unpack_from("<Q", block, 0x60)[0])


def _is_xfs_dirty(read: Read) -> bool | None:
    block = read(0, 512)
    if block[:4] != b"XFSB":
        return None
    block_size = struct.unpack_from(">I", block, 4)[0]
    log_start = struct.unpack_from(">Q", block, 48)[0]
    group_blocks, log_blocks = struct.unpack_from(">I8xI", block, 84)
    group_bits = block[124]
    if not log_start:  # the log is on a device of its own
        return None
    group, within = log_start >> group_bits, log_start & (1 << group_bits) - 1
    offset = (group * group_blocks + within) * block_size
    return _XfsLog(read, offset, log_blocks * block_size // _BLOCK).is_dirty()


class _XfsLog:
    """The log of an XFS: a ring of blocks, where each block has the number of its cycle."""

    def __init__(self, read: Read, offset: int, blocks: int) -> None:
        self._read_bytes, self._offset, self._blocks = read, offset, blocks

    def is_dirty(self) -> bool | None:
        """Tell whether the last record is anything but a lone unmount record."""
        head = self._find_head()
        start, header = self._find_last_record(head)
        if header is None:
            return None
        version, length = struct.unpack_from(">II", header, 8)
        operations = struct.unpack_from(">I", header, 40)[0]
        buffer = struct.unpack_from(">I", header, 320)[0]
        headers = -(-buffer // _HEADER_SPAN) if version & 2 and buffer > _HEADER_SPAN else 1
        end = (start + headers + -(-length // _BLOCK)) % self._blocks
        flags = self._read(start + headers)[9]  # of the first operation
        is_clean = operations == 1 and bool(flags & _UNMOUNT) and end == head % self._blocks
        return not is_clean

    def _read(self, block: int) -> bytes:
        return self._read_bytes(self._offset + block % self._blocks * _BLOCK, _BLOCK)

    def _cycle(self, block: int) -> int:
        """Return the number of a block's cycle, which follows the magic number in a header."""
        first, second = struct.unpack_from(">II", self._read(block))
        return int(second if first == _RECORD_MAGIC else first)

    def _find_head(self) -> int:
        """Return the block that is written next: the first one of the previous cycle, or unused."""
        first, last = self._cycle(0), self._cycle(self._blocks - 1)
        if first == last:
            return self._blocks
        low, high = 0, self._blocks - 1  # the cycle of `low` is the newest, that of `high` is not
        while high - low > 1:
            middle = (low + high) // 2
            if self._cycle(middle) == first:
                low = middle
            else:
                high = middle
        return high

    def _find_last_record(self, head: int) -> tuple[int, bytes | None]:
        """Return the first block's number and content of the last record before `head`."""
        for back in range(1, min(_SEARCHED, self._blocks) + 1):
            block = self._read(head - back)
            if block[:4] == struct.pack(">I", _RECORD_MAGIC):
                return (head - back) % self._blocks, block
        return 0, None
