"""Make disks with partition tables, as sfdisk writes them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

LINUX = bytes.fromhex("AF3DC60F838472478E793D69D8477DE4")


def mbr(entries: Sequence[tuple[int, int, int]]) -> bytes:
    """Return a sector with a table; an entry is type, first block and number of blocks."""
    sector = bytearray(512)
    for index, (kind, start, size) in enumerate(entries):
        struct.pack_into("<B3xB3xII", sector, 446 + 16 * index, 0, kind, start, size)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def put(disk: bytearray, block: int, at: int, data: bytes) -> None:
    """Write data into a disk from block `at` on."""
    disk[at * block : at * block + len(data)] = data


def gpt(parts: Mapping[int, tuple[int, int]], blocks: int = 4096, block: int = 512) -> bytearray:
    """Return a disk with a GPT of 128 entries; parts: first and last block by number."""
    disk = bytearray(blocks * block)
    put(disk, block, 0, mbr([(0xEE, 1, min(blocks - 1, 0xFFFFFFFF))]))
    entries = bytearray(128 * 128)
    for number, (first, last) in parts.items():
        entry = LINUX + bytes(16) + struct.pack("<QQ", first, last)
        entries[(number - 1) * 128 : (number - 1) * 128 + len(entry)] = entry
    span = len(entries) // block
    for at, other, where in ((1, blocks - 1, 2), (blocks - 1, 1, blocks - 1 - span)):
        put_gpt(disk, block, at, other, where, bytes(entries), (2 + span, blocks - 2 - span))
    return disk


def put_gpt(
    disk: bytearray,
    block: int,
    at: int,
    other: int,
    where: int,
    entries: bytes,
    usable: tuple[int, int],
    count: int = 128,
    size: int = 128,
) -> None:
    """Write a GPT's header into block `at`, and its entries from block `where` on."""
    header = struct.pack("<8sIIIIQQQQ16x", b"EFI PART", 0x10000, 92, 0, 0, at, other, *usable)
    header += struct.pack("<QIII", where, count, size, zlib.crc32(entries))
    header = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
    put(disk, block, at, header)
    put(disk, block, where, entries)
