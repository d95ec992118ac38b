"""Read from an NTFS whether its log has changes that Linux would not show.

Windows writes each change of a directory or file record to $LogFile first. Mounted with `ro`, ntfs3
does not replay that log (Linux fs/ntfs3/fslog.c, log_replay: is_ro), and ntfs-3g never does: both
show the disk as it is. Neither looks at hiberfil.sys with `ro`; a Windows that is hibernated, or
was shut down with fast startup, still has the volume mounted, which the log says as well.

Sources: ntfs-3g include/ntfs-3g/layout.h and logfile.h, libntfs-3g/logfile.c
(ntfs_is_logfile_clean).
"""

from __future__ import annotations

import struct

from auto_iscsi.lean_stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Callable

    Read = Callable[[int, int], bytes]  #: offset and size in bytes → bytes

_LOG_RECORD = 2  # the number of $LogFile in the master file table
_DATA, _END = 0x80, 0xFFFFFFFF  # types of attributes
_SECTOR = 512  # bytes that each have a sequence number at their end
_LARGEST = 64 << 10  # bytes of a cluster and of a file record that are believed
_NO_CLIENT, _CLEAN = 0xFFFF, 2  # of a restart area


def is_dirty(read: Read) -> bool | None:
    """Tell whether the log of an NTFS was in use; None where that cannot be read.

    Raise struct.error or IndexError where the NTFS is shorter than its own numbers say.
    """
    boot = read(0, _SECTOR)
    if boot[3:11] != b"NTFS    ":
        return None
    cluster = struct.unpack_from("<H", boot, 11)[0] * _size(boot[13])
    record = _size(boot[64]) * (cluster if boot[64] < 0x80 else 1)
    if not (0 < cluster <= _LARGEST * 32 and _SECTOR <= record <= _LARGEST):
        return None
    table = struct.unpack_from("<Q", boot, 48)[0] * cluster
    start = _first_cluster(_without_fixups(read(table + _LOG_RECORD * record, record), b"FILE"))
    if start is None:
        return None
    pages = [_restart_area(read, start * cluster)]
    pages.append(_restart_area(read, start * cluster + (pages[0][2] if pages[0] else 4096)))
    areas = [page for page in pages if page]
    if not areas:  # mkntfs and chkdsk leave an empty log
        return False
    return max(areas)[1]


def _size(byte: int) -> int:
    """Return the size that a byte of the boot sector means.

    Below 128 it is the size itself, else 2 to the power of (256 - byte).
    """
    return byte if byte < 0x80 else 1 << min(256 - byte, 32)


def _without_fixups(block: bytes, magic: bytes) -> bytes:
    """Return a record with the bytes put back that its update sequence keeps.

    b"" if the record is wrong.
    """
    if block[:4] != magic:
        return b""
    at, count = struct.unpack_from("<HH", block, 4)
    mended, number = bytearray(block), block[at : at + 2]
    for index in range(1, count):
        end = index * _SECTOR
        if end > len(block) or block[end - 2 : end] != number:
            return b""
        mended[end - 2 : end] = block[at + 2 * index : at + 2 * index + 2]
    return bytes(mended)


def _first_cluster(record: bytes) -> int | None:
    """Return the first cluster of the data that a file record describes, None for none."""
    at = struct.unpack_from("<H", record, 20)[0] if record else 0
    while record:
        kind, length = struct.unpack_from("<II", record, at)
        if kind == _END or length < 24:
            return None
        if kind == _DATA and record[at + 8] and not record[at + 9]:  # not resident, no name
            runs = at + struct.unpack_from("<H", record, at + 32)[0]
            sizes = record[runs]
            place = runs + 1 + (sizes & 0xF)
            cluster = int.from_bytes(record[place : place + (sizes >> 4)], "little", signed=True)
            return cluster if cluster > 0 else None
        at += length
    return None


def _restart_area(read: Read, start: int) -> tuple[int, bool, int] | None:
    """Return sequence number, whether the volume is in use, and page size of a restart page."""
    page = _without_fixups(read(start, 4096), b"RSTR")
    if not page:
        return None
    size = struct.unpack_from("<I", page, 16)[0]
    area = struct.unpack_from("<H", page, 24)[0]
    newest, _, _, client, flags = struct.unpack_from("<QHHHH", page, area)
    is_used = client != _NO_CLIENT and not flags & _CLEAN
    return newest, is_used, size if size <= _LARGEST else 4096
