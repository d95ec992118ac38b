"""Keep the logs of the guest when a test fails.

They are in a directory below ${BED_LOGS:-build/bed-logs}: the console (with the kernel's list of
blocked tasks), the journal, the mounts and the sessions. Nothing is kept of a test that passes.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from . import channel
from .machine import CommandFailed, Machine

COMMANDS = {
    "journal": "journalctl -b --no-pager -o short-monotonic",
    "mounts": "cat /proc/mounts",
    "sessions": "head -v -n 99 /sys/class/iscsi_session/*/{targetname,state} 2>/dev/null; "
    "ls -l /dev/disk/by-path; lsblk",
    "processes": "ps axo pid,ppid,pgid,stat,wchan:20,args",
    "nodes": "ls -R /etc/iscsi/nodes /var/lib/iscsi/nodes; cat /proc/modules",
}


def folder(tree: Path, name: str) -> Path:
    """Return an empty directory for a test's logs."""
    root = Path(os.environ.get("BED_LOGS") or tree / "build" / "bed-logs")
    place = root / re.sub(r"[^\w.-]+", "_", name)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def keep(vm: Machine, place: Path) -> None:
    """Write the logs of a guest into a directory, as far as it still answers."""
    try:
        vm.request("call", timeout=10, name="blocked", args={})
        time.sleep(0.3)  # so that the console has it
        for name, command in COMMANDS.items():
            result = vm.run(command, timeout=20, check=False)
            (place / name).write_text(result.stdout + result.stderr)
    except (channel.Lost, channel.Refused, CommandFailed) as error:
        (place / "gave-up").write_text(f"{error}\n")
    if vm.console.exists():
        shutil.copy(vm.console, place / "console")
