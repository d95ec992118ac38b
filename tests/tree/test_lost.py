"""A session whose connection is down: recovered, replaced, or still mounted."""

from __future__ import annotations

import pytest

from tests.tree.machine import MARGIN, VOL1, VOL10, Machine


def test_a_lookup_waits_until_iscsid_has_recovered_the_session(machine: Machine) -> None:
    portal = machine.target(VOL1)
    sid = machine.session(VOL1, portal, "FAILED")
    lookup = machine.start(VOL1)
    machine.connected(portal)  # the lookup has seen that the session is down
    machine.state(sid, "LOGGED_IN")
    assert lookup.answer().entry == machine.entry(VOL1, portal)
    assert machine.runs("--login") == []
    assert machine.sids() == [sid]


def test_a_session_whose_portal_is_dead_is_not_waited_for(machine: Machine) -> None:
    portal = machine.target(VOL1, machine.dead_portal())
    machine.session(VOL1, portal, "FAILED")
    machine.configure("login_timeout = 30s")
    answer = machine.lookup(VOL1)
    assert answer.status == 1 and f"session 1 through {portal} is FAILED" in answer.log
    assert answer.seconds < 2 + MARGIN
    assert machine.runs() == []


def test_another_portal_takes_the_place_of_a_dead_one(machine: Machine) -> None:
    first, second = machine.dead_portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.target(VOL1, first, second)
    machine.session(VOL1, first, "FAILED")
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, second)
    assert machine.leads_to(answer.entry) == "sdc1"
    assert machine.runs() == [f"-m node -T {VOL1} -p {second},1 --login"]


def test_a_lookup_of_a_mounted_key_answers_at_once_with_the_mount(machine: Machine) -> None:
    # A restarted automount looks up each mount, and never expires one whose lookup failed.
    portal = machine.target(VOL1, machine.mute_portal())
    machine.session(VOL1, portal, "FAILED")
    machine.mount(VOL1)
    machine.configure("login_timeout = 30s")
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, portal)
    assert answer.seconds < MARGIN
    assert machine.runs() == []


@pytest.mark.parametrize("key", [VOL1, VOL1.upper()])
def test_a_mounted_key_without_any_session_is_answered_too(machine: Machine, key: str) -> None:
    machine.target(VOL1, machine.mute_portal())
    machine.mount(key)
    answer = machine.lookup(key)
    assert answer.entry == "-nocheck,ro,fstype=ext3 :/dev/sdb1"
    assert answer.seconds < MARGIN
    assert machine.runs() == []


def test_a_mount_of_another_key_is_not_an_answer(machine: Machine) -> None:
    machine.target(VOL1, machine.dead_portal())
    machine.mount(VOL10, other=VOL1)  # and automount's own trigger mount at the place of VOL1
    assert machine.lookup(VOL1).status == 1


def test_a_mounted_key_with_a_session_that_is_up_is_answered_through_it(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.mount(VOL1)
    machine.session(VOL1, portal)
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
