"""Ask a disk a SCSI question, and wait five seconds at most for its answer.

For what sysfs only has from the time when the kernel found the disk. INQUIRY and REPORT LUNS are
answered whatever else is amiss (SPC-5, 5.14). A LUN that has just died does not answer, and a
process that waits for it in SG_IO cannot be interrupted. So the command is written to the disk's
/dev/sgN, and its answer is read when there is one. That is version 2 of the driver's interface
(include/scsi/sg.h, drivers/scsi/sg.c: sg_write, sg_read): command and data follow a header. In the
later versions the header holds the addresses of both, which Python has from modules that take
longer to import than a warm lookup takes. On a machine without that driver, SG_IO (version 3) is
called in a process of its own.
"""

from __future__ import annotations

import os
import select
import sys
import time

from auto_iscsi import errors
from auto_iscsi.machine.host import Host

_HEADER = 36  # bytes of a struct sg_header
_SET_TIMEOUT = 0x2201  # SG_SET_TIMEOUT, in hundredths of a second (USER_HZ)
_SG_IO = 0x2285
_SG_IO_HEADER = "iiBBHIPPPIIiPBBBBHHiII4x"  # struct sg_io_hdr
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
    page = send(host, node, bytes((0x12, 1, 0x83, *length.to_bytes(2, "big"), 0)), length)
    return designators(page) if page and page[1] == 0x83 else None


def luns(host: Host, node: str) -> set[int] | None:
    """Return the LUNs that the target of /dev/`node` reports, None for no answer."""
    length = 8 + 8 * 1024
    page = send(host, node, bytes((0xA0, 0, 0, 0, 0, 0, *length.to_bytes(4, "big"), 0, 0)), length)
    if not page:
        return None
    size = min(int.from_bytes(page[:4], "big"), length - 8)
    entries = [int.from_bytes(page[at : at + 2], "big") for at in range(8, 8 + size, 8)]
    # Peripheral or flat space addressing (SAM-5, 4.7.7); well-known logical units are no disks.
    return {entry & 0x3FFF for entry in entries if entry >> 14 in (0, 1)}


def send(host: Host, node: str, command: bytes, length: int) -> bytes | None:
    """Return `length` bytes that begin with a disk's answer, None for no answer.

    How long the answer is, it says itself; what follows it can be anything.
    """
    generic = host.names(f"/sys/block/{node}/device/scsi_generic")
    try:
        if generic:
            return _ask(host.path(f"/dev/{generic[0]}"), command, length)
        from auto_iscsi.machine import bounded  # only on a machine without that driver

        until = time.monotonic() + _TIME
        answer = bounded.run(lambda: _call(host.path(f"/dev/{node}"), command, length), until, node)
    except (OSError, errors.Failure):  # not a SCSI disk, none any more, or dead
        return None
    return None if answer is None else bytes(answer)


def _ask(path: str, command: bytes, length: int) -> bytes | None:
    """Send a command to /dev/sgN; return its data, None for an error or no answer in time."""
    import fcntl

    def native(number: int) -> bytes:
        return number.to_bytes(4, sys.byteorder)

    size = _HEADER + length
    handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(handle, _SET_TIMEOUT, native(int(_TIME * 100)))
        # pack_len, which only the kernel fills in, and reply_len; nothing else is asked for
        os.write(handle, (native(0) + native(size)).ljust(_HEADER, b"\0") + command)
        if not select.select([handle], [], [], _TIME)[0]:
            return None
        answer = os.read(handle, size)
    finally:
        os.close(handle)
    # result: an errno for what the transport met; then the bits of all three states
    return None if any(answer[12:20]) else answer[_HEADER:]


def _call(path: str, command: bytes, length: int) -> bytes | None:
    """Send a command to a disk with SG_IO, which waits however long that takes."""
    import fcntl
    import struct
    from array import array

    memory = [array("B", bytes(length)), array("B", command), array("B", bytes(32))]
    addresses = [each.buffer_info()[0] for each in memory]
    header = struct.pack(
        _SG_IO_HEADER,
        ord("S"),
        _FROM_DEVICE,
        len(command),
        len(memory[2]),
        0,
        length,
        *addresses,
        int(_TIME * 1000),
        *[0] * 12,
    )
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        done = struct.unpack(_SG_IO_HEADER, fcntl.ioctl(handle, _SG_IO, header))
    except OSError:
        return None
    status, host_status, driver_status, left = done[13], done[17], done[18], done[19]
    if status or host_status or driver_status:
        return None
    return memory[0].tobytes()[: length - left]
