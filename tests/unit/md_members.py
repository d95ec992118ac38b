"""Make members of md arrays: their superblocks, and nothing of their data."""

from __future__ import annotations

import struct
from collections.abc import Sequence

SECTORS = 2048  # of each member
PLACES = {"0.90": 1920, "1.0": 2032, "1.1": 0, "1.2": 8}  # sectors; with SECTORS
OFFSETS = {"0.90": 0, "1.0": 0, "1.1": 128, "1.2": 128}
SIZE = 1024  # sectors of data
ARRAY = bytes(range(16))


def summed(block: bytes, place: int) -> bytes:
    """Return a superblock with its checksum, as md sums it up, at an offset in bytes."""
    words = struct.unpack(f"<{len(block) // 4}I", block[: len(block) // 4 * 4])
    total = sum(words) - struct.unpack_from("<I", block, place)[0]
    total += sum(block[len(block) // 4 * 4 :: 2]) + (sum(block[len(block) // 4 * 4 + 1 :: 2]) << 8)
    folded = ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF
    return block[:place] + struct.pack("<I", folded) + block[place + 4 :]


def superblock(
    version: str = "1.2",
    *,
    array: bytes = ARRAY,
    level: int = 1,
    number: int = 0,
    events: int = 20,
    roles: Sequence[int] = (0, 1),
    features: int = 0,
    offset: int | None = None,
    size: int = SIZE,
    room: int | None = None,
    bad: tuple[int, int] = (0, 0),
) -> bytes:
    """Return a superblock of version 1.x; `bad`: size and relative place of its bad block list."""
    block = bytearray(256)
    struct.pack_into("<III", block, 0, 0xA92B4EFC, 1, features)
    block[16:32] = array
    block[32:40] = b"vm:array"
    struct.pack_into("<iIQII", block, 72, level, 0, size, 0, 2)
    offset = OFFSETS[version] if offset is None else offset
    room = size if room is None else room
    struct.pack_into("<QQQ", block, 128, offset, room, PLACES[version])
    struct.pack_into("<I", block, 160, number)
    block[168:184] = bytes([number + 1] * 16)
    struct.pack_into("<Hi", block, 186, *bad)
    struct.pack_into("<Q", block, 200, events)
    struct.pack_into("<I", block, 220, len(roles))
    return summed(bytes(block) + struct.pack(f"<{len(roles)}H", *roles), 216)


def old_superblock(
    *,
    level: int = 1,
    number: int = 0,
    events: int = 20,
    minor: int = 90,
    size: int = SIZE,
    states: Sequence[int] = (6, 6),
) -> bytes:
    """Return a superblock of version 0.90; the states of its disks are those of md_p.h."""
    words = [0] * 1024
    words[:14] = [0xA92B4EFC, 0, minor, 0, 0, 1, 0, level & 0xFFFFFFFF, size // 2, 2, 2, 0, 0, 2]
    words[14:16] = [3, 4]
    words[39] = events
    for index, state in enumerate(states):
        words[128 + 32 * index : 133 + 32 * index] = [index, 8, 16 * index, index, state]
    words[992] = number
    return summed(struct.pack("<1024I", *words), 152)


def member(version: str = "1.2", block: bytes | None = None) -> bytearray:
    """Return a whole member with a superblock of a version."""
    made = old_superblock() if version == "0.90" else superblock(version)
    block = made if block is None else block
    disk = bytearray(SECTORS * 512)
    disk[PLACES[version] * 512 : PLACES[version] * 512 + len(block)] = block
    return disk
