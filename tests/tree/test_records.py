"""A target without a node record: where it is looked for, and which record is made."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from tests.tree.machine import DAY, INITIATOR, NODE_FOLDERS, VOL1, VOL10, Machine, alive
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


@pytest.mark.parametrize("outcome", [0, 19])
def test_an_administrators_record_outlives_a_login_that_takes_too_long(
    machine: Machine, outcome: int
) -> None:
    """What the first login came to is not known; nor is it if the first lookup is killed."""
    portal = machine.target(VOL1, record=False, answers={"login": {"hang": 3, "exit": 19}})
    machine.record(VOL1, portal, CHAP.format(name=VOL1))
    machine.configure(f"portals = {portal}\nlogin_timeout = 1s")
    before = contents(machine.nodes)
    assert "left running" in machine.lookup(VOL1).log
    machine.quiet()
    machine.change(VOL1, answers={"login": {"exit": outcome}})
    assert (machine.lookup(VOL1).status == 0) == (outcome == 0)
    assert contents(machine.nodes) == before
    machine.age(VOL1, DAY)
    machine.reap()
    assert machine.sids() == [] and contents(machine.nodes) == before


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


# Records of ours that a boot has outlived

LEDGER = "var/lib/auto-iscsi/records"


def made(machine: Machine, portal: str = "") -> str:
    """Have a record that a lookup made, and then a boot; return its portal."""
    portal = machine.target(VOL1, portal or machine.portal(), record=False)
    machine.configure(f"portals = {portal}")
    machine.visit(VOL1)
    machine.reboot()
    return portal


def test_a_record_of_ours_from_an_earlier_boot_goes(machine: Machine) -> None:
    portal = made(machine)
    note = machine.root / LEDGER / VOL1
    assert note.stat().st_mode & 0o777 == 0o600 and note.parent.stat().st_mode & 0o777 == 0o700
    assert "s3cret" not in note.read_text()
    assert machine.folder(VOL1, portal).exists()
    assert machine.reap() == (0, "", "")
    assert contents(machine.nodes) == {} and contents(machine.root / LEDGER) == {}


@pytest.mark.parametrize("text", ["", "opened 1:1\n", "opened 1:1\nboot earlier\nlooked_up 1\n"])
def test_a_claim_that_is_damaged_or_of_an_earlier_boot_goes(machine: Machine, text: str) -> None:
    machine.target(VOL1)
    claim = machine.root / "run/auto-iscsi/claims" / VOL1
    machine.lookup(VOL1)
    assert machine.reap() == (0, "", "") and claim.exists()
    claim.write_text(text)
    assert machine.reap() == (0, "", "") and not claim.exists()
    assert machine.sids() == [1]  # whose the session is, is not known any more


@pytest.mark.parametrize("how", ["made anew", "changed"])
def test_a_record_that_somebody_changed_since_stays_and_that_is_said_once(
    machine: Machine, how: str
) -> None:
    portal = made(machine)
    record = machine.folder(VOL1, portal) / "default"
    text = record.read_text()
    if how == "made anew":  # even with the settings that ours have
        record.unlink()
        machine.record(VOL1, portal, text)
    else:
        machine.record(VOL1, portal, text.replace("browse", "backup"))
    before = contents(machine.nodes)
    said = machine.reap("--quiet")
    assert said.status == 0
    assert said.err == f"auto-iscsi: {VOL1}: node record of {portal} stays: somebody changed it\n"
    assert contents(machine.nodes) == before and contents(machine.root / LEDGER) == {}
    assert machine.reap() == (0, "", "")


def test_records_of_an_administrator_stay_after_a_boot(machine: Machine) -> None:
    made(machine)
    other = machine.target(VOL10)
    before = machine.values(VOL10, other)
    machine.reap()
    assert machine.values(VOL10, other) == before


def test_a_record_from_an_earlier_boot_with_a_session_stays_until_that_ends(
    machine: Machine,
) -> None:
    portal = made(machine)
    sid = machine.session(VOL1, portal)  # by hand, through our record
    assert machine.reap() == (0, "", "")
    assert machine.folder(VOL1, portal).exists()
    machine.log_out(sid)
    machine.reap()
    assert not machine.folder(VOL1, portal).exists()


def test_a_lookup_makes_a_record_from_an_earlier_boot_anew_and_it_is_ours_again(
    machine: Machine,
) -> None:
    portal = made(machine)
    machine.configure(f"portals = {portal}\nreplacement_timeout = 33s")
    machine.visit(VOL1)
    assert machine.values(VOL1, portal)["node.session.timeo.replacement_timeout"] == "33"
    assert machine.claim(VOL1).records == (machine.folder(VOL1, portal).name,)


@pytest.mark.parametrize("step", ["update", "update-done"])
def test_a_record_that_was_half_made_when_the_host_went_down_goes(
    machine: Machine, step: str
) -> None:
    if os.geteuid():
        pytest.skip("needs root, for a mount namespace")
    portal = machine.target(VOL1, record=False, chap=["browse", "a-secret-12345", "", ""])
    machine.files({"/etc/secret": "a-secret-12345\n"})
    machine.configure(f"portals = {portal}\nchap_user = browse\nchap_secret_file = /etc/secret")
    machine.stop_before(step)
    lookup = machine.start(VOL1)
    machine.reached(step)
    lookup.kill()
    for pid in machine.pids(ended=False):
        os.kill(pid, signal.SIGKILL)
    machine.wait_for(lambda: not any(map(alive, machine.pids())), "the end of iscsiadm")
    shutil.rmtree(machine.root / "run/auto-iscsi")
    machine.files({"/proc/sys/kernel/random/boot_id": "another\n"})
    assert machine.values(VOL1, portal)["node.session.auth.password"] == "a-secret-12345"
    assert machine.reap() == (0, "", "")
    assert contents(machine.nodes) == {} and contents(machine.root / LEDGER) == {}


def test_a_record_that_was_never_made_and_that_an_administrator_made_later_stays(
    machine: Machine,
) -> None:
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}")
    machine.stop_before("new")
    lookup = machine.start(VOL1)
    machine.reached("new")
    lookup.kill()
    for pid in machine.pids(ended=False):
        os.kill(pid, signal.SIGKILL)
    machine.wait_for(lambda: not any(map(alive, machine.pids())), "the end of iscsiadm")
    shutil.rmtree(machine.root / "run/auto-iscsi")
    machine.record(VOL1, portal)
    before = contents(machine.nodes)
    assert "stays: somebody changed it" in machine.reap().err
    assert contents(machine.nodes) == before


def test_a_failed_login_leaves_no_note_of_its_record(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False, answers={"login": {"exit": 19}})
    machine.configure(f"portals = {portal}")
    assert machine.lookup(VOL1).status == 1
    assert contents(machine.root / LEDGER) == {}
