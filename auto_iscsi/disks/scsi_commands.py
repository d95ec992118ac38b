"""Send SCSI commands to a disk: what it is, and which LUNs there are.

sysfs has the answers from the time when the kernel found the disk; these are the answers of now.
Each command waits five seconds at most. INQUIRY and REPORT LUNS are answered even by a disk that is
not ready (SPC-5, 5.14).

A LUN that has just died does not answer, and a process that waits for it in SG_IO cannot be
interrupted. So the command is written to the disk's /dev/sgN, and its answer is read when there is
one. That is version 2 of the driver's interface (include/scsi/sg.h, drivers/scsi/sg.c: sg_write,
sg_read): command and data follow a header. In later versions the header holds the addresses of
both, and Python has addresses only from modules that take longer to import than a warm lookup
takes. On a machine without that driver, SG_IO (version 3) is called in a child process.
"""

from __future__ import annotations

import os
import select
import sys
import time

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import NamedTuple, suppress
from auto_iscsi.machine.host import Host

_HEADER = 36  # bytes of a struct sg_header
_SET_TIMEOUT = 0x2201  # SG_SET_TIMEOUT, in hundredths of a second (USER_HZ)
_SG_IO = 0x2285
_SG_IO_HEADER = "iiBBHIPPPIIiPBBBBHHiII4x"  # struct sg_io_hdr
_FROM_DEVICE = -3
_NO_DATA = -1
_DRIVER_SENSE = 8
_TIME = 5.0  # seconds; then nobody waits any more
_LEAST = 255  # bytes asked of a page
SENSE = 16  #: bytes of sense data in a struct sg_header


class Reply(NamedTuple):
    """What a command came to."""

    status: int  #: SAM-5, 5.3; 0: good
    failed: bool  #: it did not reach the disk, or the answer did not come back
    sense: bytes  #: why, where the status is CHECK CONDITION
    data: bytes


def designators(page: bytes) -> bytes | None:
    """Return the designators of the logical unit in page 0x83, None when it has none.

    Those of the port and of the path are left out: they differ from session to session.
    """
    descriptors, at = [], 4
    while at + 4 <= min(len(page), 4 + int.from_bytes(page[2:4], "big")):
        size = 4 + page[at + 3]
        if not page[at + 1] & 0x30:  # association: the logical unit
            descriptors.append(page[at : at + size])
        at += size
    return b"".join(descriptors) or None


def identity(host: Host, node: str, known: bytes) -> bytes | None:
    """Return the designators that /dev/`node` gives now, None when it cannot be asked.

    `known` is page 0x83 as sysfs has it (vpd_pg83); as much is asked for.
    """
    length = max(len(known), _LEAST)
    page = send(host, node, bytes((0x12, 1, 0x83, *length.to_bytes(2, "big"), 0)), length)
    return designators(page) if page and page[1] == 0x83 else None


def luns(host: Host, node: str) -> set[int] | None:
    """Return the target's LUNs as the SAN counts them, None when /dev/`node` cannot be asked."""
    length = 8 + 8 * 1024
    page = send(host, node, bytes((0xA0, 0, 0, 0, 0, 0, *length.to_bytes(4, "big"), 0, 0)), length)
    if not page:
        return None
    size = min(int.from_bytes(page[:4], "big"), length - 8)
    entries = [int.from_bytes(page[at : at + 2], "big") for at in range(8, 8 + size, 8)]
    # Peripheral or flat addressing (SAM-5, 4.7.7); the well-known units are no disks.
    return {entry & 0x3FFF for entry in entries if entry >> 14 in (0, 1)}


def send(host: Host, node: str, command: bytes, length: int) -> bytes | None:
    """Return `length` bytes that begin with a disk's answer, None for no answer.

    The answer says itself how long it is; anything can follow it.
    """
    reply = exchange(host, node, command, length)
    return None if reply is None or reply.failed or reply.status else reply.data


def exchange(host: Host, node: str, command: bytes, length: int) -> Reply | None:
    """Send a command to /dev/`node` and return what it came to, None for no answer."""
    generic = host.names(f"/sys/block/{node}/device/scsi_generic")
    try:
        if generic:
            return _write_and_read(host.path(f"/dev/{generic[0]}"), command, length)
        from auto_iscsi.machine import bounded  # only on a machine without that driver

        until = time.monotonic() + _TIME
        path = host.path(f"/dev/{node}")
        reply = bounded.run(lambda: _ioctl(path, command, length), until, node)
    except (OSError, errors.Failure):  # not a SCSI disk, none any more, or dead
        return None
    return Reply(*reply) if reply else None


def _write_and_read(path: str, command: bytes, length: int) -> Reply | None:
    """Send a command to /dev/sgN; return what it came to, None for no answer in time."""
    import fcntl

    def native(number: int) -> bytes:
        return number.to_bytes(4, sys.byteorder)

    size = _HEADER + length
    handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # the wait below ends in any case
            fcntl.ioctl(handle, _SET_TIMEOUT, native(int(_TIME * 100)))
        # pack_len, which only the kernel fills in, and reply_len; nothing else is asked for
        os.write(handle, (native(0) + native(size)).ljust(_HEADER, b"\0") + command)
        if not select.select([handle], [], [], _TIME)[0]:
            return None
        answer = os.read(handle, size)
    finally:
        os.close(handle)
    return parse_answer(answer)


def parse_answer(answer: bytes) -> Reply:
    """Return what a struct sg_header and the data after it say."""
    # Bit fields begin at the lowest bit on machines that are little-endian, else at the highest:
    # twelve_byte 1, target_status 5 (shifted by one), host_status 8, driver_status 8.
    fields = int.from_bytes(answer[16:20], sys.byteorder)
    little = sys.byteorder == "little"
    status = (fields >> 1 if little else fields >> 26) & 0x1F
    transport = (fields >> 6 if little else fields >> 18) & 0xFF
    sense = answer[_HEADER - SENSE : _HEADER]
    result = any(answer[12:16])  # an errno for what the transport met, or for a check condition
    failed = bool(transport) or (bool(result or fields) and not status)
    return Reply(status << 1, failed, sense, answer[_HEADER:])


def _ioctl(path: str, command: bytes, length: int) -> tuple[int, bool, bytes, bytes] | None:
    """Send a command to a disk with SG_IO, however long that takes; return a Reply's fields."""
    import fcntl
    import struct
    from array import array

    memory = [array("B", bytes(length or 1)), array("B", command), array("B", bytes(32))]
    addresses = [block.buffer_info()[0] for block in memory]
    header = struct.pack(
        _SG_IO_HEADER,
        ord("S"),
        _FROM_DEVICE if length else _NO_DATA,
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
    failed = bool(host_status) or bool(driver_status & ~_DRIVER_SENSE)
    sense = memory[2].tobytes()[:SENSE]
    return status, failed, sense, memory[0].tobytes()[: length - left]
