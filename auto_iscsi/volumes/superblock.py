"""Was a filesystem in use when it was copied? Its own word for it.

ext2/3/4: the feature needs_recovery (Documentation/filesystems/ext4/super.rst, s_feature_incompat);
btrfs: a log tree (fs/btrfs, btrfs_super_block.log_root); XFS: the log does not end with an unmount
record (fs/xfs/xfs_log_recover.c, xlog_find_head, xlog_check_unmount_rec). The kernel has the last
word: with the disk read-only it mounts none of these without a replay that it cannot do.
"""

from __future__ import annotations

import struct
from typing import Callable

Read = Callable[[int, int], bytes]  #: offset and size in bytes; less at the end

_BLOCK = 512  # bytes; what the XFS log counts in, whatever the disk's block size
_RECORD = 0xFEEDBABE
_UNMOUNT = 0x20
_HEADER = 32 << 10  # bytes of a record that one header block covers
_FARTHEST = 1 << 10  # blocks to look back for the last record: a log buffer has 256 KiB


def is_dirty(family: str, read: Read) -> bool | None:
    """Say whether the journal has to be replayed; None: not known, or there is no such thing."""
    look = {"ext": _ext, "btrfs": _btrfs, "xfs": _xfs}.get(family)
    try:
        return look(read) if look else None
    except (struct.error, IndexError):  # shorter than it says
        return None


def _ext(read: Read) -> bool | None:
    block = read(1024, 1024)
    if block[56:58] != b"\x53\xef":
        return None
    return bool(struct.unpack_from("<I", block, 0x60)[0] & 0x4)


def _btrfs(read: Read) -> bool | None:
    block = read(64 << 10, 4096)
    if block[64:72] != b"_BHRfS_M":
        return None
    return bool(struct.unpack_from("<Q", block, 0x60)[0])


def _xfs(read: Read) -> bool | None:
    block = read(0, 512)
    if block[:4] != b"XFSB":
        return None
    size, start = struct.unpack_from(">I", block, 4)[0], struct.unpack_from(">Q", block, 48)[0]
    group, length = struct.unpack_from(">I", block, 84)[0], struct.unpack_from(">I", block, 96)[0]
    bits = block[124]
    if not start:  # the log is on a device of its own
        return None
    at = ((start >> bits) * group + (start & (1 << bits) - 1)) * size
    return _Log(read, at, length * size // _BLOCK).is_dirty()


class _Log:
    """The log of an XFS: a ring of blocks, each with the number of its round."""

    def __init__(self, read: Read, at: int, blocks: int) -> None:
        self._read, self._at, self._blocks = read, at, blocks

    def is_dirty(self) -> bool | None:
        head = self._head()
        start, blocks = self._last_record(head)
        if blocks is None:
            return None
        header = blocks[:_BLOCK]
        version, length = struct.unpack_from(">II", header, 8)
        count = struct.unpack_from(">I", header, 40)[0]
        buffer = struct.unpack_from(">I", header, 320)[0]
        headers = -(-buffer // _HEADER) if version & 2 and buffer > _HEADER else 1
        end = (start + headers + -(-length // _BLOCK)) % self._blocks
        operation = self._get(start + headers, 1)
        clean = count == 1 and bool(operation[9] & _UNMOUNT) and end == head % self._blocks
        return not clean

    def _get(self, block: int, count: int) -> bytes:
        return self._read(self._at + block % self._blocks * _BLOCK, count * _BLOCK)

    def _round(self, block: int) -> int:
        first, second = struct.unpack_from(">II", self._get(block, 1))
        return int(second if first == _RECORD else first)

    def _head(self) -> int:
        """Return the block that is written next: the first of the round before, or never used."""
        first, last = self._round(0), self._round(self._blocks - 1)
        if first == last:
            return self._blocks
        low, high = 0, self._blocks - 1  # of this round; not of it
        while high - low > 1:
            middle = (low + high) // 2
            if self._round(middle) == first:
                low = middle
            else:
                high = middle
        return high

    def _last_record(self, head: int) -> tuple[int, bytes | None]:
        """Return where the last record before `head` begins, and its first block."""
        for back in range(1, min(_FARTHEST, self._blocks) + 1):
            block = self._get(head - back, 1)
            if block[:4] == struct.pack(">I", _RECORD):
                return (head - back) % self._blocks, block
        return 0, None
