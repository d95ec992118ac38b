"""Does anything get lost in a crowd, with everything killed now and then?

A moment of it here; make soak has ten minutes.

Not a failed visit without an injected cause, never another volume's files, no duplicate session,
none of an administrator's touched, no byte of a LUN written, no lock, claim, disk, multipath map,
overlay, logical volume, session or node record left behind.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San
from tests.san.reaping import KEPT, QUICK, reap
from tests.san.snapshot import checksums, server_taken_in_use, system_taken_in_use, taken_in_use

SHORT = 45  # seconds
# iscsid answers nobody while it brings back the sessions that it lost its memory of. On a busy
# machine, udev in the guest has been seen to need more than a minute for eight disks at a time.
# And the mount after a lookup has been seen to come more than two seconds later: a reaper that
# looks for other users of the disk by then has the mount fail.
PATIENT = (
    QUICK.replace("lease = 2s", "lease = 10s")
    .replace("udev_timeout = 60s", "udev_timeout = 150s")
    .replace("lookup_timeout = 3m", "lookup_timeout = 5m")
    + "login_timeout = 60s\n"
)
SCRIPT = Path(__file__).with_name("soak.py")
PLAIN = [f"iqn.2001-05.com.example:soak-{number}" for number in range(12)]
TWINS = [f"iqn.2001-05.com.example:twin-{number}" for number in range(2)]
STANDBY, LATE, SWAPPED = (f"iqn.2001-05.com.example:{name}" for name in ("standby", "late", "swap"))
#: Targets whose snapshots were taken in use: what is on each disk, and files there, most of which
#: are only in a journal. A new kind of disk gets a line here and in in_use().
IN_USE = {
    "iqn.2001-05.com.example:ext4": ["new8"],
    "iqn.2001-05.com.example:xfs": ["new8"],
    "iqn.2001-05.com.example:server": ["vg0-root/marker", "vg0-my-data/marker"],
    "iqn.2001-05.com.example:system": [
        f"{place}/marker" for place in ("usr", "home", "var", "boot", "boot/efi", "srv/data")
    ],
}
PARTITIONS = {"server": "all", "system": "system"}  # the other disks: auto
TARGETS = [*PLAIN, *TWINS, *IN_USE, STANDBY, LATE, SWAPPED]
CONFIGURATION = PATIENT + "".join(
    f"[{iqn}]\nfstype = auto\noptions = nocheck, ro\n"
    f"partition = {PARTITIONS.get(iqn.rpartition(':')[2], 'auto')}\n"
    for iqn in IN_USE
)
# multipathd is there for the twins, and for nothing else. LIO makes the WWID of the serial number.
SERIAL = "5a" * 16
ONLY_TWINS = 'wwid ".*"\n}\nblacklist_exceptions {\nwwid "^360014055a5a"\n'
THEIRS = [f"iqn.2001-05.com.example:theirs-{number}" for number in range(2)]

LUNS = "ls /run/san/disk* | grep -v sum"
STORES = "losetup --list --noheadings; ls -A /var/tmp | grep -v systemd-private"


def special(san: San) -> dict[str, list[str]]:
    """Make the targets that something is wrong with; return each fault's target and disks."""

    def disk(text: str, serial: str = "") -> LiveDisk:
        return san.disk([san.fs("ext3", {"marker": f"{text}\n"})], serial=serial)

    for iqn in TWINS:
        san.target(iqn, [disk(iqn, SERIAL)])
    disks = {"standby": [disk(STANDBY)], "not ready": [disk(LATE)]}
    disks["swapped"] = [disk(f"{SWAPPED} {number}") for number in range(2)]
    iqns = dict(zip(disks, (STANDBY, LATE, SWAPPED)))
    for fault, iqn in iqns.items():
        san.target(iqn, disks[fault][:1])
    return {fault: [iqns[fault], *(disk.name for disk in disks[fault])] for fault in disks}


def in_use(vm: Machine, san: San) -> None:
    """Make the targets whose snapshots were taken in use; their files say the target's name."""
    for iqn in IN_USE:
        kind = iqn.rpartition(":")[2]
        if kind == "server":
            disk = server_taken_in_use(vm, san, iqn)
        elif kind == "system":
            disk = system_taken_in_use(vm, san, iqn, vg="vg1", stays=False)
        else:
            disk = taken_in_use(vm, san, kind, iqn)
        san.target(iqn, [disk])


def test_soak(vm: Machine, san: San, request: pytest.FixtureRequest) -> None:
    seconds = int(request.config.getoption("--soak") or SHORT)
    job.start_multipathd(vm, ONLY_TWINS)
    in_use(vm, san)
    for iqn in (*PLAIN, *THEIRS):
        san.target(iqn)
    plan = {"plain": PLAIN, "twins": TWINS, "in use": IN_USE, **special(san)}
    for iqn in THEIRS:
        vm.discover()
        vm.run(["iscsiadm", "-m", "node", "-T", iqn, "--login"])
    for iqn in TARGETS:
        job.forget(vm, iqn)
    kept = (job.records(vm), [vm.sessions(iqn) for iqn in THEIRS])
    job.configure(vm, CONFIGURATION)
    vm.automount("--timeout=2 --negative-timeout=1")
    luns = vm.run(LUNS).lines
    content, stores = checksums(vm, luns), vm.run(STORES, check=False).stdout
    vm.write("/root/soak.py", SCRIPT.read_text())
    soak = vm.start(
        ["python3", "/root/soak.py", f"{seconds}", json.dumps(plan)], timeout=seconds + 600
    )
    shown = 0
    while not soak.done:
        time.sleep(2)
        lines = soak.output().splitlines()
        if lines[shown:] and seconds > 60:
            print(lines[-1][:300], file=sys.stderr, flush=True)
            shown = len(lines)
        assert all(len(vm.sessions(iqn)) <= 1 for iqn in TARGETS), "two sessions"
    said = json.loads(soak.wait().lines[-1])
    print(json.dumps(said, indent=2))
    assert said["unexplained"] == [] and said["said"] == []
    assert said["counts"]["visits that worked"] > seconds / 20
    if seconds != SHORT:
        assert said["counts"]["sessions ended"] > seconds / 60
        in_use_visits = [f"visits to {iqn.rpartition(':')[2]} that worked" for iqn in IN_USE]
        for what in (
            "standby",
            "not ready",
            "swapped",
            "visits to twins that worked",
            *in_use_visits,
        ):
            assert said["counts"].get(what), what

    assert all(job.expired(vm, iqn, 120) for iqn in TARGETS)
    for _ in range(3):  # what iscsid was killed over can need more than one try
        if reap(vm, "--wait", check=False).status == 0:
            break
    assert reap(vm).stdout == ""
    assert [vm.sessions(iqn) for iqn in THEIRS] == kept[1]
    assert [iqn for iqn in TARGETS if vm.sessions(iqn)] == []
    assert job.records(vm) == kept[0]
    assert vm.run(KEPT).stdout == ""
    assert "lock.write" not in vm.run("ls /run/lock/iscsi").stdout
    assert job.until(lambda: vm.run("lsblk -dno NAME | grep -c ^sd", check=False).lines == ["2"])
    assert vm.run("ls /sys/block | grep ^dm-", check=False).stdout == ""
    assert vm.run(STORES, check=False).stdout == stores
    assert checksums(vm, luns) == content
    for iqn in PLAIN[:3]:
        assert job.visit(vm, iqn).stdout == f"{iqn}\n"
