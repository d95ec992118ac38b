"""A disk that cannot be read is not there yet: never empty, never without partitions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from auto_iscsi.admin import explain, output, status
from tests.tree import kernel
from tests.tree.machine import VOL1, Machine
from tests.tree.scsi import READY, STANDBY, STANDBY_WORDS, ScsiDisk

EMPTY: dict[str, Any] = {"partitions": {}}
FULL: dict[str, Any] = {"partitions": {"1": None}}
SHORT = "udev_timeout = 1s\n"


@pytest.fixture
def scsi(machine: Machine) -> Iterator[Callable[[str], ScsiDisk]]:
    """Make the SCSI side of disks, which are in standby."""
    made = []

    def make(name: str) -> ScsiDisk:
        made.append(ScsiDisk(machine, name))
        return made[-1]

    yield make
    for disk in made:
        disk.close()


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "partition = none",
        "fstype = auto",
        "fstype = auto\npartition = auto",
        "fstype = auto\npartition = all",
        "fstype = auto\npartition = none",
        "device = kernel\npartition = none",
        "paths = all",
    ],
)
def test_it_is_refused_in_the_words_of_scsi(
    machine: Machine, scsi: Callable[[str], ScsiDisk], settings: str
) -> None:
    portal = machine.target(VOL1, luns={0: EMPTY})
    machine.configure(f"{SHORT}{settings}")
    scsi("sdb")
    for _ in ("cold", "warm"):
        answer = machine.lookup(VOL1)
        assert answer.status == 1
        why = f"{VOL1}: LUN 0 (sdb) through {portal} cannot be read: {STANDBY_WORDS}, after 1 s; "
        assert answer.log == why + "make the LUN ready at the SAN, and visit the key again"
    assert len(machine.runs("--login")) == 1


def test_the_next_visit_finds_it_anew(machine: Machine, scsi: Callable[[str], ScsiDisk]) -> None:
    portal = machine.target(VOL1, luns={0: EMPTY}, rescanned={0: FULL})
    machine.configure(SHORT)
    disk = scsi("sdb")
    assert machine.lookup(VOL1).status == 1
    disk.sense = READY
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    asked, runs = disk.asked, machine.runs()
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert (disk.asked, machine.runs()) == (asked, runs)
    assert len(machine.runs("--login")) == 1


def test_a_visit_waits_until_it_is_ready(machine: Machine, scsi: Callable[[str], ScsiDisk]) -> None:
    portal = machine.target(VOL1, luns={0: EMPTY}, rescanned={0: FULL})
    machine.configure("udev_timeout = 20s\n")
    disk = scsi("sdb")

    def make_ready() -> None:
        disk.sense = READY

    timer = threading.Timer(1.0, make_ready)
    timer.start()
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    timer.join()
    assert len(machine.runs("--rescan")) == 1


def test_an_empty_disk_is_found_anew_once_a_visit(
    machine: Machine, scsi: Callable[[str], ScsiDisk]
) -> None:
    machine.target(VOL1, luns={0: EMPTY}, rescanned={0: EMPTY})
    scsi("sdb").sense = READY
    for visits in (1, 2):
        assert "the disk has none; set partition = none" in machine.lookup(VOL1).log
        assert len(machine.runs("--rescan")) == visits


def test_the_disk_of_somebody_elses_session_is_left_alone(
    machine: Machine, scsi: Callable[[str], ScsiDisk]
) -> None:
    portal = machine.target(VOL1, luns={0: EMPTY}, rescanned={0: FULL})
    machine.session(VOL1, portal)
    scsi("sdb").sense = READY
    assert "the disk has none" in machine.lookup(VOL1).log
    (disk,) = machine.disks()
    unit = disk.path.rpartition("/block/")[0]
    assert kernel.read(str(machine.root), f"{unit}/delete") == ""


@pytest.mark.parametrize("settings", ["", "paths = all", "portals"])
def test_a_path_through_which_it_cannot_be_read_is_passed_over(
    machine: Machine, scsi: Callable[[str], ScsiDisk], settings: str
) -> None:
    portals = sorted((machine.portal(), machine.portal()), key=lambda p: int(p.split(":")[1]))
    standby, active = portals
    is_recorded = settings != "portals"
    machine.target(VOL1, *portals, record=is_recorded, luns_at={standby: {0: EMPTY}})
    machine.configure(SHORT + (settings if is_recorded else f"portals = {standby}, {active}\n"))
    disk = scsi("sdb")
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, active), answer.log
    assert machine.leads_to(answer.entry) == "sdc1"
    why = f"LUN 0 (sdb) through {standby} cannot be read: {STANDBY_WORDS}"
    assert answer.log.endswith(f"a path is passed over: {why}")
    assert machine.claim(VOL1).sids == (2, 1)
    asked, runs = disk.asked, machine.runs()
    assert machine.visit(VOL1) == answer.entry
    assert (disk.asked, machine.runs()) == (asked, runs)


def test_the_next_visit_goes_on_with_a_portal_that_was_down(
    machine: Machine, scsi: Callable[[str], ScsiDisk]
) -> None:
    standby, active = machine.portal(), machine.dead_portal()
    machine.target(VOL1, standby, active, luns_at={standby: {0: EMPTY}})
    machine.configure(SHORT)
    scsi("sdb")
    answer = machine.lookup(VOL1)
    assert answer.status == 1 and STANDBY_WORDS in answer.log
    assert f"login through {active}: " in answer.log
    machine.revive(active)
    assert machine.lookup(VOL1).entry == machine.entry(VOL1, active)


def test_status_shows_it_unless_another_path_can_be_read(
    machine: Machine, scsi: Callable[[str], ScsiDisk]
) -> None:
    portals = (machine.portal(), machine.portal())
    machine.target(VOL1, *portals)
    machine.configure("paths = all")
    machine.lookup(VOL1)
    first, second = scsi("sdb"), scsi("sdc")
    report = status.report(machine.host, output.Paint(False))
    codes = [(problem["code"], problem["session"]) for problem in report.data["problems"]]
    assert (report.status, codes) == (1, [("disk-not-ready", 1), ("disk-not-ready", 2)])
    assert f"      sdb: {STANDBY_WORDS}" in report.lines
    second.sense = READY
    report = status.report(machine.host, output.Paint(False))
    assert (report.status, report.data["problems"]) == (0, [])
    assert report.data["sessions"][0]["not_ready"] == (f"sdb: {STANDBY_WORDS}",)
    assert f"      sdb: {STANDBY_WORDS}" in report.lines
    first.sense = READY
    assert status.report(machine.host, output.Paint(False)).data["sessions"][0]["not_ready"] == ()


def test_a_disk_that_cannot_be_read_any_more_is_found_anew(
    machine: Machine, scsi: Callable[[str], ScsiDisk]
) -> None:
    portal = machine.target(VOL1, rescanned={0: EMPTY})
    disk = scsi("sdb")
    disk.sense = READY
    assert machine.visit(VOL1)
    (found,) = machine.disks()
    for path, properties in (
        (found.path, "E:ID_PART_TABLE_TYPE=dos\n"),
        (f"{found.path}/sdb1", "E:ID_FS_TYPE=ext4\nE:ID_FS_USAGE=filesystem\n"),
    ):
        record = f"/run/udev/data/b{kernel.read(str(machine.root), f'{path}/dev')}"
        known = kernel.read(str(machine.root), record)
        machine.files({record: f"{known}\n{properties}"})
    machine.files({f"{found.path}/ro": "1\n"})
    machine.configure(f"{SHORT}fstype = auto\npartition = auto\noptions = ro\n")
    assert "fstype=auto" in machine.visit(VOL1)
    disk.sense = STANDBY
    answer = machine.lookup(VOL1)
    assert answer.status == 1
    assert f"LUN 0 (sdb) through {portal} cannot be read: {STANDBY_WORDS}" in answer.log


def test_explain_says_what_the_disk_says(machine: Machine, scsi: Callable[[str], ScsiDisk]) -> None:
    machine.session(VOL1, machine.target(VOL1, luns={0: EMPTY}))
    scsi("sdb")
    lines = explain.report(machine.host, VOL1, output.Paint(False)).lines
    words = [line.strip().partition("  ")[2].strip() for line in lines]
    assert f"it cannot be read now: {STANDBY_WORDS}" in words
    assert f"nothing yet: sdb cannot be read: {STANDBY_WORDS}" in words
