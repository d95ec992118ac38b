"""Disks that are not ready: is a path in standby passed over, and does the log say why?

The SAN is the kernel's own, with the states of ALUA (configfs: alua_access_state; 0 is active, 2 is
standby). A disk in standby has its size, and none of its blocks can be read.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

pytestmark = pytest.mark.shared

AUTO = "fstype = auto\npartition = auto\noptions = ro\nudev_timeout = 60s\nlookup_timeout = 110s\n"
STANDBY = "not ready: the path is in standby (ALUA), sense 2/04/0b"

#: A second portal group of a target at another portal, with the same disk; the path through the
#: first one is in standby.
TWO_GROUPS = """\
set -e
T=/sys/kernel/config/target; cd $T/iscsi/{iqn}
mkdir -p tpgt_2/np/127.0.0.2:3260 tpgt_2/lun/lun_0
for name in generate_node_acls cache_dynamic_acls; do echo 1 >tpgt_2/attrib/$name; done
for name in demo_mode_write_protect authentication; do echo 0 >tpgt_2/attrib/$name; done
ln -s $T/core/fileio_0/{disk} tpgt_2/lun/lun_0/{disk}
echo 1 >tpgt_2/enable
mkdir $T/core/fileio_0/{disk}/alua/first
echo 7 >$T/core/fileio_0/{disk}/alua/first/tg_pt_gp_id
echo first >tpgt_1/lun/lun_0/alua_tg_pt_gp
echo 2 >$T/core/fileio_0/{disk}/alua/first/alua_access_state
"""


def two_groups(vm: Machine, san: San, iqn: str) -> None:
    """Make a target with a disk behind two portals, of which the first is in standby."""
    disk = san.disk([san.fs("ext4", {"marker": f"{iqn}\n"}, size=16)])
    san.target(iqn, [disk])
    vm.run(TWO_GROUPS.format(iqn=iqn, disk=disk.name))


def all_ports(vm: Machine, state: int) -> None:
    """Set the state of every path to every disk."""
    vm.run(
        "for f in /sys/kernel/config/target/core/*/*/alua/default_tg_pt_gp/alua_access_state;"
        f" do echo {state} >$f; done"
    )


def problems(vm: Machine) -> list[dict[str, Any]]:
    """Return the problems that status reports."""
    data = json.loads(vm.run(["auto-iscsi", "status", "--json"], check=False, timeout=60).stdout)
    found: list[dict[str, Any]] = data["problems"]
    return found


def test_a_path_in_standby_is_passed_over(vm: Machine, san: San) -> None:
    for iqn in (job.ALPHA, job.BETA):
        two_groups(vm, san, iqn)
    vm.discover()
    assert len(job.records(vm)) == 4
    job.configure(vm, f"{AUTO}[{job.BETA}]\npaths = all\n")
    for iqn in (job.ALPHA, job.BETA):
        assert job.visit(vm, iqn).stdout == f"{iqn}\n"
        first, second = sorted(vm.sessions(iqn), key=lambda session: session.address)
        assert (first.address, second.address) == ("127.0.0.1", "127.0.0.2")
        mounted = job.mount(vm, iqn)
        assert mounted and mounted.source == f"/dev/{second.disks[0]}1"
        if iqn == job.ALPHA:
            why = f"LUN 0 ({first.disks[0]}) through 127.0.0.1:3260 cannot be read: {STANDBY}"
            assert f"a path is passed over: {why}" in job.last_message(vm)
        assert problems(vm) == []  # it can be read through the other path
    assert f"      {first.disks[0]}: {STANDBY}\n" in vm.run("auto-iscsi status").stdout
    # The next visit finds the disk at once, and says nothing.
    said = len(job.messages(vm))
    vm.run(["umount", f"{job.ROOT}/{job.ALPHA}"])
    assert job.visit(vm, job.ALPHA).stdout == f"{job.ALPHA}\n"
    assert len(job.messages(vm)) == said
    claim = vm.read(f"/run/auto-iscsi/claims/{job.ALPHA}").decode()
    by_address = {session.address: session.number for session in vm.sessions(job.ALPHA)}
    assert f"sids {by_address['127.0.0.2']}" in claim


def test_a_disk_in_standby_is_asked_for_anew(vm: Machine, san: San) -> None:
    for iqn in (job.ALPHA, job.BETA):
        san.target(iqn, [san.disk([san.fs("ext4", {"marker": f"{iqn}\n"}, size=16)])])
    vm.discover()
    job.configure(vm, f"{AUTO}[{job.ALPHA}]\nudev_timeout = 30s\n")
    vm.automount("--timeout=1 --negative-timeout=1")
    all_ports(vm, 2)
    line = job.refusal(vm, job.ALPHA)
    session = job.session(vm, job.ALPHA)
    assert f"through 127.0.0.1:3260 cannot be read: {STANDBY}" in line
    assert problems(vm) == [
        {"code": "disk-not-ready", "target": job.ALPHA, "session": session.number}
    ]
    # One visit waits for its disk, while it becomes ready.
    reader = vm.start(["cat", f"{job.ROOT}/{job.BETA}/marker"], user="user", timeout=120)
    assert job.until(
        lambda: {problem["target"] for problem in problems(vm)} == {job.ALPHA, job.BETA}
    )
    all_ports(vm, 0)
    assert reader.wait().stdout == f"{job.BETA}\n"
    assert job.visit(vm, job.ALPHA).stdout == f"{job.ALPHA}\n"
    assert problems(vm) == []


def test_two_sessions_that_a_record_asks_for_are_no_problem(vm: Machine, san: San) -> None:
    san.target(job.ALPHA)
    vm.discover()
    number = ["-n", "node.session.nr_sessions", "-v", "2"]
    vm.run(["iscsiadm", "-m", "node", "-T", job.ALPHA, "-o", "update", *number])
    job.configure(vm, "udev_timeout = 80s\nlookup_timeout = 110s\n")
    assert job.visit(vm, job.ALPHA).stdout == f"{job.ALPHA}\n"
    assert len(vm.sessions(job.ALPHA)) == 2
    assert problems(vm) == []
