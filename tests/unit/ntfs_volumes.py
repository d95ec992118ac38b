"""Make the parts of an NTFS that say whether its log is in use."""

from __future__ import annotations

import struct

CLUSTER, RECORD = 4096, 1024
TABLE, LOG = 4, 16  # clusters
USED, CLEAN = (0, 0), (0xFFFF, 0)


def protected(block: bytearray, at: int) -> bytes:
    """Return a record with an update sequence at an offset (ntfs_fix_pre_write)."""
    struct.pack_into("<HH", block, 4, at, len(block) // 512 + 1)
    struct.pack_into("<H", block, at, 7)
    for index in range(1, len(block) // 512 + 1):
        end = index * 512
        block[at + 2 * index : at + 2 * index + 2] = block[end - 2 : end]
        struct.pack_into("<H", block, end - 2, 7)
    return bytes(block)


def restart(number: int, client: int, flags: int) -> bytes:
    """Return a restart page of the log."""
    page = bytearray(4096)
    page[:4] = b"RSTR"
    struct.pack_into("<IIH", page, 16, 4096, 4096, 0x30)
    struct.pack_into("<QHHHH", page, 0x30, number, 1, 0xFFFF, client, flags)
    return protected(page, 0x1E)


def ntfs(*pages: bytes, name: int = 0) -> bytearray:
    """Return an NTFS with these pages at the start of its log."""
    image = bytearray((LOG + 4) * CLUSTER)
    image[3:11] = b"NTFS    "
    struct.pack_into("<HB", image, 11, 512, CLUSTER // 512)
    struct.pack_into("<Q", image, 48, TABLE)
    image[64] = 256 - 10  # 1 << 10 bytes
    record = bytearray(RECORD)
    record[:4] = b"FILE"
    struct.pack_into("<H", record, 20, 56)
    struct.pack_into("<II", record, 56, 0x10, 24)
    struct.pack_into("<IIBB", record, 80, 0x80, 72, 1, name)
    struct.pack_into("<H", record, 80 + 32, 64)
    record[144:147] = bytes([0x11, 4, LOG])
    struct.pack_into("<I", record, 152, 0xFFFFFFFF)
    place = TABLE * CLUSTER + 2 * RECORD
    image[place : place + RECORD] = protected(record, 48)
    log = b"".join(pages).ljust(4 * CLUSTER, b"\xff")
    image[LOG * CLUSTER :] = log
    return image
