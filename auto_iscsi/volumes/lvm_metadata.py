"""Read the LVM2 metadata of physical volumes, and trust none of it.

A physical volume has a label in one of its first four sectors, which leads to metadata areas. Each
holds the description of the whole volume group as text, once in each of its physical volumes
(LVM2 lib/format_text/layout.h, lib/label/label.c; lvm2's format is documented in man 8 pvck). No
program of LVM's is run: with a copy of a volume group that is active on this host, some of them
change the original.

What is read here becomes device-mapper tables that the kernel gets from root. So every number is
checked: a table names only sectors that are inside the physical volume.
"""

from __future__ import annotations

import binascii
import re
import struct

from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.volumes.lvm_text import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Callable

SECTOR = 512  # bytes
_LABEL = b"LABELONE"
_TYPE = b"LVM2 001"
_MAGIC = b" LVM2 x[5A%r0N*>"
_CRC_START = 0xF597A6CF  # LVM2 lib/misc/crc.h, INITIAL_CRC
_LABEL_SECTORS = 4
_AREA_HEADER = 512  # bytes; where a metadata area's text may begin
_LARGEST_TEXT = 16 << 20  # bytes; LVM's own limit is the metadata area's size, 1 MiB by default
_MOST_AREAS = 16

if TYPE_CHECKING:
    Read = Callable[[int, int], bytes]  #: offset and size in bytes → bytes


class PhysicalVolume(NamedTuple):
    """What the label of a physical volume says."""

    uuid: str  #: 32 characters, without hyphens
    text: str  #: the newest description of its volume group; "": it holds none


def read_label(read: Read) -> PhysicalVolume | None:
    """Return what a device's label says, None when it is no physical volume; raise Malformed."""
    for sector in range(_LABEL_SECTORS):
        block = read(sector * SECTOR, SECTOR)
        if len(block) == SECTOR and block[:8] == _LABEL and block[24:32] == _TYPE:
            number, crc, offset = struct.unpack_from("<QII", block, 8)
            if number != sector or crc != _crc(block[20:]):
                raise Malformed("the label's checksum is wrong")
            return _read_header(read, block, offset)
    return None


def _read_header(read: Read, block: bytes, offset: int) -> PhysicalVolume:
    """Return the physical volume whose header is at `offset` in its label's sector."""
    if not 32 <= offset <= SECTOR - 40:
        raise Malformed("the header is outside the label's sector")
    uuid = block[offset : offset + 32].decode("ascii", "replace")
    at = offset + 40
    at = _skip_areas(block, at)  # the data areas
    newest: tuple[int, str] = (-1, "")
    for start, size in _areas(block, at):
        text = _read_area(read, start, size)
        seqno = re.search(r"^[ \t]*seqno[ \t]*=[ \t]*(\d{1,10})[ \t]*(?:#.*)?$", text, re.M)
        newest = max(newest, (int(seqno[1]) if seqno else -1, text))
    return PhysicalVolume(uuid, newest[1])


def _areas(block: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield offset and size, in bytes, of the areas in a list that ends with zeros."""
    for _ in range(_MOST_AREAS):
        if at + 16 > len(block):
            raise Malformed("a list of areas has no end")
        start, size = struct.unpack_from("<QQ", block, at)
        if not start:
            return
        yield start, size
        at += 16
    raise Malformed("too many areas")


def _skip_areas(block: bytes, at: int) -> int:
    return at + 16 * (sum(1 for _ in _areas(block, at)) + 1)


def _read_area(read: Read, start: int, size: int) -> str:
    """Return the text in a metadata area, "" where it holds none; raise Malformed."""
    header = read(start, _AREA_HEADER)
    if len(header) < _AREA_HEADER or header[4:20] != _MAGIC:
        raise Malformed("a metadata area has no header")
    crc, version, its_start, its_size = struct.unpack_from("<I16xIQQ", header)
    if crc != _crc(header[4:]) or version != 1 or (its_start, its_size) != (start, size):
        raise Malformed("the header of a metadata area is wrong")
    offset, length, checksum, flags = struct.unpack_from("<QQII", header, 40)
    if not offset or flags & 1:  # RAW_LOCN_IGNORED
        return ""
    if not (_AREA_HEADER <= offset < size and length <= min(size - _AREA_HEADER, _LARGEST_TEXT)):
        raise Malformed("the text is outside its metadata area")
    first = min(length, size - offset)
    text = read(start + offset, first)
    if first < length:  # the area is a ring
        text += read(start + _AREA_HEADER, length - first)
    if len(text) != length or _crc(text) != checksum:
        raise Malformed("the checksum of the text is wrong")
    return text.rstrip(b"\0").decode("utf-8", "replace")


def _crc(data: bytes) -> int:
    """Return LVM's checksum: CRC-32 with another start, and without the last inversion."""
    return binascii.crc32(data, _CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
