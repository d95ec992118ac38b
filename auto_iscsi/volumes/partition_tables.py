"""Read a disk's GPT or MBR partition table, and trust none of it.

A partition's node can be missing in the kernel: volumes/hidden_partitions deletes some, and the
kernel makes none for a GPT whose first header is broken. The numbers and the order of logical
partitions are the kernel's (block/partitions/efi.c and msdos.c; UEFI 2.10, chapter 5). BSD labels
and the like within a partition are not read: the kernel numbers those after all others.

What is read here becomes device-mapper tables that the kernel gets from root. So a partition that
is not wholly on the disk, or that overlaps another one, is left out.
"""

from __future__ import annotations

import binascii
import os
import struct

from auto_iscsi import errors
from auto_iscsi.disks.scsi_disks import Device, Extent
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Callable

    Read = Callable[[int, int], bytes]  #: offset and size in bytes → bytes, fewer at the end

SECTOR = 512  #: bytes; the unit of a Partition, whatever the disk's block size
_BLOCK_SIZES = (512, 1024, 2048, 4096)  # bytes
_LAST_NUMBER = 255  # block/genhd.c, DISK_MAX_PARTS
_MBR_ENTRIES, _MBR_END = 446, 510  # bytes
_PROTECTIVE = 0xEE
_EXTENDED = (0x05, 0x0F, 0x85)
_MAGIC = b"EFI PART"
_HEADER, _ENTRY = 92, 128  # bytes; the kernel takes no other size of an entry
_MOST_ENTRIES = 4096
_UNUSED = bytes(16)


class Malformed(ValueError):
    """The disk has no partition table that the kernel would take."""


class Partition(NamedTuple):
    """Where a partition lies."""

    number: int  #: as the kernel counts it
    start: int  #: sectors from the start of the disk
    size: int  #: sectors


class _Entry(NamedTuple):
    """An entry of an MBR or of a link in the chain of logical partitions."""

    kind: int  #: the type
    start: int  #: blocks, from what the table says
    size: int  #: blocks; 0: the entry is not used

    @property
    def is_extended(self) -> bool:
        return self.kind in _EXTENDED


class _Disk(NamedTuple):
    """A disk in blocks."""

    read: Read
    block: int  #: bytes
    blocks: int

    def get(self, first: int, size: int) -> bytes:
        """Return `size` bytes from block `first` on; raise Malformed when they are not there."""
        if first < 0 or first * self.block + size > self.blocks * self.block:
            raise Malformed("the table leads outside the disk")
        data = self.read(first * self.block, size)
        if len(data) != size:
            raise Malformed("the disk ends before its table")
        return data


def read(read: Read, size: int, block: int) -> list[Partition]:
    """Return a disk's partitions, without extended ones, by number; raise Malformed.

    size: the disk's, in bytes. block: its logical block size in bytes.
    """
    if block not in _BLOCK_SIZES or size < 2 * block:
        raise Malformed("the disk has no usable size")
    disk = _Disk(read, block, size // block)
    entries = list(_mbr_entries(disk.get(0, SECTOR)))
    if any(entry.kind == _PROTECTIVE for entry in entries):
        if not any(entry.kind == _PROTECTIVE and entry.start == 1 for entry in entries):
            raise Malformed("the MBR protects no GPT")
        partitions = list(_gpt(disk))
    else:
        partitions = list(_mbr(disk, entries))
    scale = block // SECTOR
    return [
        Partition(number, start * scale, count * scale)
        for number, start, count in sorted(_sound(partitions, disk.blocks))
    ]


def of_disk(host: Host, target: str, whole: Device, until: float) -> dict[int, Extent]:
    """Return the partitions that a disk's table describes, by number; raise NotMountable."""
    path = f"/sys/dev/block/{whole.number}"
    size = int(host.read(f"{path}/size") or 0) * SECTOR
    block = int(host.read(f"{path}/queue/logical_block_size") or SECTOR)
    node = host.path(f"/dev/{whole.node}")

    def look() -> list[tuple[int, int, int]] | str:
        try:
            handle = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
            try:
                table = read(lambda offset, length: os.pread(handle, length, offset), size, block)
            finally:
                os.close(handle)
        except (Malformed, OSError) as error:
            return str(error)
        return [(each.number, each.start, each.size) for each in table]

    answer = bounded.run(look, until, target)
    if isinstance(answer, str):
        raise errors.NotMountable(
            f"{target}: the partition table of {whole.node} cannot be read: {answer}"
        )
    return {number: Extent(number, start, length) for number, start, length in answer}


def _sound(partitions: Iterable[Partition], blocks: int) -> Iterator[Partition]:
    """Yield the partitions (in blocks) that are on the disk and overlap no other one."""
    inside = [
        each
        for each in partitions
        if 1 <= each.number <= _LAST_NUMBER
        and each.start >= 1
        and each.size >= 1
        and each.start + each.size <= blocks
    ]
    inside.sort(key=lambda each: each.start)
    end = 0  # of all partitions before this one
    for index, each in enumerate(inside):
        following = inside[index + 1].start if index + 1 < len(inside) else blocks
        if each.start >= end and each.start + each.size <= following:
            yield each
        end = max(end, each.start + each.size)


def _gpt(disk: _Disk) -> Iterator[Partition]:
    """Yield the partitions (in blocks) of a GPT, from its second copy where the first is broken."""
    try:
        entries = _gpt_entries(disk, 1)
    except Malformed:
        entries = _gpt_entries(disk, disk.blocks - 1)
    for index in range(min(len(entries) // _ENTRY, _LAST_NUMBER)):
        entry = entries[index * _ENTRY : (index + 1) * _ENTRY]
        first, last = struct.unpack_from("<QQ", entry, 32)
        if entry[:16] != _UNUSED and first <= last:
            yield Partition(index + 1, first, last - first + 1)


def _gpt_entries(disk: _Disk, at: int) -> bytes:
    """Return the entries that the header in block `at` describes; raise Malformed."""
    header = disk.get(at, disk.block)
    length, checksum = struct.unpack_from("<II", header, 12)
    if header[:8] != _MAGIC or not _HEADER <= length <= disk.block:
        raise Malformed("the GPT has no header")
    if binascii.crc32(header[:16] + bytes(4) + header[20:length]) != checksum:
        raise Malformed("the checksum of the GPT's header is wrong")
    (its_block,) = struct.unpack_from("<Q", header, 24)
    first, last = struct.unpack_from("<QQ", header, 40)
    where, count, entry_size, checksum = struct.unpack_from("<QIII", header, 72)
    if its_block != at or not first <= last < disk.blocks:
        raise Malformed("the GPT's header is of another disk")
    if entry_size != _ENTRY or not 1 <= count <= _MOST_ENTRIES:
        raise Malformed("the GPT has entries of a wrong size or number")
    entries = disk.get(where, count * _ENTRY)
    if binascii.crc32(entries) != checksum:
        raise Malformed("the checksum of the GPT's entries is wrong")
    return entries


def _mbr_entries(sector: bytes) -> Iterator[_Entry]:
    """Yield the four entries of a table; raise Malformed."""
    if sector[_MBR_END:SECTOR] != b"\x55\xaa":
        raise Malformed("the disk has no partition table")
    for at in range(_MBR_ENTRIES, _MBR_END, 16):
        kind = sector[at + 4]
        start, size = struct.unpack_from("<II", sector, at + 8)
        yield _Entry(kind, start, size)


def _mbr(disk: _Disk, entries: list[_Entry]) -> Iterator[Partition]:
    """Yield the partitions (in blocks) of an MBR: primary ones, and from 5 on the logical ones."""
    sector = disk.get(0, SECTOR)
    if any(sector[at] not in (0, 0x80) for at in range(_MBR_ENTRIES, _MBR_END, 16)):
        raise Malformed("the disk starts with a boot sector that is no partition table")
    number = len(entries) + 1
    for index, entry in enumerate(entries, 1):
        if entry.size and not entry.is_extended:
            yield Partition(index, entry.start, entry.size)
    for entry in entries:
        if entry.size and entry.is_extended:
            for start, size in _logical(disk, entry):
                yield Partition(number, start, size)
                number += 1


def _logical(disk: _Disk, extended: _Entry) -> Iterator[tuple[int, int]]:
    """Yield first block and number of blocks of each logical partition; raise Malformed.

    Each link of the chain has a partition, whose start is counted from the link, and the place of
    the next link, counted from the extended partition.
    """
    end = extended.start + extended.size
    at, visited = extended.start, set[int]()
    size = extended.size
    while at not in visited:
        visited.add(at)
        if not extended.start <= at < end or len(visited) > _LAST_NUMBER:
            raise Malformed("the chain of logical partitions leads outside the extended one")
        try:
            links = list(_mbr_entries(disk.get(at, SECTOR)))
        except Malformed:  # the kernel takes what comes before
            return
        for index, entry in enumerate(links):
            if not entry.size or entry.is_extended:
                continue
            start = at + entry.start
            is_inside = extended.start <= start and start + entry.size <= end
            if index >= 2 and (entry.start + entry.size > size or not is_inside):
                continue  # what some tools leave there: the kernel gives it no number either
            yield (start, entry.size) if is_inside else (0, 0)
        following = next((e for e in links if e.size and e.is_extended), None)
        if following is None:
            return
        at, size = extended.start + following.start, following.size
    raise Malformed("the chain of logical partitions is a loop")
