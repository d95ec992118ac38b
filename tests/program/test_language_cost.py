"""A thousand sections are parsed once, and the next lookup reads the cache."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.tree.tree import Content, Link, make_tree

MODULES = Path(__file__).resolve().parents[2]
TARGET = "iqn.2001-05.com.equallogic:0-8a0906-vm-beta"
SESSION = "/sys/class/iscsi_session/session1"
DISK = f"{SESSION}/device/target3:0:0/3:0:0:0"
UP: dict[str, Content] = {
    f"{SESSION}/targetname": TARGET,
    f"{SESSION}/state": "LOGGED_IN",
    f"{SESSION}/tpgt": "1",
    "/sys/class/iscsi_connection/connection1:0/persistent_address": "10.0.0.1",
    "/sys/class/iscsi_connection/connection1:0/persistent_port": "3260",
    f"{DISK}/type": "0",
    f"{DISK}/block/sdb/sdb1/partition": "1",
    f"/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-{TARGET}-lun-0-part1": Link("../../sdb1"),
    "/run": None,
}


def configuration(sections: int) -> str:
    """Return sections that begin like the target, and a last one that matches it."""
    some = "".join(
        f"[iqn.2001-05.com.equallogic:*-vm-{n}-*]\n    fstype = xfs\n    options = ro, nosuid\n"
        f"    udev_timeout = 30s\n"
        for n in range(sections - 1)
    )
    return f"{some}[*-vm-beta]\n    fstype = ext4\n"


def imported(root: Path) -> str:
    """Return the modules that the map program imports for a target whose session is up."""
    code = (
        f"import sys; sys.path.insert(0, {str(MODULES)!r});"
        f"from auto_iscsi.machine import host; from auto_iscsi.map import program;"
        f"status = program.main([{TARGET!r}], host.Host({str(root)!r}));"
        f"print(*sys.modules); sys.exit(status)"
    )
    done = subprocess.run(["/usr/bin/python3", "-I", "-c", code], stdout=subprocess.PIPE)
    assert done.returncode == 0 and b"fstype=ext4 " in done.stdout
    return done.stdout.decode()


def test_a_thousand_sections_are_parsed_once(tmp_path: Path) -> None:
    make_tree(tmp_path, {**UP, "/etc/auto.iscsi.conf": configuration(1000)})
    assert "configobj" in imported(tmp_path)
    time.sleep(2.1)  # a file that was changed just now is not cached
    assert "configobj" in imported(tmp_path)
    assert "configobj" not in imported(tmp_path)
