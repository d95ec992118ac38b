"""What do a thousand sections cost a lookup?"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

from tests.tree.tree import Content, Link, make_tree

MAP = Path(__file__).resolve().parents[2] / "dist/auto.iscsi"
TARGET = "iqn.2001-05.com.equallogic:0-8a0906-vm-beta"
SESSION = "/sys/class/iscsi_session/session1"
DISK = f"{SESSION}/device/target3:0:0/3:0:0:0"
UP: dict[str, Content] = {
    f"{SESSION}/targetname": TARGET, f"{SESSION}/state": "LOGGED_IN", f"{SESSION}/tpgt": "1",
    "/sys/class/iscsi_connection/connection1:0/persistent_address": "10.0.0.1",
    "/sys/class/iscsi_connection/connection1:0/persistent_port": "3260",
    f"{DISK}/type": "0", f"{DISK}/block/sdb/sdb1/partition": "1",
    f"/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-{TARGET}-lun-0-part1": Link("../../sdb1"),
    "/run": None,
}  # fmt: skip
RUNS = 25


def configuration(sections: int) -> str:
    """Return sections that begin like the target, and a last one that matches it."""
    some = "".join(
        f"[iqn.2001-05.com.equallogic:*-vm-{n}-*]\n    fstype = xfs\n    options = ro, nosuid\n"
        f"    udev_timeout = 30s\n"
        for n in range(sections - 1)
    )
    return f"{some}[*-vm-beta]\n    fstype = ext4\n"


def seconds(root: Path) -> float:
    """Return how long the whole map program takes for a target whose session is up."""
    code = (
        f"import sys; sys.path.insert(0, {str(MAP)!r}); from auto_iscsi import host, program;"
        f"sys.exit(program.main([{TARGET!r}], host.Host({str(root)!r})))"
    )
    start = time.perf_counter()
    done = subprocess.run(["/usr/bin/python3", "-I", "-c", code], stdout=subprocess.PIPE)
    taken = time.perf_counter() - start
    assert done.returncode == 0 and b"fstype=ext4 " in done.stdout
    return taken


def test_a_thousand_sections_cost_at_most_half_as_much_again_as_ten(tmp_path: Path) -> None:
    few, many = tmp_path / "10", tmp_path / "1000"
    for root in (few, many):
        make_tree(root, {**UP, "/etc/auto.iscsi.conf": configuration(int(root.name))})
    time.sleep(2.1)  # what was changed just now is not kept
    for root in (few, many):
        seconds(root)
        assert os.path.getsize(root / "run/auto-iscsi/config")
    taken = [(seconds(few), seconds(many)) for _ in range(RUNS)]
    ten, thousand = (statistics.median(column) for column in zip(*taken))
    assert thousand / ten <= 1.5, f"{ten * 1000:.1f} ms, {thousand * 1000:.1f} ms"
