"""Run auto-iscsi, and die before the Nth change that it makes: steps.py N PROGRAM FOLDER WORD...

PROGRAM is what make builds, or "-" for the module. The changes are those below FOLDER, locks,
processes.

The interpreter calls an audit hook (PEP 578) before it opens a file for writing, renames or removes
a file, makes a directory, takes a lock or forks. Only the process itself is counted and killed, not
its children.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


def main() -> None:
    """Run the program as `python -m auto_iscsi` does, and count its changes."""
    fatal, program, root = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    ourselves, changes = os.getpid(), 0
    sys.argv = ["auto-iscsi", *sys.argv[4:]]

    def is_change(event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            return str(arguments[0]).startswith(root) and bool(arguments[2] & WRITING)
        if event in CHANGES:
            return str(arguments[0]).startswith(root)
        return event in ("fcntl.flock", "os.fork", "os.forkpty")

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if os.getpid() == ourselves and is_change(event, arguments):
            changes += 1
            if changes == fatal:
                os.kill(ourselves, signal.SIGKILL)

    sys.addaudithook(count)
    if program == "-":
        runpy.run_module("auto_iscsi", run_name="__main__")
    else:
        runpy.run_path(program, run_name="__main__")


main()
