"""What goes wrong is said in one line, in time, and stops nothing afterwards."""

from __future__ import annotations

import os

import pytest

from auto_iscsi import errors, lookup
from tests.tree.machine import INITIATOR, VOL1, VOL10, Machine, alive
from tests.tree.test_portals import MARGIN
from tests.tree.tree import contents

HANG = {"hang": 30}


@pytest.mark.parametrize("record", [True, False], ids=["record", "discovered"])
def test_an_iscsiadm_that_hangs_is_given_up_in_time_and_left_alive(
    machine: Machine, record: bool
) -> None:
    portal = machine.target(VOL1, record=record, answers={"login": HANG})
    machine.configure(f"login_timeout = 1s\nportals = {portal}")
    answer = machine.lookup(VOL1)
    assert answer.status == 1
    assert f"login through {portal}: no answer in 1 s" in answer.log and "iscsid" in answer.log
    assert answer.seconds < 1 + 2 + MARGIN
    (pid,) = machine.pids(ended=False)
    assert alive(pid)


@pytest.mark.parametrize("verb", ["discover", "new", "update", "rescan"])
def test_whatever_iscsiadm_does_when_it_hangs(machine: Machine, verb: str) -> None:
    portal = machine.target(VOL1, record=False, luns={}, answers={verb: HANG})
    if verb == "rescan":
        machine.session(VOL1, portal)
    machine.configure(f"login_timeout = 1s\nudev_timeout = 1s\nportals = {portal}")
    answer = machine.lookup(VOL1)
    assert answer.status == 1 and VOL1 in answer.log
    assert answer.seconds < 1 + 2 + MARGIN
    (pid,) = machine.pids(ended=False)
    assert alive(pid)


def test_while_it_hangs_no_second_one_is_started(machine: Machine) -> None:
    machine.target(VOL1, answers={"login": HANG})
    machine.configure("login_timeout = 1s")
    machine.lookup(VOL1)
    answer = machine.lookup(VOL1)
    assert f"{VOL1}: an iscsiadm that was started for it earlier still runs" in answer.log
    assert answer.seconds < 1 + 2 + MARGIN
    assert len(machine.runs()) == 1


def test_while_it_hangs_other_targets_go_on(machine: Machine) -> None:
    machine.target(VOL1, answers={"login": HANG})
    portal = machine.target(VOL10)
    machine.configure("[*-vol1]\nlogin_timeout = 1s")
    machine.lookup(VOL1)
    assert machine.visit(VOL10) == machine.entry(VOL10, portal)


def test_a_login_that_comes_through_late_is_used_and_is_ours(machine: Machine) -> None:
    portal = machine.target(VOL1, answers={"login": {"hang": 2}})
    machine.configure("login_timeout = 1s")
    assert machine.lookup(VOL1).status == 1
    machine.quiet()
    machine.configure("")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert len(machine.runs()) == 1
    assert machine.claim(VOL1).ours


def test_a_login_that_fails_late_is_tried_again(machine: Machine) -> None:
    portal = machine.target(VOL1, answers={"login": {"hang": 2, "exit": 8}})
    machine.configure("login_timeout = 1s")
    assert machine.lookup(VOL1).status == 1
    machine.quiet()
    machine.change(VOL1, answers={})
    machine.configure("")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)


def test_an_iscsiadm_that_says_yes_and_no_session_comes(machine: Machine) -> None:
    portal = machine.target(VOL1, answers={"login": {"exit": 15}})
    machine.configure("login_timeout = 1s")
    answer = machine.lookup(VOL1)
    assert f"login through {portal}: iscsiadm exit 15, yet no session is up" in answer.log
    assert answer.seconds < 1 + 2 + MARGIN


@pytest.mark.parametrize("status", [1, 5, 6, 7, 8, 12, 13, 18, 19, 20, 24, 77])
def test_every_exit_status_is_said_with_its_meaning(machine: Machine, status: int) -> None:
    portal = machine.target(VOL1, answers={"login": {"exit": status}})
    answer = machine.lookup(VOL1)
    assert answer.status == 1
    assert answer.log.startswith(f"{VOL1}: login through {portal}: ")
    reason, semicolon, hint = answer.log.rpartition("; ")
    assert reason.endswith(f" (iscsiadm exit {status})") and semicolon and hint
    assert (INITIATOR in hint) == (status in (19, 24))


@pytest.mark.parametrize(
    "wait", ["login", "held", "udev", "recovery", "mute"], ids=lambda what: f"waiting for {what}"
)
def test_lookup_timeout_bounds_everything(machine: Machine, wait: str) -> None:
    portal = machine.mute_portal() if wait == "mute" else machine.portal()
    plan = {"udev": None} if wait == "udev" else {}
    machine.target(VOL1, portal, after=plan, answers={"login": HANG} if wait == "login" else {})
    seconds = "login_timeout = 30s\nudev_timeout = 30s\nreplacement_timeout = 30s"
    if wait == "recovery":
        machine.session(VOL1, portal, "FAILED")
    if wait == "held":
        machine.stop_before("login")
        machine.start(VOL1)
        machine.reached("login")
    machine.configure(f"{seconds}\nlookup_timeout = 1s")
    answer = machine.lookup(VOL1)
    assert answer.status == 1 and VOL1 in answer.log
    assert answer.seconds < 1 + MARGIN


def test_no_iscsiadm(machine: Machine) -> None:
    machine.target(VOL1)
    (machine.root / "usr/sbin/iscsiadm").unlink()
    assert machine.lookup(VOL1).log == "iscsiadm is not installed; install open-iscsi"


def test_a_target_that_is_not_enabled_is_refused_before_anything_is_done(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}\n[*-vol1]\nenabled = no")
    before = contents(machine.root)
    answer = machine.lookup(VOL1)
    assert answer.log == f"{VOL1}: enabled = no in /etc/auto.iscsi.conf"
    assert contents(machine.root) == before


def test_a_wrong_configuration_is_said_before_anything_is_done(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.target(VOL10, portal)
    machine.configure("[*-vol1]\n  partitoin = 2\n")
    before = contents(machine.root)
    answer = machine.lookup(VOL1)
    assert answer.log.startswith("/etc/auto.iscsi.conf:2: partitoin: no such setting, did you mean")
    assert contents(machine.root) == before
    assert machine.visit(VOL10) == machine.entry(VOL10, portal)


def test_it_says_when_it_may_not(machine: Machine) -> None:
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    machine.target(VOL1)
    machine.lookup(VOL1)
    machine.root.chmod(0o755)
    for folder in ("/run/auto-iscsi", "/run/auto-iscsi/lock"):
        (machine.root / folder.lstrip("/")).chmod(0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(errors.NotPermitted, match="permission denied; run it as root"):
                lookup.lookup(machine.host, VOL1)
        finally:
            os.seteuid(0)
