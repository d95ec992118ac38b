"""Read the kernel's log, as dmesg does (Documentation/ABI/testing/dev-kmsg)."""

from __future__ import annotations

import os

from auto_iscsi.lean_stdlib import NamedTuple
from auto_iscsi.machine.host import Host

WARNING = 4  #: the level of a warning; what is worse has a lower one (linux/kern_levels.h)
_FILE = "/dev/kmsg"
_LEVELS = 8  # the priority of a line is FACILITY * 8 + LEVEL
_LINES = 100_000  # that are read at most, of a log that grows as fast as it is read
_LONGEST = 8192  # bytes of a line with its properties (kernel/printk, PRINTK_MESSAGE_MAX)


class Line(NamedTuple):
    """A line of the kernel's log."""

    level: int
    seconds: float  #: since the boot, by a clock that runs a little wrong: see dmesg(1), -T
    text: str


def read(host: Host) -> list[Line]:
    """Return the lines that the kernel still has, none without permission. This waits for nothing.

    Each read(2) returns one line, and then its properties on lines that begin with a space.
    """
    try:
        handle = os.open(host.path(_FILE), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    lines = []
    try:
        for _ in range(_LINES):
            try:
                record = os.read(handle, _LONGEST)
            except BrokenPipeError:  # the kernel has overwritten the next line
                continue
            except OSError:  # EAGAIN: that was the last line
                break
            if not record:
                break
            lines += [line for part in record.split(b"\n") for line in _parse(part)]
    finally:
        os.close(handle)
    return lines


def _parse(record: bytes) -> list[Line]:
    """Return the line in PRIORITY,NUMBER,MICROSECONDS,FLAGS;TEXT; [] for anything else."""
    head, semicolon, text = record.decode("utf-8", "replace").partition(";")
    fields = head.split(",")
    if not semicolon or len(fields) < 3 or not (fields[0] + fields[2]).isdecimal():
        return []
    return [Line(int(fields[0]) % _LEVELS, int(fields[2]) / 1e6, text)]
