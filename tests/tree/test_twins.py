"""Two volumes with one serial number: named, and no longer joined than can be helped."""

from __future__ import annotations

import pytest

from auto_iscsi.admin import doctor_iscsi, output, status
from auto_iscsi.iscsi import claims
from tests.tree import kernel
from tests.tree.machine import VOL1, VOL10, Machine

WWID = "naa.60014055a5a5a5a00000000000000000"
KEY_MOUNT = "40 22 {} / {} ro - ext3 /dev/mapper/mpatha-part1 ro\n"


@pytest.fixture
def portal(machine: Machine) -> str:
    """The portal that both targets are behind."""
    portal = machine.target(VOL1)
    machine.target(VOL10, portal)
    machine.files({"/dev/dm-0": "", "/dev/dm-1": ""})
    return portal


def known_in_block(machine: Machine) -> None:
    """Have the disks in /sys/block too, as the kernel does."""
    for disk in machine.disks():
        kernel.link(str(machine.root), f"/sys/block/{disk.name}", f"..{disk.path[len('/sys') :]}")


def join(machine: Machine) -> None:
    known_in_block(machine)
    machine.join()


def pages(machine: Machine, attribute: str, *values: str | bytes) -> None:
    """Give each disk, in the order of their names, what it says that it is."""
    for disk, value in zip(sorted(machine.disks()), values):
        machine.files({f"{disk.path.rpartition('/block/')[0]}/{attribute}": value})


def twins_in_status(machine: Machine) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the sentences about twins and the problems, by target."""
    rows, _ = status.list_rows(machine.host)
    return {row.target: (row.twins, row.problems) for row in rows}


def slaves(machine: Machine) -> list[str]:
    """Return the paths of the map that the kernel still has."""
    folder = machine.root / "sys/block/dm-0/slaves"
    return sorted(link.name for link in folder.iterdir() if link.exists())


def test_a_lookup_that_is_refused_for_a_twin_logs_out_again(machine: Machine, portal: str) -> None:
    machine.session(VOL1, portal)
    machine.stop_before("login-done")
    lookup = machine.start(VOL10)
    machine.reached("login-done")
    pages(machine, "wwid", WWID, WWID)
    join(machine)
    machine.go_on()
    answer = lookup.answer()
    assert (answer.status, answer.entry) == (1, "")
    assert f"joins sdc with sdb (LUN 0 of {VOL1}), which is another volume" in answer.log
    assert (machine.sids(), slaves(machine)) == ([1], ["sdb"])
    assert machine.visit(VOL1)  # the map is its own again
    assert len(machine.runs("--login")) == 1
    answer = machine.lookup(VOL10)
    assert (answer.status, machine.sids()) == (1, [1])
    assert f"same WWID, sdb (LUN 0 of {VOL1}); give each volume its own serial" in answer.log
    assert len(machine.runs("--login")) == 1
    machine.log_out(1)
    assert machine.lookup(VOL10).status == 0


def test_the_reaper_forgets_that_a_login_was_undone(machine: Machine, portal: str) -> None:
    machine.session(VOL1, portal)
    machine.stop_before("login-done")
    lookup = machine.start(VOL10)
    machine.reached("login-done")
    pages(machine, "wwid", WWID, WWID)
    join(machine)
    machine.go_on()
    assert lookup.answer().status == 1
    assert machine.reap().status == 0
    assert machine.claim(VOL10) == claims.Claim()
    assert machine.lookup(VOL10).status == 0  # one more login: it could have a number of its own


def test_a_session_that_the_lookup_did_not_open_stays(machine: Machine, portal: str) -> None:
    machine.session(VOL1, portal)
    machine.visit(VOL10)
    join(machine)
    assert machine.lookup(VOL10).status == machine.lookup(VOL1).status == 1
    assert machine.sids() == [1, 2] and not machine.runs("--logout")


@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("", None),  # either or both: when the first one is gone, the second one is no twin
        (f"/iscsiauto/{VOL1}", [1]),
        (f"/iscsiauto/{VOL1}/part1", [1]),
        (f"/iscsiauto/{VOL10}", [2]),
        ("/srv/somebody", [1, 2]),
    ],
)
def test_the_reaper_ends_the_session_whose_key_nobody_uses(
    machine: Machine, portal: str, point: str, left: list[int] | None
) -> None:
    machine.configure("idle = 1h\nlease = 90s")
    for name in (VOL1, VOL10):
        machine.visit(name)
        machine.age(name, 100.0)
    if point:
        machine.files({"/proc/self/mountinfo": KEY_MOUNT.format("253:1", point)})
    join(machine)
    program = machine.root / "usr/sbin/multipath"
    program.write_text(f"#!/bin/sh\necho $* >>{machine.root}/flushed\n")
    program.chmod(0o755)
    reaped = machine.reap()
    assert (reaped.status, reaped.err) == (0, "")
    assert machine.sids() == left if left else len(machine.sids()) < 2
    assert not (machine.root / "flushed").exists()


def test_within_its_lease_a_joined_session_stays(machine: Machine, portal: str) -> None:
    for name in (VOL1, VOL10):
        machine.visit(name)
    join(machine)
    machine.reap()
    assert machine.sids() == [1, 2]


def test_a_twin_that_udev_keeps_back_for_multipathd_is_named(machine: Machine, portal: str) -> None:
    machine.configure("udev_timeout = 1s")
    for name in (VOL1, VOL10):
        machine.session(name, portal)
    pages(machine, "wwid", WWID, WWID)
    number = kernel.read(str(machine.root), f"{sorted(machine.disks())[1].path}/dev")
    data = f"/run/udev/data/b{number}"
    text = kernel.read(str(machine.root), data)
    kernel.write(str(machine.root), data, f"{text}\nE:DM_MULTIPATH_DEVICE_PATH=1")
    line = machine.lookup(VOL10).log
    assert f"no map of it after 1 s: sdc has the same WWID as sdb (LUN 0 of {VOL1})" in line
    assert "serial number" in line


# What sysfs has, of LIO with and without vpd_unit_serial, and of a disk of SCSI-2.
SAME = {
    "one serial number": ("wwid", WWID, WWID),
    "no serial number": ("wwid", "t10.LIO-ORG", "t10.LIO-ORG"),
    "page 0x80 only": ("vpd_pg80", b"\0\x80\0\x0401ab", b"\0\x80\0\x0401ab"),
    "page 0x80, empty": ("vpd_pg80", b"\0\x80\0\x04    ", b"\0\x80\0\0"),
}


@pytest.mark.parametrize("attribute", SAME)
def test_status_and_doctor_name_twins(machine: Machine, portal: str, attribute: str) -> None:
    machine.visit(VOL1)
    machine.session(VOL10, portal)
    pages(machine, *SAME[attribute])  # type: ignore[arg-type]
    known_in_block(machine)
    said = (f"sdb has the same WWID as sdc (LUN 0 of {VOL10})",)
    theirs = (f"sdc has the same WWID as sdb (LUN 0 of {VOL1})",)
    # Of a session that no lookup uses it is said, too, but a problem it is for its administrator.
    assert twins_in_status(machine) == {VOL1: (said, ("twin-volumes",)), VOL10: (theirs, ())}
    report = status.report(machine.host, output.Paint(False))
    assert report.status == 1 and f"      {said[0]}" in report.lines
    assert report.data["problems"] == [{"code": "twin-volumes", "target": VOL1, "session": 1}]
    finding = doctor_iscsi.serial_numbers(machine.host)
    assert finding.level == "warning" and "vpd" not in finding.text
    assert f"sdb (LUN 0 of {VOL1}), sdc (LUN 0 of {VOL10})" in finding.text
    assert "serial number" in finding.mend and "multipath.conf" in finding.mend
    join(machine)
    assert twins_in_status(machine)[VOL1][0] == (f"{said[0]}; multipath map dm-0 joins them",)


def test_many_twins_are_counted(machine: Machine) -> None:
    machine.target(VOL1, luns={lun: {} for lun in range(9)})
    machine.session(VOL1, machine.plan["targets"][VOL1]["portals"][0].partition(",")[0])
    pages(machine, "wwid", *[WWID] * 9)
    (row,) = status.list_rows(machine.host)[0]
    said = f"sdb has the same WWID as sdc (LUN 1 of {VOL1}), sdd (LUN 2 of {VOL1}), 6 more"
    assert (row.twins[0], len(row.twins)) == (said, 9)
    assert doctor_iscsi.serial_numbers(machine.host).text.endswith(" and 6 more")


@pytest.mark.parametrize(
    ("attribute", "first", "second"),
    [
        ("wwid", WWID, f"{WWID[:-1]}1"),
        ("vpd_pg80", b"\0\x80\0\x0401ab", b"\0\x80\0\x0401ac"),
        ("other", "", ""),
    ],
)
def test_volumes_with_serial_numbers_of_their_own_are_no_twins(
    machine: Machine, portal: str, attribute: str, first: str, second: str
) -> None:
    machine.visit(VOL1)
    machine.session(VOL10, portal)
    pages(machine, attribute, first, second)
    assert twins_in_status(machine)[VOL1] == ((), ())
    assert doctor_iscsi.serial_numbers(machine.host).level == "ok"


def test_two_paths_to_one_volume_are_no_twins(machine: Machine) -> None:
    first, second = machine.portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.target(VOL1, first, second)
    machine.configure("paths = all")
    machine.lookup(VOL1)
    pages(machine, "wwid", WWID, WWID)
    assert twins_in_status(machine)[VOL1] == ((), ())
    join(machine)
    assert twins_in_status(machine)[VOL1] == ((), ())


def test_two_luns_of_one_target_can_be_twins(machine: Machine) -> None:
    machine.target(VOL1, luns={0: {"partitions": {"1": None}}, 1: {}})
    machine.visit(VOL1)
    pages(machine, "wwid", WWID, WWID)
    assert twins_in_status(machine)[VOL1][1] == ("twin-volumes",)


def test_a_map_with_a_disk_that_is_not_from_iscsi_is_a_problem(machine: Machine) -> None:
    machine.target(VOL1)
    machine.visit(VOL1)
    join(machine)
    (machine.root / "sys/block/dm-0/slaves/sda").mkdir()
    said = "sdb has the same WWID as sda; multipath map dm-0 joins them"
    assert twins_in_status(machine)[VOL1] == ((said,), ("twin-volumes",))
