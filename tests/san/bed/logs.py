"""What is kept of a test that failed?

The console (with the kernel's list of blocked tasks), the journal, mounts and sessions as the
guest has them, in a directory below ${BED_LOGS:-build/bed-logs}. Of one that passed: nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from . import channel
from .machine import CommandFailed, Machine

SEEN = {
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
    """Write what can be seen of a guest into a directory; whatever still answers is kept."""
    try:
        vm.ask("call", timeout=10, name="blocked", args={})
        time.sleep(0.3)  # until the console has it
        for name, command in SEEN.items():
            said = vm.run(command, timeout=20, check=False)
            (place / name).write_text(said.stdout + said.stderr)
    except (channel.Lost, channel.Refused, CommandFailed) as error:
        (place / "gave-up").write_text(f"{error}\n")
    if vm.console.exists():
        shutil.copy(vm.console, place / "console")
