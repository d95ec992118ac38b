"""Never another snapshot's files: which disk is meant, and what is said when it is not there."""

from __future__ import annotations

import pytest

from tests.tree import kernel
from tests.tree.machine import VOL1, VOL10, Machine
from tests.tree.test_portals import MARGIN
from tests.tree.tree import Link

OTHER = "iqn.2001-05.com.equallogic:0-8a0906-other"


def stale_link(machine: Machine, name: str, portal: str, disk: str) -> None:
    """Have a link of a target left over, which leads to what is another's disk by now."""
    link = f"{kernel.BY_PATH}/{machine.entry(name, portal).rpartition('/')[2][:-1]}"
    machine.files({link: Link(f"../../{disk}1"), link[: -len("-part1")]: Link(f"../../{disk}")})


@pytest.mark.parametrize(("there", "wanted"), [(VOL10, VOL1), (VOL1, VOL10)])
def test_a_name_that_begins_like_another_is_another_target(
    machine: Machine, there: str, wanted: str
) -> None:
    portal = machine.target(there)
    machine.target(wanted, portal)
    machine.lookup(there)
    assert machine.visit(wanted) == machine.entry(wanted, portal)
    assert [run.split()[3] for run in machine.runs("--login")] == [there, wanted]


def test_a_name_that_begins_like_another_has_that_ones_session_only(machine: Machine) -> None:
    portal = machine.target(VOL10)
    machine.lookup(VOL10)
    answer = machine.lookup(VOL1)
    assert answer.status == 1 and "no node record" in answer.log
    assert machine.entry(VOL10, portal) == machine.visit(VOL10)


def test_a_disk_name_that_another_target_has_by_now_is_not_used(machine: Machine) -> None:
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
    stale_link(machine, VOL1, portal, "sdb")
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


def test_what_udev_knew_of_a_disk_that_had_the_number_before_says_nothing(machine: Machine) -> None:
    portal = machine.target(VOL1, after={"partition": 0.5})
    machine.udev_knows("8:16", machine.entry(OTHER, portal))
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    machine.quiet()


def test_what_udev_knew_of_the_same_disk_before_its_last_logout_says_nothing(
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
    ("there", "said", "todo"),
    [
        ({"2": None, "3": None}, "the disk has 2, 3", "set partition = 2"),
        ({}, "the disk has none", "set partition = none"),
    ],
    ids=["others", "none"],
)
def test_a_missing_partition_is_said_at_once_with_those_that_are_there(
    machine: Machine, there: dict[str, None], said: str, todo: str
) -> None:
    portal = machine.target(VOL1, luns={0: {"partitions": there}})
    machine.configure("udev_timeout = 30s")
    for _ in ("cold", "warm"):
        answer = machine.lookup(VOL1)
        assert f"no partition 1 on LUN 0 (sdb) through {portal}: {said}" in answer.log
        assert answer.log.startswith(f"{VOL1}: ") and todo in answer.log
        assert answer.seconds < MARGIN
