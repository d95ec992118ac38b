"""The disk of a target: never another target's, and a clear message when it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from auto_iscsi.config import schema
from auto_iscsi.disks import scsi_disks
from auto_iscsi.iscsi import sessions
from auto_iscsi.machine.host import Host
from tests.tree import kernel
from tests.tree.machine import MARGIN, OTHER, VOL1, VOL10, Machine


@pytest.mark.parametrize(("first", "second"), [(VOL10, VOL1), (VOL1, VOL10)])
def test_a_name_that_begins_like_another_is_another_target(
    machine: Machine, first: str, second: str
) -> None:
    portal = machine.target(first)
    machine.target(second, portal)
    machine.lookup(first)
    assert machine.visit(second) == machine.entry(second, portal)
    assert [run.split()[3] for run in machine.runs("--login")] == [first, second]


def test_the_session_of_a_longer_name_is_not_used_for_a_shorter_one(machine: Machine) -> None:
    portal = machine.target(VOL10)
    machine.lookup(VOL10)
    answer = machine.lookup(VOL1)
    assert answer.status == 1 and "no node record" in answer.log
    assert machine.entry(VOL10, portal) == machine.visit(VOL10)


def test_a_disk_name_that_another_target_got_is_not_used(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.target(OTHER, portal)
    assert machine.leads_to(machine.visit(VOL1)) == "sdb1"
    machine.log_out(1)
    other = machine.visit(OTHER)
    assert machine.leads_to(other) == "sdb1"
    again = machine.visit(VOL1)
    assert (again, machine.leads_to(again)) == (machine.entry(VOL1, portal), "sdc1")
    assert machine.visit(OTHER) == other


def test_a_stale_link_to_another_targets_disk_is_waited_out(machine: Machine) -> None:
    portal = machine.target(VOL1, after={"udev": 0.6})
    machine.target(OTHER, portal)
    machine.lookup(OTHER)
    machine.leave_stale_link(VOL1, portal, "sdb")
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, portal)
    assert machine.leads_to(answer.entry) == "sdc1"


def test_a_stale_link_to_a_disk_that_is_gone_is_never_used(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.lookup(VOL1)
    machine.log_out(1, udev=False)
    assert machine.entry(VOL1, portal) == machine.visit(VOL1)
    assert len(machine.runs("--login")) == 2
    assert machine.leads_to(machine.entry(VOL1, portal)) == "sdb1"


def test_a_partition_that_comes_while_a_lookup_looks_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, settings = Host(str(tmp_path)), schema.resolve([], VOL1)
    disk = kernel.add_disk(host.root, kernel.open_session(host.root, VOL1, "127.0.0.1", 3260, 1), 0)
    names_now = Host.names

    def names(host: Host, name: str) -> list[str]:
        """The kernel and udev finish with the disk as soon as its partitions were read."""
        names = names_now(host, name)
        if name.endswith(f"/block/{disk.name}") and f"{disk.name}1" not in names:
            kernel.add_partitions(host.root, disk, {"1": None})
            kernel.announce(host.root, disk, {"1": None})
        return names

    monkeypatch.setattr(Host, "names", names)
    present = sessions.find_all(host, VOL1)
    assert scsi_disks.matching_devices(host, present, settings) == []
    (device,) = scsi_disks.matching_devices(host, present, settings)
    assert device.node == f"{disk.name}1"


def test_udevs_record_of_an_earlier_disk_with_that_number_is_not_used(machine: Machine) -> None:
    portal = machine.target(VOL1, after={"partition": 0.5})
    machine.udev_knows("8:16", machine.entry(OTHER, portal))
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    machine.quiet()


def test_udevs_record_of_the_same_lun_before_its_last_logout_is_not_used(
    machine: Machine,
) -> None:
    portal = machine.target(VOL1, after={"partition": 0.5})
    machine.lookup(VOL1)
    machine.quiet()
    machine.log_out(1, udev=False)
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    machine.quiet()


def test_a_lun_that_was_mapped_after_the_login_is_found_by_a_rescan(machine: Machine) -> None:
    portal = machine.target(VOL1, luns={}, rescanned={"0": {"partitions": {"1": None}}})
    machine.session(VOL1, portal)
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert machine.runs() == ["-m session -r 1 --rescan"]


@pytest.mark.parametrize(
    ("partitions", "reason", "hint"),
    [
        ({"2": None, "3": None}, "the disk has 2, 3", "set partition = 2"),
        ({}, "the disk has none", "set partition = none"),
    ],
    ids=["others", "none"],
)
def test_a_missing_partition_is_reported_at_once_with_those_that_exist(
    machine: Machine, partitions: dict[str, None], reason: str, hint: str
) -> None:
    portal = machine.target(VOL1, luns={0: {"partitions": partitions}})
    machine.configure("udev_timeout = 30s")
    for _ in ("cold", "warm"):
        answer = machine.lookup(VOL1)
        assert f"no partition 1 on LUN 0 (sdb) through {portal}: {reason}" in answer.log
        assert answer.log.startswith(f"{VOL1}: ") and hint in answer.log
        assert answer.seconds < MARGIN


@pytest.mark.parametrize("settings", ["", "partition = none", "fstype = auto", "device = kernel"])
def test_a_disk_without_a_size_is_not_there_yet(machine: Machine, settings: str) -> None:
    portal = machine.target(VOL1, luns={0: {"partitions": {}}})
    machine.session(VOL1, portal)
    (disk,) = machine.disks()
    machine.files({f"{disk.path}/size": "0\n"})
    machine.configure(f"udev_timeout = 1s\n{settings}")
    answer = machine.lookup(VOL1)
    assert (answer.status, answer.entry) == (1, "")
    assert f"LUN 0 (sdb) through {portal} has no size: it was not ready" in answer.log
    assert "found it, after 1 s; make the LUN ready" in answer.log
    assert "partition = none" not in answer.log
