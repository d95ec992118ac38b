"""Read the superblock of a member of an md array, and trust none of it.

Sources: Linux include/uapi/linux/raid/md_p.h (the layout), drivers/md/md.c (super_90_load,
super_1_load: where it lies, its checksum, what is refused). The versions differ in the place:
0.90 and 1.0 lie at the end of the device, 1.1 at its start, 1.2 at 4 KiB. No mdadm runs: it takes a
member of a snapshot for one of the host's own array, which has the same UUID.

What is read here becomes a device-mapper table that the kernel gets from root. So the data of a
member that is returned always lies inside the device.
"""

from __future__ import annotations

import struct
from typing import Callable, NamedTuple

SECTOR = 512  # bytes
_MAGIC = 0xA92B4EFC
_OLD_SIZE = 4096  # bytes of a superblock of version 0.90
_OLD_ALIGN = 128  # sectors: it lies in the last whole 64 KiB but one (MD_RESERVED_SECTORS)
_OLD_DISKS, _OLD_DISK, _OLD_MOST = 512, 128, 27  # bytes; bytes; MD_SB_DISKS
_OLD_THIS = _OLD_SIZE - _OLD_DISK  # where the member is described itself
_OLD_RESHAPED = 91  # the minor version while an array is reshaped
_OLD_FAULTY, _OLD_SYNC, _OLD_REMOVED = 1, 4, 8  # bits of a disk's state
_HEADER = 256  # bytes of a superblock of version 1.x, before the roles
_MOST_ROLES = (_OLD_SIZE - _HEADER) // 2
_PLACES_1 = (("1.0", None), ("1.1", 0), ("1.2", 8))  # sectors; None: near the end
# Bits of feature_map:
_RECOVERING, _RESHAPED, _BAD_BLOCKS, _NEW_OFFSET, _JOURNAL = 2, 4, 8, 64, 512
_KNOWN_FEATURES = 0x1FFF  # MD_FEATURE_ALL
_SPARE, _FAULTY, _JOURNAL_ROLE = 0xFFFF, 0xFFFE, 0xFFFD
_MOST_BAD = 8  # sectors of a list of bad blocks; md takes one page
_LEVELS = {-1: "linear", -4: "multipath", -5: "faulty"}

Read = Callable[[int, int], bytes]  #: offset and size in bytes → bytes


class Malformed(ValueError):
    """The superblock is not what md writes."""


class Member(NamedTuple):
    """What the superblock of a member says. Its values are ones that marshal can write."""

    version: str  #: 0.90, 1.0, 1.1, 1.2
    array: str  #: the array's UUID, 32 hexadecimal digits
    level: int
    raid_disks: int
    events: int  #: grows with each change of the array's state
    device: str  #: which member it is: its own UUID, or its number in version 0.90
    role: int  #: its place in the array
    offset: int  #: sectors; where its data begin
    size: int  #: sectors of the array's data on it
    roles: tuple[int, ...]  #: the place of each device in the array, by its number
    why: str = ""  #: why it alone does not show the array's data: "is a spare disk"; "": it does

    @property
    def level_name(self) -> str:
        """The level in the words of mdadm."""
        return _LEVELS.get(self.level, f"raid{self.level}")


def read_member(read: Read, sectors: int) -> Member | None:
    """Return what a device of this size says, None when it is no member; raise Malformed.

    A device with superblocks of two versions is Malformed: nothing tells which one is left over.
    """
    members = []
    old = _read_old(read, sectors)
    members += [old] if old else []
    for version, place in _PLACES_1:
        start = (sectors - 16) // 8 * 8 if place is None else place
        member = _read_new(read, sectors, version, start)
        members += [member] if member else []
    if len(members) > 1:
        versions = " and ".join(member.version for member in members)
        raise Malformed(f"it has superblocks of the versions {versions}")
    return members[0] if members else None


def _read_old(read: Read, sectors: int) -> Member | None:
    """Return the member whose superblock has version 0.90, in either byte order."""
    start = sectors // _OLD_ALIGN * _OLD_ALIGN - _OLD_ALIGN
    block = read(start * SECTOR, _OLD_SIZE) if start > 0 else b""
    if len(block) != _OLD_SIZE:
        return None
    order = next((o for o in "<>" if struct.unpack_from(f"{o}I", block)[0] == _MAGIC), "")
    if not order:
        return None
    words = struct.unpack(f"{order}1024I", block)
    if words[1] != 0 or words[2] not in (90, _OLD_RESHAPED):
        raise Malformed(f"version {words[1]}.{words[2]} of md is unknown")
    if words[38] != _folded(sum(words) - words[38]):
        raise Malformed("the checksum of its superblock is wrong")
    number = words[_OLD_THIS // 4]
    if number >= _OLD_MOST:
        raise Malformed("it is none of the array's disks")
    disks = [
        struct.unpack_from(f"{order}5I", block, _OLD_DISKS + _OLD_DISK * index)
        for index in range(_OLD_MOST)
    ]
    roles = tuple(_old_role(place, state) for _, _, _, place, state in disks)
    low, high = (39, 40) if order == "<" else (40, 39)
    member = Member(
        "0.90",
        "".join(f"{words[index]:08x}" for index in (5, 13, 14, 15)),
        _signed(words[7]),
        words[10],
        words[high] << 32 | words[low],
        f"{number}",
        roles[number],
        0,
        words[8] * 2,  # KiB
        roles,
    )
    return _checked(member, start, words[2] == _OLD_RESHAPED, 0)


def _old_role(place: int, state: int) -> int:
    """Return a disk's role as version 1.x writes it: one that is rebuilt is not in sync."""
    if state & (_OLD_FAULTY | _OLD_REMOVED):
        return _FAULTY
    return place if state & _OLD_SYNC and place < _JOURNAL_ROLE else _SPARE


def _read_new(read: Read, sectors: int, version: str, start: int) -> Member | None:
    """Return the member whose superblock has version 1.x and begins at a sector."""
    block = _read_block(read, start)
    if block is None:
        return None
    features = struct.unpack_from("<I", block, 8)[0]
    level, _, size, _, raid_disks = struct.unpack_from("<iIQII", block, 72)
    offset, data_size = struct.unpack_from("<QQ", block, 128)
    number = struct.unpack_from("<I", block, 160)[0]
    roles = struct.unpack_from(f"<{(len(block) - _HEADER) // 2}H", block, _HEADER)
    if level == 1 and size > data_size:
        raise Malformed("its data are larger than the room for them")
    if level == 1 and version != "1.0" and offset * SECTOR < start * SECTOR + len(block):
        raise Malformed("its data lie over its superblock")
    if level == 1 and features & _BAD_BLOCKS and not _bad_blocks(read, block, start):
        features &= ~_BAD_BLOCKS
    member = Member(
        version,
        block[16:32].hex(),
        level,
        raid_disks,
        struct.unpack_from("<Q", block, 200)[0],
        block[168:184].hex(),
        roles[number] if number < len(roles) else _SPARE,
        offset,
        size,
        roles,
    )
    end = start if version == "1.0" else sectors
    return _checked(member, end, bool(features & (_RESHAPED | _NEW_OFFSET)), features)


def _read_block(read: Read, start: int) -> bytes | None:
    """Return the superblock of version 1.x at a sector, None for none; raise Malformed."""
    header = read(start * SECTOR, _HEADER) if start >= 0 else b""
    if len(header) != _HEADER or struct.unpack_from("<II", header) != (_MAGIC, 1):
        return None
    (super_offset,) = struct.unpack_from("<Q", header, 144)
    if super_offset != start:  # that of a larger or a smaller device, which began elsewhere
        return None
    checksum, count = struct.unpack_from("<II", header, 216)
    if count > _MOST_ROLES:
        raise Malformed("its superblock has too many roles")
    block = read(start * SECTOR, _HEADER + 2 * count)
    if len(block) != _HEADER + 2 * count:
        raise Malformed("its superblock is cut off")
    padded = block + bytes(len(block) % 4)
    total = sum(struct.unpack(f"<{len(padded) // 4}I", padded))
    if checksum != _folded(total - checksum):
        raise Malformed("the checksum of its superblock is wrong")
    return block


def _bad_blocks(read: Read, block: bytes, start: int) -> int:
    """Return how many ranges of a member are listed as bad: only other members have these data."""
    count, place = struct.unpack_from("<Hi", block, 186)
    if count > _MOST_BAD or start + place < 0:
        raise Malformed("its list of bad blocks has a wrong place")
    entries = read((start + place) * SECTOR, count * SECTOR)
    if len(entries) != count * SECTOR:
        raise Malformed("its list of bad blocks is outside the device")
    number = 0
    for (entry,) in struct.iter_unpack("<Q", entries):
        if entry == 0xFFFFFFFFFFFFFFFF:
            break
        number += bool(entry & 0x3FF)  # the length of the range
    return number


def _checked(member: Member, end: int, is_reshaped: bool, features: int) -> Member:
    """Return a member, with the reason if it alone cannot show the data; raise Malformed.

    end: the sector before which the data must end. This is not checked for levels other than raid1.
    """
    if member.level != 1:
        why = f"is a member of a {member.level_name} array, which one disk alone cannot show"
        return member._replace(why=why)
    why = ""
    if member.role == _JOURNAL_ROLE or features & _JOURNAL:
        why = "is the journal of an array"
    elif is_reshaped:
        why = "is a member of an array that was being reshaped"
    elif features & ~_KNOWN_FEATURES:
        why = f"has features that are unknown here ({features & ~_KNOWN_FEATURES:#x})"
    elif member.role == _FAULTY:
        why = "is a failed disk of its array"
    elif member.role >= member.raid_disks:
        why = "is a spare disk of its array, or was being rebuilt"
    elif features & _RECOVERING:
        why = "was being rebuilt"
    elif features & _BAD_BLOCKS:
        why = "lists bad blocks, whose data only another disk of its array has"
    if why:
        return member._replace(why=why)
    if member.size <= 0 or member.offset + member.size > end:
        raise Malformed("its data lie outside the device")
    return member


def _folded(total: int) -> int:
    """Return md's checksum of a sum of 32-bit words (calc_sb_1_csum)."""
    return ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word
