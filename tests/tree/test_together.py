"""Many at once, and killed at any point: one session each, and nothing that stops the next."""

from __future__ import annotations

import pytest

from tests import at_once
from tests.tree.machine import VOL1, Machine

pytestmark = at_once.MARK
MANY = [f"iqn.2001-05.com.equallogic:many-{number}" for number in range(8)]

# Every step that iscsiadm takes for a target that has no record yet, and the kernel after it.
STEPS = [
    "discover", "discover-done", "new", "new-done", "update", "update-done", "login", "session",
    "logged-in", "disk", "partition", "udev", "login-done",
]  # fmt: skip


@pytest.mark.parametrize("record", [True, False], ids=["record", "discovered"])
def test_eight_lookups_of_one_key_are_one_login_and_one_answer(
    machine: Machine, record: bool
) -> None:
    portal = machine.target(VOL1, record=record, after={"udev": 0.2})
    machine.configure(f"portals = {portal}")
    lookups = [machine.start(VOL1) for _ in range(8)]
    answers = {lookup.answer()[:3] for lookup in lookups}
    assert answers == {(0, machine.entry(VOL1, portal), "")}
    assert machine.sids() == [1]
    assert len(machine.runs("--login")) == 1
    assert machine.claim(VOL1).ours


def test_eight_keys_at_once_are_eight_sessions(machine: Machine) -> None:
    portal = machine.portal()
    for name in MANY:
        machine.target(name, portal, record=False, after={"udev": 0.2})
    machine.configure(f"portals = {portal}")
    lookups = [machine.start(name) for name in MANY]
    for name, lookup in zip(MANY, lookups):
        answer = lookup.answer()
        assert answer.entry == machine.entry(name, portal), answer.log
    assert len(machine.sids()) == 8
    assert len({machine.leads_to(machine.entry(name, portal)) for name in MANY}) == 8


@pytest.mark.parametrize("step", STEPS)
def test_a_lookup_killed_at_any_step_of_iscsiadms_does_not_stop_the_next(
    machine: Machine, step: str
) -> None:
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}")
    machine.stop_before(step)
    killed = machine.start(VOL1)
    machine.reached(step)
    killed.kill()
    following = machine.start(VOL1)  # while that iscsiadm is still at it
    machine.wait_for(machine.held(VOL1), "the next lookup")
    machine.go_on()
    answer = following.answer()
    assert answer.entry == machine.entry(VOL1, portal), answer.log
    assert machine.sids() == [1]
    assert machine.values(VOL1, portal)["node.startup"] == "manual"
    assert machine.claim(VOL1).ours
    assert machine.claim(VOL1).record == machine.folder(VOL1, portal).name
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
