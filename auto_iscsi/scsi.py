"""What does a disk itself say of itself, now?

A command through SG_IO (include/scsi/sg.h), for what sysfs only has from the time when the kernel
found the disk. INQUIRY and REPORT LUNS are answered whatever else is amiss (SPC-5, 5.14).
"""

from __future__ import annotations

import fcntl
import os

from auto_iscsi.host import Host
from auto_iscsi.light import array, struct

_SG_IO = 0x2285
_HEADER = "iiBBHIPPPIIiPBBBBHHiII"  # struct sg_io_hdr
_FROM_DEVICE = -3
_TIME = 5000  # milliseconds, then the kernel's error handling begins
_LEAST = 255  # bytes asked of a page


def designators(page: bytes) -> bytes | None:
    """Return what page 0x83 says of the logical unit, None for nothing; not of port and path."""
    found, at = [], 4
    while at + 4 <= min(len(page), 4 + int.from_bytes(page[2:4], "big")):
        size = 4 + page[at + 3]
        if not page[at + 1] & 0x30:  # association: the logical unit
            found.append(page[at : at + size])
        at += size
    return b"".join(found) or None


def identity(host: Host, node: str, known: bytes) -> bytes | None:
    """Return what /dev/`node` says of its logical unit, None when it cannot be asked.

    `known` is what sysfs has as vpd_pg83.
    """
    length = max(len(known), _LEAST)
    page = ask(host, node, struct.pack(">BBBHB", 0x12, 1, 0x83, length, 0), length)
    return designators(page) if page else None


def luns(host: Host, node: str) -> set[int] | None:
    """Return the target's LUNs as the SAN counts them, None when /dev/`node` cannot be asked."""
    length = 8 + 8 * 1024
    page = ask(host, node, struct.pack(">B5xIxx", 0xA0, length), length)
    if not page:
        return None
    size = min(int.from_bytes(page[:4], "big"), length - 8)
    entries = [int.from_bytes(page[at : at + 2], "big") for at in range(8, 8 + size, 8)]
    # Peripheral or flat addressing (SAM-5, 4.7.7); the well-known units are no disks.
    return {entry & 0x3FFF for entry in entries if entry >> 14 in (0, 1)}


def ask(host: Host, node: str, command: bytes, length: int) -> bytes | None:
    """Return at most `length` bytes that a disk answers, None for no answer."""
    data, sense, block = array("B", bytes(length)), array("B", bytes(32)), array("B", command)
    header = struct.pack(
        _HEADER, ord("S"), _FROM_DEVICE, len(command), len(sense), 0, length,
        data.buffer_info()[0], block.buffer_info()[0], sense.buffer_info()[0],
        _TIME, *[0] * 12,
    )  # fmt: skip
    try:
        handle = os.open(host.path(f"/dev/{node}"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        done = struct.unpack(_HEADER, fcntl.ioctl(handle, _SG_IO, header))
    except OSError:  # not a SCSI disk, or none any more
        return None
    finally:
        os.close(handle)
    status, host_status, driver_status, left = done[13], done[17], done[18], done[19]
    if status or host_status or driver_status:
        return None
    return data.tobytes()[: length - left]
