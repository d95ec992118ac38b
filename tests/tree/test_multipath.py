"""Several paths to a disk: the portals that are logged in to, and the device that is mounted."""

from __future__ import annotations

import shutil

import pytest

from tests.tree import kernel
from tests.tree.machine import VOL1, VOL10, Machine

PART = f'-nocheck,ro,fstype=ext3 ":{kernel.BY_ID}/dm-uuid-part1-mpath-{kernel.WWID}0"'


def two_portals(machine: Machine, text: str) -> tuple[str, str]:
    """Make a target behind two portals, with node records of both; return the portals."""
    first, second = machine.portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.target(VOL1, first, second)
    machine.configure(text)
    return first, second


@pytest.mark.parametrize("paths", ["one", "all"])
def test_a_disk_that_multipathd_holds_is_mounted_through_its_map(
    machine: Machine, paths: str
) -> None:
    first, second = two_portals(machine, f"paths = {paths}")
    sids = [machine.session(VOL1, portal) for portal in (first, second)]
    machine.join()
    assert machine.visit(VOL1) == PART
    machine.state(sids[0], "FAILED")
    assert machine.visit(VOL1) == PART
    assert machine.runs() == []
    machine.configure(f"paths = {paths}\ndevice = kernel\n[*]\npartition = none\n")
    assert machine.visit(VOL1) == "-nocheck,ro,fstype=ext3 :/dev/dm-0"


def test_a_path_that_is_not_in_the_map_yet_is_not_mounted(machine: Machine) -> None:
    first, second = two_portals(machine, "paths = all")
    machine.session(VOL1, first)
    machine.session(VOL1, second)
    machine.join(machine.disks()[1])
    assert machine.visit(VOL1) == PART


def test_a_partition_that_the_map_lacks_is_reported(machine: Machine) -> None:
    portal, _ = two_portals(machine, "partition = 3")
    machine.session(VOL1, portal)
    machine.join()
    assert "no partition 3 on LUN 0" in machine.lookup(VOL1).log


def test_a_disk_that_udev_leaves_to_multipathd_is_not_used(machine: Machine) -> None:
    portal, _ = two_portals(machine, "udev_timeout = 1s")
    machine.session(VOL1, portal)
    (disk,) = machine.disks()
    number = kernel.read(str(machine.root), f"{disk.path}/dev")
    data = f"/run/udev/data/b{number}"
    text = kernel.read(str(machine.root), data)
    kernel.write(str(machine.root), data, f"{text}\nE:DM_MULTIPATH_DEVICE_PATH=1")
    line = machine.lookup(VOL1).log
    assert f"udev leaves {disk.name} to multipathd, which has no map of it after 1 s" in line
    assert "see multipath -ll" in line
    smart = "E:DM_MULTIPATH_DEVICE_PATH=1\nE:FIND_MULTIPATHS_WAIT_UNTIL=12345"
    kernel.write(str(machine.root), data, f"{text}\n{smart}")
    line = machine.lookup(VOL1).log
    assert "find_multipaths is smart: raise udev_timeout above find_multipaths_timeout" in line
    waiting = machine.start(VOL1)
    machine.reached("rescan")
    machine.join()
    assert waiting.answer().entry == PART


def test_partitions_that_udev_deleted_are_asked_for_once_and_then_missing(
    machine: Machine,
) -> None:
    # The tree's disks are files: the kernel refuses. tests/san has find_multipaths smart for real.
    portal = machine.target(VOL1)
    machine.visit(VOL1)
    (disk,) = machine.disks()
    number = kernel.read(str(machine.root), f"{disk.path}/dev")
    text = kernel.read(str(machine.root), f"/run/udev/data/b{number}")
    known = f"{text}\nE:ID_PART_TABLE_TYPE=dos\nE:DM_MULTIPATH_DEVICE_PATH=0"
    kernel.write(str(machine.root), f"/run/udev/data/b{number}", known)
    shutil.rmtree(machine.root / f"{disk.path}/{disk.name}1".lstrip("/"))
    answer = machine.lookup(VOL1)
    assert (answer.status, answer.entry) == (1, "")
    assert (
        f"no partition 1 on LUN 0 ({disk.name}) through {portal}: the disk has none" in answer.log
    )
    assert len(machine.runs("--rescan")) == 1 and machine.sids() == [1]


def test_all_portals_are_logged_in_to_and_without_multipathd_one_path_is_used(
    machine: Machine,
) -> None:
    first, _ = two_portals(machine, "paths = all")
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, first)
    assert answer.log == f"{VOL1}: multipathd does not run: one path is used"
    assert len(machine.runs("--login")) == 2 and machine.sids() == [1, 2]
    claim = machine.claim(VOL1)
    assert [sid for sid, _ in claim.opened] == [1, 2] and claim.records == ()
    assert machine.visit(VOL1) == machine.entry(VOL1, first)  # and the log has no second line
    assert len(machine.runs()) == 2


def test_every_record_that_a_lookup_makes_is_in_its_claim(machine: Machine) -> None:
    first, second = machine.portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.target(VOL1, first, second, record=False)
    machine.configure(f"paths = all\nportals = {first}")
    assert machine.lookup(VOL1).status == 0
    assert len(machine.claim(VOL1).records) == 2
    assert machine.values(VOL1, second)["node.startup"] == "manual"


def test_a_path_that_came_back_is_found_at_the_next_login(machine: Machine) -> None:
    first, second = machine.portal("127.0.0.1"), machine.dead_portal("127.0.0.2")
    machine.target(VOL1, first, second, record=False)
    machine.configure(f"paths = all\nportals = {first}")
    machine.lookup(VOL1)
    assert len(machine.claim(VOL1).records) == 1
    machine.log_out(1)
    machine.revive(second)
    machine.lookup(VOL1)
    assert len(machine.claim(VOL1).records) == len(machine.claim(VOL1).opened) == 2


@pytest.mark.parametrize("how", ["dead", "refuses"])
def test_a_missing_path_is_reported_and_the_other_one_used(machine: Machine, how: str) -> None:
    first = machine.dead_portal() if how == "dead" else machine.portal()
    second = machine.portal("127.0.0.2")
    answers = {} if how == "dead" else {f"login {first}": {"exit": 8}}
    machine.target(VOL1, first, second, record=False, answers=answers)
    machine.configure(f"paths = all\nportals = {first}, {second}")
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, second)
    assert "a path is missing: " in answer.log and first in answer.log
    assert len(machine.claim(VOL1).opened) == len(machine.claim(VOL1).records) == 1
    assert not machine.folder(VOL1, first).exists()


def test_the_wait_for_a_multipathd_that_makes_no_map_ends(machine: Machine) -> None:
    first, _ = two_portals(machine, "paths = all\nudev_timeout = 2s")
    machine.files({"/proc/99/comm": "multipathd\n"})
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, first)
    assert "multipathd has made no map of it in 2 s: one path is used" in answer.log


def test_a_lookup_waits_for_multipathd(machine: Machine) -> None:
    two_portals(machine, "paths = all")
    machine.files({"/proc/99/comm": "multipathd\n"})
    waiting = machine.start(VOL1)
    machine.wait_for(lambda: len(machine.sids()) == 2, "both sessions")
    machine.quiet()
    machine.join()
    answer = waiting.answer()
    assert (answer.entry, answer.log) == (PART, "")


def test_the_lookup_after_a_killed_one_claims_both_sessions(
    machine: Machine,
) -> None:
    first, _ = two_portals(machine, "paths = all")
    killed = machine.start(VOL1)
    machine.wait_for(lambda: 2 in machine.sids(), "the second login")
    killed.kill()
    machine.quiet()
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, first)
    assert [sid for sid, _ in machine.claim(VOL1).opened] == [1, 2]


def twins(machine: Machine) -> str:
    """Have multipathd join the disks of two targets, which say that they are one volume."""
    portal = machine.target(VOL1)
    machine.target(VOL10, portal)
    machine.session(VOL1, portal)
    machine.session(VOL10, portal)
    machine.join()
    return portal


@pytest.mark.parametrize("settings", ["", "partition = none", "device = kernel", "fstype = auto"])
def test_a_map_with_a_disk_of_another_target_is_refused(machine: Machine, settings: str) -> None:
    twins(machine)
    machine.configure(settings)
    for name, disk, other, stranger in ((VOL1, "sdb", VOL10, "sdc"), (VOL10, "sdc", VOL1, "sdb")):
        answer = machine.lookup(name)
        assert (answer.status, answer.entry) == (1, "")
        assert answer.log.startswith(
            f"{name}: multipath map dm-0 joins {disk} with {stranger} (LUN 0 of {other}), "
            "which is another volume"
        )
        assert "serial number" in answer.log and "multipath -f dm-0" in answer.log


def test_a_map_with_another_lun_or_a_local_disk_is_refused(machine: Machine) -> None:
    portal = machine.target(VOL1, luns={0: {"partitions": {"1": None}}, 1: {}})
    machine.session(VOL1, portal)
    machine.join(partitions=())
    assert f"joins sdb with sdc (LUN 1 of {VOL1})" in machine.lookup(VOL1).log
    slaves = machine.root / "sys/block/dm-0/slaves"
    (slaves / "sdc").unlink()
    machine.configure("partition = none")
    assert machine.lookup(VOL1).status == 0
    (slaves / "sda").mkdir()
    assert "joins sdb with sda, which is another volume" in machine.lookup(VOL1).log


def test_a_path_that_is_gone_does_not_make_its_map_unusable(machine: Machine) -> None:
    first, second = two_portals(machine, "paths = all")
    for portal in (first, second):
        machine.session(VOL1, portal)
    machine.join()
    gone = machine.root / "sys/block/dm-0/slaves/sdz"
    gone.symlink_to("../../../class/iscsi_session/session9/device/target10:0:0/10:0:0:0/block/sdz")
    assert machine.visit(VOL1) == PART


def test_a_twin_whose_disk_no_map_holds_is_used_as_it_is(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.target(VOL10, portal)
    machine.session(VOL1, portal)
    machine.session(VOL10, portal)
    machine.join(machine.disks()[1])
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert machine.visit(VOL10) == PART


def test_the_reaper_never_flushes_a_map_with_another_volume(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.target(VOL10, portal)
    for name in (VOL1, VOL10):
        machine.visit(name)
        machine.age(name, 86400.0)
    disks = machine.disks()
    machine.join()
    program = machine.root / "usr/sbin/multipath"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\necho $* >>{machine.root}/flushed\n")
    program.chmod(0o755)
    machine.files({"/dev/dm-0": "", "/dev/dm-1": ""})
    for disk in disks:
        kernel.link(str(machine.root), f"/sys/block/{disk.name}", f"..{disk.path[len('/sys') :]}")
    status, _, complaint = machine.reap()
    assert (status, machine.sids(), complaint) == (0, [], "")
    assert not (machine.root / "flushed").exists()
