"""auto-iscsi list: the snapshots of each volume, from node records, sessions and portals."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from auto_iscsi.admin import cli
from auto_iscsi.iscsi import rate_limit
from tests.tree.machine import Machine
from tests.tree.tree import make_tree

STEM = "iqn.2001-05.com.example"
DAYS = [
    f"{STEM}:{volume}-2010-05-0{day}-04:00:01" for volume in ("vm-alpha", "vm-beta") for day in "34"
]
RECORD = "/etc/iscsi/nodes/{}/10.0.0.1,3260,1/default"


@pytest.fixture(autouse=True)
def known(machine: Machine) -> None:
    names = [*DAYS, f"{STEM}:test", f"{STEM}:hidden-2010-05-03-04:00:01"]
    make_tree(machine.root, {RECORD.format(name): "" for name in names})
    configuration = f"timezone = UTC\n[{STEM}:hidden-*]\nenabled = no\n"
    make_tree(machine.root, {"/etc/auto.iscsi.conf": configuration})


def run(machine: Machine, *arguments: str) -> int:
    return cli.main(["--root", str(machine.root), "list", *arguments])


def test_all_volumes_with_their_snapshots(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(machine) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split()[:3] for line in lines[1:5]]
    assert shown == [
        ["vm-alpha", "2010-05-04", "04:00:01"],
        ["vm-alpha", "2010-05-03", "04:00:01"],
        ["vm-beta", "2010-05-04", "04:00:01"],
        ["vm-beta", "2010-05-03", "04:00:01"],
    ]
    assert "4 snapshots of 2 volumes" in lines
    assert any(f"{STEM}:test: its name fits no template" in line for line in lines)
    assert "hidden" not in "".join(lines)


def test_a_host_that_knows_no_target_is_told_what_it_lacks(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(f"{machine.root}/etc/iscsi/nodes")
    assert run(machine) == 0
    first = capsys.readouterr().out.splitlines()
    assert first[0] == "0 snapshots of 0 volumes" and "to do: set portals in" in first[1]
    offered = f"{STEM}:vm-gamma-2010-05-03-04:00:01"
    portal = machine.target(offered, record=False)
    machine.change(offered, offered=False)
    machine.configure(f"portals = {portal}\n")
    make_tree(machine.root, {"/etc/iscsi/initiatorname.iscsi": f"InitiatorName={STEM}:browse\n"})
    assert run(machine) == 0
    assert f"to this host at the SAN: it is {STEM}:browse" in capsys.readouterr().out


def test_one_snapshot_of_a_day(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(machine, "vm-beta@2010-05-03", "--json") == 0
    (only,) = json.loads(capsys.readouterr().out)["snapshots"]
    assert (only["target"], only["time"]) == (DAYS[2], "2010-05-03T04:00:01+00:00")
    assert run(machine, "vm-beta@2010-05-02") == 1
    assert "there are 2010-05-04 04:00:01, 2010-05-03 04:00:01" in capsys.readouterr().err
    assert run(machine, "vm-gamma") == 1
    assert "the volumes are vm-alpha, vm-beta" in capsys.readouterr().err


def test_limits_are_days_that_belong_to_the_list(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(machine, "--since", "2010-05-04", "--json") == 0
    since = json.loads(capsys.readouterr().out)["snapshots"]
    assert [each["target"] for each in since] == [DAYS[1], DAYS[3]]
    assert run(machine, "--until", "2010-05-03", "--json") == 0
    until = json.loads(capsys.readouterr().out)["snapshots"]
    assert [each["target"] for each in until] == [DAYS[0], DAYS[2]]
    assert run(machine, "--since", "soon") == 1


def test_a_session_is_shown(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.target(DAYS[2])
    machine.session(DAYS[2], "10.0.0.1:3260")
    assert run(machine, "vm-beta@oldest", "--json") == 0
    (only,) = json.loads(capsys.readouterr().out)["snapshots"]
    assert only["session"] is True


def states(machine: Machine, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, bool]:
    """Return the targets of vm-gamma that are listed, and whether they are gone."""
    run(machine, "vm-gamma", "--json", *more)
    shown = json.loads(capsys.readouterr().out or '{"snapshots": []}')["snapshots"]
    return {each["target"][-14:-9]: each["gone"] for each in shown}


def test_what_a_portal_offers_is_listed_and_what_it_no_longer_offers_is_gone(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = (f"{STEM}:vm-gamma-2010-05-0{day}-04:00:01" for day in "34")
    portal = machine.target(older)  # has a node record
    machine.target(newer, portal, record=False)
    machine.configure(f"timezone = UTC\nportals = {portal}\n")
    assert states(machine, capsys, "--offline") == {"05-03": False}
    assert not machine.runs("discovery")
    assert states(machine, capsys) == {"05-04": False, "05-03": False}
    assert states(machine, capsys) == {"05-04": False, "05-03": False}
    assert len(machine.runs("discovery")) == 1  # one in two seconds
    assert all("nonpersistent" in line for line in machine.runs("discovery"))
    machine.change(older, offered=False)
    machine.change(newer, offered=False)
    time.sleep(rate_limit.OFFER_LIFETIME + 0.1)
    assert states(machine, capsys) == {"05-03": True}


def test_a_portal_that_does_not_answer_is_named(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    portal = machine.dead_portal()
    machine.configure(f"timezone = UTC\nportals = {portal}\n")
    assert run(machine, "vm-beta") == 0
    assert f"discovery at {portal}: connection refused" in capsys.readouterr().out


def test_a_section_with_portals_of_its_own_is_asked_too(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"{STEM}:vm-gamma-2010-05-03-04:00:01"
    portal = machine.target(target, record=False)
    machine.configure(f"timezone = UTC\n[{STEM}:vm-gamma*]\nportals = {portal}\n")
    assert states(machine, capsys) == {"05-03": False}
