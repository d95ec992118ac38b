"""A SCSI disk that answers what a test wants, behind a device node that a lookup can open.

The node is a terminal in raw mode: what is written to it comes to us, and what we write can be read
from it, as with the kernel's /dev/sgN (include/scsi/sg.h, version 2: a header of 36 bytes, then the
command or the data).
"""

from __future__ import annotations

import os
import pty
import sys
import threading
import tty

from tests.tree.machine import Machine
from tests.tree.tree import Link, make_tree

HEADER = 36
SENSE_AT = 20
CHECK_CONDITION = 2
READY = b""
STANDBY = bytes((0x70, 0, 2, 0, 0, 0, 0, 10, 0, 0, 0, 0, 4, 0x0B, 0, 0))
STANDBY_WORDS = "not ready: the path is in standby (ALUA), sense 2/04/0b"


class ScsiDisk:
    """The SCSI side of a disk of a machine; `sense` is why it cannot be read, b"" when it can."""

    def __init__(self, machine: Machine, name: str, sense: bytes = STANDBY) -> None:
        self.sense = sense
        self.asked = 0
        self._ours, self._its = pty.openpty()
        tty.setraw(self._its)
        generic = f"sg{name[2:]}"
        make_tree(
            machine.root,
            {
                f"/dev/{generic}": Link(os.ttyname(self._its)),
                f"/sys/block/{name}/device/scsi_generic/{generic}": None,
            },
        )
        threading.Thread(target=self._answer_all, daemon=True).start()

    def _answer_all(self) -> None:
        while True:
            try:
                request = os.read(self._ours, 4096)
            except OSError:
                return
            self.asked += 1
            size = int.from_bytes(request[4:8], sys.byteorder)
            header = bytearray(HEADER)
            if self.sense:
                little = sys.byteorder == "little"
                status = CHECK_CONDITION >> 1
                fields = status << 1 if little else status << 26
                header[16:20] = fields.to_bytes(4, sys.byteorder)
                header[SENSE_AT:HEADER] = self.sense.ljust(HEADER - SENSE_AT, b"\0")
            os.write(self._ours, bytes(header).ljust(size, b"\0"))

    def close(self) -> None:
        os.close(self._its)
        os.close(self._ours)
