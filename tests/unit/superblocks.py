"""Superblocks and logs of ext, btrfs and XFS, made byte by byte for the tests."""

from __future__ import annotations

import struct

BLOCKS = 64  # of 512 bytes, in the log of an XFS
START = 4  # the first block of the log, in filesystem blocks of 4096 bytes


def ext(incompatible: int) -> bytes:
    block = bytearray(1024)
    block[56:58] = b"\x53\xef"
    struct.pack_into("<I", block, 0x60, incompatible)
    return bytes(1024) + bytes(block)


def btrfs(log_root: int) -> bytes:
    block = bytearray(4096)
    block[64:72] = b"_BHRfS_M"
    struct.pack_into("<Q", block, 0x60, log_root)
    return bytes(64 << 10) + bytes(block)


def record(cycle: int, data: int, count: int, flags: int, buffer: int = 32 << 10) -> list[bytes]:
    """Return the blocks of a record of the log: its header and its data."""
    header = bytearray(512)
    struct.pack_into(">IIII", header, 0, 0xFEEDBABE, cycle, 2, data * 512)
    struct.pack_into(">I", header, 40, count)
    struct.pack_into(">I", header, 320, buffer)
    further = [struct.pack(">I", cycle).ljust(512, b"\0")] * (max(1, buffer >> 15) - 1)
    first = bytearray(struct.pack(">I", cycle).ljust(512, b"\0"))
    first[9] = flags
    rest = [struct.pack(">I", cycle).ljust(512, b"\0")] * (data - 1)
    return [bytes(header), *further, bytes(first), *rest]


def xfs(log: list[bytes], before: int = 0, start: int = START) -> bytes:
    """Return an XFS whose log begins with these blocks; the rest is of the cycle `before`."""
    block = bytearray(4096)
    block[:4] = b"XFSB"
    struct.pack_into(">I", block, 4, 4096)
    struct.pack_into(">Q", block, 48, start)
    struct.pack_into(">I", block, 84, 1 << 10)
    struct.pack_into(">I", block, 96, BLOCKS // 8)
    block[124] = 10
    rest = [struct.pack(">I", before).ljust(512, b"\0")] * (BLOCKS - len(log))
    return bytes(block).ljust(START * 4096, b"\0") + b"".join([*log, *rest])
