"""A target without a node record: where it is looked for, and which record is made."""

from __future__ import annotations

import pytest

from tests.tree.machine import INITIATOR, NODE_FOLDERS, VOL1, VOL10, Machine
from tests.tree.tree import contents

BOTH_NODES = pytest.mark.parametrize("machine", NODE_FOLDERS, indirect=True)
CHAP = (
    "# BEGIN RECORD 2.1.8\nnode.name = {name}\nnode.startup = automatic\n"
    "node.session.auth.authmethod = CHAP\nnode.session.auth.password = s3cret\n# END RECORD\n"
)


def test_without_a_record_and_portals_the_log_says_what_to_do(machine: Machine) -> None:
    answer = machine.lookup(VOL1)
    assert answer.status == 1
    assert VOL1 in answer.log and "no node record" in answer.log
    assert "set portals in /etc/auto.iscsi.conf" in answer.log
    assert machine.runs() == []


@BOTH_NODES
def test_portals_are_asked_and_a_record_is_made_for_the_one_target(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False)
    machine.target(VOL10, portal, record=False)
    machine.configure(f"portals = {portal}\nlogin_timeout = 5s\nreplacement_timeout = 20s")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    nodes = machine.nodes
    assert [path.name for path in nodes.iterdir()] == [VOL1]
    record = machine.values(VOL1, portal)
    assert record["node.startup"] == "manual"  # and not iscsid.conf's automatic
    assert record["node.session.timeo.replacement_timeout"] == "20"
    assert int(record["node.session.initial_login_retry_max"]) == 1
    assert 1 <= int(record["node.conn[0].timeo.login_timeout"]) <= 5
    assert record["node.session.auth.password"] == "s3cret"  # iscsid.conf's


@BOTH_NODES
@pytest.mark.parametrize("outcome", [0, 19])
def test_records_of_other_targets_do_not_change(machine: Machine, outcome: int) -> None:
    portal = machine.target(VOL1, record=False, answers={"login": {"exit": outcome}})
    machine.target(VOL10, portal, record=False)
    machine.record(VOL10, portal, CHAP.format(name=VOL10))
    machine.record("iqn.1999-01.org.example:gone", portal, CHAP.format(name="gone"))
    machine.configure(f"portals = {portal}")
    before = contents(machine.nodes)
    machine.lookup(VOL1)
    after = contents(machine.nodes)
    assert {name: text for name, text in after.items() if VOL1 + "/" not in name} == before


@pytest.mark.parametrize("outcome", [0, 8, 19, 24])
def test_an_existing_record_is_used_and_does_not_change(machine: Machine, outcome: int) -> None:
    portal = machine.target(VOL1, record=False, answers={"login": {"exit": outcome}})
    machine.record(VOL1, portal, CHAP.format(name=VOL1))
    machine.configure(f"portals = {portal}")
    before = contents(machine.root / "etc/iscsi")
    machine.lookup(VOL1)
    assert contents(machine.root / "etc/iscsi") == before
    assert machine.runs() == [f"-m node -T {VOL1} -p {portal},1 --login"]


@pytest.mark.parametrize("outcome", [8, 19, 24])
def test_a_record_of_ours_is_deleted_when_the_login_fails(machine: Machine, outcome: int) -> None:
    portal = machine.target(VOL1, record=False, answers={"login": {"exit": outcome}})
    machine.configure(f"portals = {portal}")
    assert f"iscsiadm exit {outcome}" in machine.lookup(VOL1).log
    assert not machine.folder(VOL1, portal).exists()
    machine.change(VOL1, answers={})
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)


@pytest.mark.parametrize("verb", ["new", "update"])
def test_a_half_made_record_is_deleted(machine: Machine, verb: str) -> None:
    portal = machine.target(VOL1, record=False, answers={verb: {"exit": 6}})
    machine.configure(f"portals = {portal}")
    answer = machine.lookup(VOL1)
    assert (
        "the record database cannot be read or written (iscsiadm exit 6)" in answer.log
        and portal in answer.log
    )
    assert machine.runs("--login") == []
    assert not machine.folder(VOL1, portal).exists()
    assert not machine.claim(VOL1).ours


def test_a_record_of_ours_is_used_by_the_next_login(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}")
    machine.lookup(VOL1)
    machine.log_out(1)
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert len(machine.runs("discovery")) == 1
    assert machine.values(VOL1, portal)["node.startup"] == "manual"


def test_a_discovery_changes_no_record(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}")
    machine.lookup(VOL1)
    assert [run for run in machine.runs("discovery") if "-o nonpersistent" not in run] == []
    assert len(machine.runs("discovery")) == 1


def test_a_portal_that_does_not_offer_the_target_is_named(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False, offered=False)
    machine.target(VOL10, portal, record=False)
    machine.configure(f"portals = {portal}")
    answer = machine.lookup(VOL1)
    assert f"discovery at {portal}: the target is not offered to {INITIATOR}" in answer.log
    assert machine.runs("--login") == []


def test_a_portal_that_offers_no_target_at_all_is_named(machine: Machine) -> None:
    portal = machine.portal()
    machine.configure(f"portals = {portal}")
    assert f"the target is not offered to {INITIATOR}" in machine.lookup(VOL1).log


def test_the_next_portal_is_asked_when_one_is_dead_or_does_not_offer_it(machine: Machine) -> None:
    dead, other, portal = machine.dead_portal(), machine.portal(), machine.portal()
    machine.target(VOL10, other, record=False)
    machine.target(VOL1, portal, record=False)
    machine.configure(f"portals = {dead}, {other}, {portal}")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert len(machine.runs("discovery")) == 2


def test_a_discovery_may_name_other_portals_than_the_one_that_was_asked(machine: Machine) -> None:
    asked, offered = machine.dead_portal(), machine.portal("127.0.0.2")
    group = machine.portal("127.0.0.3")
    machine.target(VOL1, asked, offered, group, record=False)
    machine.configure(f"portals = {group}")
    # The configured portal is tried first, then the others that it named.
    assert machine.visit(VOL1) == machine.entry(VOL1, group)


def test_the_log_says_why_a_discovery_failed(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False, answers={"discover": {"exit": 24}})
    machine.configure(f"portals = {portal}")
    answer = machine.lookup(VOL1)
    assert f"discovery at {portal}: " in answer.log and "(iscsiadm exit 24)" in answer.log
