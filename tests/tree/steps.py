"""Run auto-iscsi, and die before the Nth change that it makes: steps.py N PROGRAM FOLDER WORD...

PROGRAM is what make builds, or "-" for the module. The changes are those below FOLDER, locks,
processes.

What the interpreter is about to do it tells an audit hook (PEP 578): files that are opened for
writing, renamed, removed, directories, locks, processes. Only of the process itself: its children
have a life of their own.
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
    """Count, and run the program as `python -m auto_iscsi` does."""
    wanted, program, root, us, seen = int(sys.argv[1]), sys.argv[2], sys.argv[3], os.getpid(), 0
    sys.argv = ["auto-iscsi", *sys.argv[4:]]

    def change(event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            return str(arguments[0]).startswith(root) and bool(arguments[2] & WRITING)
        if event in CHANGES:
            return str(arguments[0]).startswith(root)
        return event in ("fcntl.flock", "os.fork", "os.forkpty")

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if os.getpid() == us and change(event, arguments):
            seen += 1
            if seen == wanted:
                os.kill(us, signal.SIGKILL)

    sys.addaudithook(count)
    if program == "-":
        runpy.run_module("auto_iscsi", run_name="__main__")
    else:
        runpy.run_path(program, run_name="__main__")


main()
