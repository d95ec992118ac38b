"""How long a lookup waits, and what it reports when it waited in vain.

The contract: a target that does not let us in gets its answer within login_timeout + 2 s, and every
target within lookup_timeout. `MARGIN` is what a busy machine may add to that.
"""

from __future__ import annotations

import os

import pytest

from tests.tree.machine import MARGIN, OTHER, VOL1, VOL10, Answer, Lookup, Machine, alive

HANG = {"hang": 40}


def check_login_time(answer: Answer, seconds: int = 1) -> None:
    assert answer.status == 1 and VOL1 in answer.log
    assert answer.seconds < seconds + 2 + MARGIN, answer


# An iscsiadm that hangs is never killed, and no second one is started


@pytest.mark.parametrize("how", ["record", "discovered"])
def test_a_login_that_hangs_is_given_up_and_left_alive(machine: Machine, how: str) -> None:
    portal = machine.target(VOL1, record=how == "record", answers={"login": HANG})
    machine.configure(f"login_timeout = 4s\nportals = {portal}")
    answer = machine.lookup(VOL1)
    check_login_time(answer, 4)
    assert f"login through {portal}: no answer in 4 s" in answer.log and "iscsid" in answer.log
    (pid,) = machine.pids(ended=False)
    assert alive(pid)


@pytest.mark.parametrize("verb", ["discover", "new", "update", "rescan"])
def test_whatever_hangs_is_given_up_and_left_alive(machine: Machine, verb: str) -> None:
    portal = machine.target(VOL1, record=False, luns={}, answers={verb: HANG})
    if verb == "rescan":
        machine.session(VOL1, portal)
    machine.configure(f"login_timeout = 4s\nudev_timeout = 1s\nportals = {portal}")
    answer = machine.lookup(VOL1)
    check_login_time(answer, 5 if verb == "rescan" else 4)
    (pid,) = machine.pids(ended=False)
    assert alive(pid)


def test_after_a_discovery_that_hangs_the_next_portal_is_asked(machine: Machine) -> None:
    silent, portal = machine.portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.silent(silent)
    machine.target(VOL1, portal, record=False)
    machine.target(VOL10, portal, record=False)
    machine.configure(f"login_timeout = 3s\nportals = {silent}, {portal}\nattempts = 4")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert len(machine.runs("discovery")) == 2
    # That iscsiadm still runs; and one portal may use a quarter of the attempts.
    assert machine.visit(VOL10) == machine.entry(VOL10, portal)
    assert len(machine.runs(f"-p {silent} ")) == 1


def test_a_silent_portal_has_login_timeout_and_is_named(machine: Machine) -> None:
    silent = machine.portal()
    machine.silent(silent)
    machine.configure(f"login_timeout = 2s\nportals = {silent}")
    for _ in ("asked", "still asked"):
        answer = machine.lookup(VOL1)
        check_login_time(answer, 2)
        reason = f"discovery at {silent}: it accepts connections, but has not answered in 2 s; is"
        assert reason in answer.log
    assert len(machine.runs()) == 1


def test_an_iscsiadm_that_gives_up_a_silent_portal_by_itself(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False, answers={"discover": {"exit": 19}})
    machine.configure(f"portals = {portal}")
    assert "(iscsiadm exit 19)" in machine.lookup(VOL1).log
    said = "iscsiadm: Login response timeout. Waited 30 seconds and did not get response PDU."
    machine.plan["complaint"] = said
    machine.save()
    line = machine.lookup(VOL1).log
    assert f"discovery at {portal}: it accepts connections, but has not answered" in line


def test_a_silent_portal_holds_up_no_other_target(machine: Machine) -> None:
    silent, portal = machine.portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.silent(silent)
    machine.target(VOL10, portal, record=False)
    machine.configure(
        f"login_timeout = 25s\nportals = {silent}, {portal}\n[*-vol1]\nportals = {silent}"
    )
    waiting = machine.start(VOL1)
    machine.wait_for(lambda: bool(machine.runs(silent)), "a discovery at the silent portal")
    assert machine.visit(VOL10) == machine.entry(VOL10, portal)
    assert waiting.process.poll() is None
    assert len(machine.runs(silent)) == 1


def test_while_an_iscsiadm_hangs_no_second_one_starts_and_other_targets_work(
    machine: Machine,
) -> None:
    machine.target(VOL1, answers={"login": HANG})
    portal = machine.target(VOL10)
    machine.configure("[*-vol1]\nlogin_timeout = 1s")
    machine.lookup(VOL1)
    again = machine.start(VOL1)
    other = machine.lookup(VOL10)
    assert other.entry == machine.entry(VOL10, portal), other.log
    answer = again.answer()
    check_login_time(answer)
    assert f"{VOL1}: an iscsiadm that was started for it earlier still runs" in answer.log
    assert len(machine.runs(VOL1)) - len(machine.runs(VOL10)) == 1


def test_a_login_that_succeeds_late_is_used_and_is_ours(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.stop_before("session")
    machine.configure("login_timeout = 1s")
    answer = machine.lookup(VOL1)
    check_login_time(answer)
    machine.go_on()
    machine.quiet()
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, portal), answer.log
    assert len(machine.runs()) == 1
    assert machine.claim(VOL1).ours


def test_a_login_that_fails_late_is_tried_again(machine: Machine) -> None:
    portal = machine.target(VOL1, answers={"login": {"exit": 8}})
    machine.stop_before("login")
    machine.configure("login_timeout = 1s")
    answer = machine.lookup(VOL1)
    check_login_time(answer)
    machine.go_on()
    machine.quiet()
    machine.change(VOL1, answers={})
    machine.configure("")
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, portal), answer.log


def test_an_iscsiadm_that_reports_a_session_where_none_comes_up(machine: Machine) -> None:
    portal = machine.target(VOL1, answers={"login": {"exit": 15}})
    machine.configure("login_timeout = 1s")
    answer = machine.lookup(VOL1)
    check_login_time(answer)
    assert f"login through {portal}: iscsiadm exit 15, yet no session is up" in answer.log


# Portals and sessions


def test_a_portal_that_does_not_answer_has_login_timeout(machine: Machine) -> None:
    mute = machine.mute_portal()
    machine.target(VOL1, mute)
    machine.configure("login_timeout = 1s")
    answer = machine.lookup(VOL1)
    check_login_time(answer)
    assert f"login through {mute}: no answer to a TCP connection" in answer.log


def test_after_a_portal_that_does_not_answer_comes_the_next(machine: Machine) -> None:
    mute, portal = machine.mute_portal(), machine.portal("127.0.0.2")
    machine.target(VOL1, mute, portal)
    machine.configure("login_timeout = 4s")
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, portal), answer.log
    assert answer.seconds < 4 + 2 + MARGIN


@pytest.mark.parametrize("state", ["FAILED", "FREE"])
def test_a_session_that_does_not_come_back_has_login_timeout(machine: Machine, state: str) -> None:
    portal = machine.target(VOL1)
    machine.session(VOL1, portal, state)
    machine.configure("login_timeout = 1s")
    answer = machine.lookup(VOL1)
    check_login_time(answer)
    assert f"session 1 through {portal} is {state} and cannot be brought back" in answer.log
    assert machine.runs() == []


# Disks and udev


def test_a_stale_link_to_another_targets_disk_is_never_used(machine: Machine) -> None:
    portal = machine.target(VOL1, after={"udev": None})
    machine.target(OTHER, portal)
    machine.session(OTHER, portal)
    machine.leave_stale_link(VOL1, portal, "sdb")
    machine.configure("udev_timeout = 1s")
    for _ in ("after the login", "with the session there"):
        answer = machine.lookup(VOL1)
        assert (answer.status, answer.entry) == (1, "")
        assert "no link" in answer.log and f"-iscsi-{VOL1}-lun-0-part1" in answer.log


def test_when_udev_makes_no_link_the_log_names_the_missing_link(machine: Machine) -> None:
    machine.target(VOL1, after={"udev": None})
    machine.configure("udev_timeout = 1s")
    answer = machine.lookup(VOL1)
    assert f"{VOL1}: no link /dev/disk/by-path/" in answer.log
    assert "-lun-0-part1 after 1 s" in answer.log and "udev" in answer.log
    assert answer.seconds < 1 + MARGIN


def test_for_a_missing_lun_each_lookup_scans_once_and_the_existing_luns_are_listed(
    machine: Machine,
) -> None:
    machine.target(VOL1, luns={2: {}, 0x4000 + 300: {}})
    machine.configure("udev_timeout = 1s")
    machine.lookup(VOL1)
    answer = machine.lookup(VOL1)
    assert f"{VOL1}: no LUN 0 through" in answer.log and "LUNs there: 2, 300" in answer.log
    assert machine.runs("--rescan") == 2 * ["-m session -r 1 --rescan"]  # once a visit


def test_without_any_lun_the_log_says_what_to_do(machine: Machine) -> None:
    machine.target(VOL1, luns={})
    machine.configure("udev_timeout = 1s")
    answer = machine.lookup(VOL1)
    assert "LUNs there: none" in answer.log and "map the LUN at the SAN" in answer.log
    assert answer.seconds < 1 + MARGIN


def test_a_lun_that_is_no_disk_is_not_used(machine: Machine) -> None:
    machine.target(VOL1, luns={0: {"type": "13", "partitions": {"1": None}}})  # an enclosure
    machine.configure("udev_timeout = 1s")
    answer = machine.lookup(VOL1)
    assert "no LUN 0" in answer.log


# All waits


@pytest.mark.parametrize(
    "what", ["login", "another lookup", "udev", "recovery", "a mute portal", "the kernel"]
)
def test_lookup_timeout_bounds_the_wait_for(machine: Machine, what: str) -> None:
    portal = machine.mute_portal() if what == "a mute portal" else machine.portal()
    after = {"udev": None} if what == "udev" else {}
    machine.target(VOL1, portal, after=after, answers={"login": HANG} if what == "login" else {})
    if what == "recovery":
        machine.session(VOL1, portal, "FAILED")
    if what == "the kernel":
        sid = machine.session(VOL1, portal)
        state = machine.root / f"sys/class/iscsi_session/session{sid}/state"
        state.unlink()
        os.mkfifo(state)  # a file that whoever opens it waits for
    first: Lookup | None = None
    if what == "another lookup":
        machine.stop_before("login")
        first = machine.start(VOL1)
        machine.reached("login")
    machine.configure("login_timeout = 30s\nudev_timeout = 30s\nlookup_timeout = 1s")
    answer = machine.lookup(VOL1)
    assert answer.status == 1 and VOL1 in answer.log
    assert answer.seconds < 1 + MARGIN, answer
    if first:
        machine.go_on()
        answer = first.answer()
        assert answer.entry == machine.entry(VOL1, portal), answer.log
