"""Several portals: the order in which they are tried, and the message when none lets us in."""

from __future__ import annotations

import pytest

from tests.tree.machine import INITIATOR, MARGIN, VOL1, Machine, has_ipv6
from tests.tree.tree import Link


def test_the_next_portal_is_tried_when_one_is_dead(machine: Machine) -> None:
    dead, portal = machine.dead_portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.target(VOL1, dead, portal)
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert machine.runs() == [f"-m node -T {VOL1} -p {portal},1 --login"]


@pytest.mark.parametrize("outcome", [4, 8, 11, 19])
def test_the_next_portal_is_tried_when_the_login_fails_at_one(
    machine: Machine, outcome: int
) -> None:
    first, second = machine.portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.target(VOL1, first, second, answers={f"login {first}": {"exit": outcome}})
    assert machine.visit(VOL1) == machine.entry(VOL1, second)
    assert len(machine.runs("--login")) == 2
    assert (machine.claim(VOL1).ours, machine.claim(VOL1).sids) == (True, (1,))


def test_of_two_discovered_portals_only_the_one_that_works_keeps_its_record(
    machine: Machine,
) -> None:
    first, second = machine.portal("127.0.0.1"), machine.portal("127.0.0.2")
    answers = {f"login {first}": {"exit": 8}}
    machine.target(VOL1, first, second, record=False, answers=answers)
    machine.configure(f"portals = {first}")
    assert machine.visit(VOL1) == machine.entry(VOL1, second)
    assert not machine.folder(VOL1, first).exists()
    assert machine.values(VOL1, second)["node.startup"] == "manual"


def test_a_refused_secret_is_not_tried_at_the_second_portal(machine: Machine) -> None:
    first, second = machine.portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.target(VOL1, first, second, answers={"login": {"exit": 24}})
    answer = machine.lookup(VOL1)
    assert "refused this host or its CHAP secret (iscsiadm exit 24)" in answer.log
    assert first in answer.log and INITIATOR in answer.log
    assert len(machine.runs("--login")) == 1


def test_the_message_for_a_target_that_is_not_presented_names_this_host(machine: Machine) -> None:
    portal = machine.target(VOL1, answers={"login": {"exit": 19}})
    answer = machine.lookup(VOL1)
    assert answer.log.startswith(f"{VOL1}: login through {portal}: ")
    assert "(iscsiadm exit 19)" in answer.log
    assert answer.log.endswith(f"present it at the SAN (this host is {INITIATOR})")


def test_when_all_portals_are_dead_each_is_named_with_the_reason_and_iscsiadm_does_not_run(
    machine: Machine,
) -> None:
    first, second = machine.dead_portal("127.0.0.1"), machine.dead_portal("127.0.0.2")
    machine.target(VOL1, first, second)
    answer = machine.lookup(VOL1)
    for portal in (first, second):
        assert f"login through {portal}: connection refused" in answer.log
    assert "is the portal up and reachable?" in answer.log
    assert answer.seconds < 2 + MARGIN
    assert machine.runs() == []


def test_when_a_dead_portal_works_again_so_does_the_next_lookup(machine: Machine) -> None:
    dead = machine.dead_portal()
    machine.target(VOL1, dead)
    assert machine.lookup(VOL1).status == 1
    machine.revive(dead)
    assert machine.visit(VOL1) == machine.entry(VOL1, dead)


def test_the_configured_portals_come_first(machine: Machine) -> None:
    first, second = machine.portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.target(VOL1, first, second)
    machine.configure(f"portals = {second}")
    assert machine.visit(VOL1) == machine.entry(VOL1, second)
    assert len(machine.runs()) == 1


def test_a_record_that_is_bound_to_an_interface_is_used_even_if_we_cannot_connect(
    machine: Machine,
) -> None:
    # That interface can have a route that our own connection does not take.
    dead = machine.dead_portal()
    machine.target(VOL1, dead)
    record = machine.folder(VOL1, dead)
    (record / "default").rename(record / "storage0")
    assert machine.visit(VOL1) == machine.entry(VOL1, dead)


def test_a_record_of_an_old_version_is_one_file(machine: Machine) -> None:
    portal = machine.target(VOL1)
    record = machine.folder(VOL1, portal)
    (record / "default").unlink()
    record.rmdir()
    record.write_text("node.startup = manual\n")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert machine.runs("--login") == [f"-m node -T {VOL1} -p {portal},1 --login"]


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
@pytest.mark.parametrize("record", [True, False], ids=["record", "discovered"])
def test_an_ipv6_portal(machine: Machine, record: bool) -> None:
    portal = machine.portal("::1")
    machine.target(VOL1, portal, record=record)
    machine.configure(f"portals = {portal}")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert machine.runs("--login") == [f"-m node -T {VOL1} -p {portal},1 --login"]
    assert machine.folder(VOL1, portal).name.startswith("::1,")


def test_with_two_sessions_one_of_them_is_mounted(machine: Machine) -> None:
    first, second = machine.portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.target(VOL1, first, second)
    machine.session(VOL1, first)
    machine.session(VOL1, second)
    assert machine.visit(VOL1) in {machine.entry(VOL1, p) for p in (first, second)}
    assert machine.runs() == []


def test_one_of_two_sessions_is_enough(machine: Machine) -> None:
    first, second = machine.portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.target(VOL1, first, second)
    machine.session(VOL1, first, "FAILED")
    machine.session(VOL1, second)
    assert machine.visit(VOL1) == machine.entry(VOL1, second)
    assert machine.runs() == []


@pytest.mark.parametrize("leads_to", ["sdb1", "sdc1"])
def test_two_sessions_through_one_portal_share_the_link(machine: Machine, leads_to: str) -> None:
    portal = machine.target(VOL1)
    machine.session(VOL1, portal)
    machine.session(VOL1, portal)
    entry = machine.entry(VOL1, portal)
    link = f"/dev/disk/by-path/{entry.rpartition('/')[2][:-1]}"
    (machine.root / link.lstrip("/")).unlink()
    machine.files({link: Link(f"../../{leads_to}")})
    assert machine.visit(VOL1) == entry
