"""What does a disk itself say of itself, now?

For what sysfs only has from the time when the kernel found the disk. INQUIRY and REPORT LUNS are
answered whatever else is amiss (SPC-5, 5.14). A LUN that has just died does not answer, and who
waits for it in SG_IO cannot be interrupted. So the command is written to the disk's /dev/sgN, and
its answer read when there is one (include/scsi/sg.h, version 3); without that driver, SG_IO is
called in a process of its own.
"""

from __future__ import annotations

import os
import select
import struct
import time
from array import array

from auto_iscsi import errors
from auto_iscsi.machine.host import Host

_SG_IO = 0x2285
_HEADER = "iiBBHIPPPIIiPBBBBHHiII4x"  # struct sg_io_hdr
_FROM_DEVICE = -3
_TIME = 5.0  # seconds; then nobody waits any more
_LEAST = 255  # bytes asked of a page


def designators(page: bytes) -> bytes | None:
    """Return the designators of the logical unit in VPD page 0x83, None for none.

    Those of the port and of the target device do not identify the volume and are left out.
    """
    of_unit, at = [], 4
    while at + 4 <= min(len(page), 4 + int.from_bytes(page[2:4], "big")):
        size = 4 + page[at + 3]
        if not page[at + 1] & 0x30:  # association: the logical unit
            of_unit.append(page[at : at + size])
        at += size
    return b"".join(of_unit) or None


def identity(host: Host, node: str, known: bytes) -> bytes | None:
    """Return the designators that /dev/`node` gives for its logical unit, None for no answer.

    `known` is the page as sysfs has it (vpd_pg83): the answer can have that length.
    """
    length = max(len(known), _LEAST)
    page = send(host, node, struct.pack(">BBBHB", 0x12, 1, 0x83, length, 0), length)
    return designators(page) if page else None


def luns(host: Host, node: str) -> set[int] | None:
    """Return the LUNs that the target of /dev/`node` reports, None for no answer."""
    length = 8 + 8 * 1024
    page = send(host, node, struct.pack(">B5xIxx", 0xA0, length), length)
    if not page:
        return None
    size = min(int.from_bytes(page[:4], "big"), length - 8)
    entries = [int.from_bytes(page[at : at + 2], "big") for at in range(8, 8 + size, 8)]
    # Peripheral or flat space addressing (SAM-5, 4.7.7); well-known logical units are no disks.
    return {entry & 0x3FFF for entry in entries if entry >> 14 in (0, 1)}


def send(host: Host, node: str, command: bytes, length: int) -> bytes | None:
    """Return at most `length` bytes that a disk answers, None for no answer."""
    generic = host.names(f"/sys/block/{node}/device/scsi_generic")
    try:
        if generic:
            return _ask(host.path(f"/dev/{generic[0]}"), command, length)
        from auto_iscsi.machine import apart  # only on a machine without that driver

        until = time.monotonic() + _TIME
        answer = apart.do(lambda: _call(host.path(f"/dev/{node}"), command, length), until, node)
    except (OSError, errors.Failure):  # not a SCSI disk, none any more, or dead
        return None
    return None if answer is None else bytes(answer)


def _ask(path: str, command: bytes, length: int) -> bytes | None:
    header, data = _packed(command, length)
    handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(handle, header)
        if not select.select([handle], [], [], _TIME)[0]:
            return None
        return _answer(os.read(handle, len(header)), data)
    finally:
        os.close(handle)


def _call(path: str, command: bytes, length: int) -> bytes | None:
    import fcntl

    header, data = _packed(command, length)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return _answer(fcntl.ioctl(handle, _SG_IO, header), data)
    except OSError:
        return None


def _packed(command: bytes, length: int) -> tuple[bytes, list[array[int]]]:
    """Return a command as the kernel takes it, and the memory that it names; the first: data."""
    memory = [array("B", bytes(length)), array("B", command), array("B", bytes(32))]
    where = [each.buffer_info()[0] for each in memory]
    return struct.pack(
        _HEADER,
        ord("S"),
        _FROM_DEVICE,
        len(command),
        len(memory[2]),
        0,
        length,
        *where,
        int(_TIME * 1000),
        *[0] * 12,
    ), memory


def _answer(header: bytes, memory: list[array[int]]) -> bytes | None:
    done = struct.unpack(_HEADER, header)
    status, host_status, driver_status, left = done[13], done[17], done[18], done[19]
    if status or host_status or driver_status:
        return None
    return memory[0].tobytes()[: len(memory[0]) - left]
