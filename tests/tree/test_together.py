"""Many lookups at once, or killed at any point: one session each, and the next lookup works."""

from __future__ import annotations

import itertools
import shutil
import signal
import time

import pytest

from tests.tree.machine import MARGIN, PATIENCE, VOL1, VOL10, Machine

MANY = [f"iqn.2001-05.com.equallogic:many-{number}" for number in range(8)]

# Every step that iscsiadm takes for a target that has no record yet, and the kernel after it.
STEPS = [
    "discover",
    "discover-done",
    "new",
    "new-done",
    "update",
    "update-done",
    "login",
    "session",
    "logged-in",
    "disk",
    "partition",
    "udev",
    "login-done",
]


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
    machine.stop_before("discover")
    lookups = [machine.start(name) for name in MANY]
    for name in MANY:
        machine.wait_for(machine.held(name), "all lookups")
    time.sleep(0.5)  # by now each needs a discovery, and open-iscsi runs one at a time
    machine.go_on()
    for name, lookup in zip(MANY, lookups):
        answer = lookup.answer()
        assert answer.entry == machine.entry(name, portal), answer.log
    assert len(machine.sids()) == 8
    assert len({machine.leads_to(machine.entry(name, portal)) for name in MANY}) == 8


def test_a_second_run_beside_the_mount_of_the_first_says_remount(machine: Machine) -> None:
    # After Ctrl-C and another visit, automount runs the map again, though it has mounted meanwhile.
    portal = machine.target(VOL1)
    machine.mount(VOL10)
    first = machine.visit(VOL1)
    second = machine.start(VOL1)
    machine.wait_for(machine.held(VOL1), "the second run")
    machine.mount(VOL1)
    assert second.answer().entry == first.replace("ro,fstype", "ro,remount,fstype")
    assert first == machine.entry(VOL1, portal)


@pytest.mark.parametrize("under", ["automount", "nothing"])
def test_a_second_run_without_a_mount_gives_the_same_answer(machine: Machine, under: str) -> None:
    machine.target(VOL1)
    if under == "automount":
        machine.mount(VOL10)
    first = machine.visit(VOL1)
    answer = machine.lookup(VOL1)
    assert answer.entry == first
    assert answer.seconds < (3 if under == "automount" else 0) + MARGIN


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
    following = machine.start(VOL1)  # while that iscsiadm still runs
    machine.wait_for(machine.held(VOL1), "the next lookup")
    machine.go_on()
    answer = following.answer()
    assert answer.entry == machine.entry(VOL1, portal), answer.log
    assert machine.sids() == [1]
    assert machine.values(VOL1, portal)["node.startup"] == "manual"
    assert machine.claim(VOL1).ours
    assert machine.claim(VOL1).records == (machine.folder(VOL1, portal).name,)
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)


@pytest.mark.parametrize("call", ["rename", "unlink", "mkdir", "flock"])
def test_a_lookup_killed_before_any_change_of_its_own_does_not_stop_the_next(
    machine: Machine, call: str
) -> None:
    strace = shutil.which("strace", path="/usr/local/bin:/usr/bin:/bin")
    if not strace:
        pytest.skip("needs strace")
    assert strace
    portal = machine.target(VOL1)
    for number in itertools.count(1):
        # Before its first, its second, … call of that name, until there are no more.
        kill = f"inject={call}:signal=KILL:when={number}"
        lookup = machine.start(VOL1, under=(strace, "-qq", "-o", "/dev/null", "-e", kill))
        if not lookup.process.wait(PATIENCE):
            break
        assert lookup.process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert machine.visit(VOL1) == machine.entry(VOL1, portal)
        assert len(machine.sids()) == 1
        assert machine.claim(VOL1).ours
        machine.log_out(machine.sids()[0])
        shutil.rmtree(machine.root / "run/auto-iscsi")
    assert number > 2, "no lookup was killed"
