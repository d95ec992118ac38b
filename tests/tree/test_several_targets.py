"""The setting `with`: which other targets are meant, held and ended together?"""

from __future__ import annotations

import time

import pytest

from auto_iscsi import errors
from auto_iscsi.config import schema
from auto_iscsi.iscsi import claims
from auto_iscsi.map import other_targets
from auto_iscsi.reaper import decisions
from tests.tree.machine import DAY, VOL1, VOL10, Machine, Reaped
from tests.tree.tree import make_tree

BASE = "iqn.2001-05.com.equallogic:0-8a0906-1-2-vm"
OWN = f"{BASE}-os-2026-11-27-02:00:01.1"


def named(machine: Machine, *globs: str) -> list[str]:
    settings = schema.resolve([], OWN)._replace(with_=globs)
    return other_targets.list_names(machine.host, OWN, settings, time.monotonic() + 30)


def known(machine: Machine, *names: str) -> None:
    make_tree(machine.nodes, {f"{name}/127.0.0.1,3260,1/default": "" for name in names})


def test_only_snapshots_of_the_same_time_are_meant(machine: Machine) -> None:
    same = [f"{BASE}-data-2026-11-27-02:00:00.7", f"{BASE}-log-2026-11-27-02:01:00.7"]
    others = [f"{BASE}-data-2026-11-26-02:00:01.7", f"{BASE}-data-2026-11-27-02:01:02.7"]
    known(machine, OWN, *same, *others, f"{BASE}-without-a-time", "iqn.2001-05.com.example:x")
    assert named(machine, f"{BASE}-*") == [*same, f"{BASE}-without-a-time"]
    # A name without wildcards is meant whether the host knows it or not.
    assert named(machine, "iqn.2001-05.com.example:y", OWN) == ["iqn.2001-05.com.example:y"]
    assert named(machine, "*-nobody-*") == []


def test_a_pattern_that_names_too_many_is_refused(machine: Machine) -> None:
    known(machine, *(f"{BASE}{number}" for number in range(16)))
    assert len(named(machine, f"{BASE}*")) == 16
    known(machine, f"{BASE}16")
    with pytest.raises(errors.Ambiguous, match=r"names 17 other targets, and at most 16 .*vm0, "):
        named(machine, f"{BASE}*")


def test_a_portal_says_which_targets_there_are_before_the_first_login(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False)
    machine.target(VOL10, portal, record=False)
    machine.configure(f"portals = {portal}\n[{VOL1}]\nwith = {VOL10[:-2]}*\n")
    machine.stop_before("login")
    lookup = machine.start(VOL1)
    machine.wait_for(machine.held(VOL10), "the lookup to hold the other target")
    machine.go_on()
    assert lookup.answer().status == 0
    # There is no volume group: so nothing of the other target is needed, and nobody logs in to it.
    assert len(machine.sids()) == 1 and machine.claim(VOL1).others == (VOL10,)


def test_two_keys_that_name_each_other_do_not_wait_for_each_other(machine: Machine) -> None:
    for name in (VOL1, VOL10):
        machine.target(name, after={"udev": 0.1})
    machine.configure(f"[{VOL1}]\nwith = {VOL10}\n[{VOL10}]\nwith = {VOL1}\n")
    lookups = [machine.start(name) for name in (VOL1, VOL10) * 4]
    assert {lookup.answer().status for lookup in lookups} == {0}
    assert len(machine.sids()) == 2
    assert machine.claim(VOL1).others == (VOL10,) and machine.claim(VOL10).others == (VOL1,)


def test_sessions_that_share_lookups_end_together(machine: Machine) -> None:
    for name in (VOL1, VOL10):
        machine.target(name)
        machine.visit(name)
        machine.age(name, DAY)
    with claims.hold_target(machine.host, VOL1, time.monotonic() + 5, [VOL10]):
        claims.tie(machine.host, VOL1, [VOL10])
    machine.visit(VOL1)
    by_target = {each.target: each for each in decisions.decide(machine.host)}
    assert by_target[VOL10].action == decisions.KEEP
    assert by_target[VOL10].reason.startswith(f"it belongs to {VOL1}: looked up ")
    assert by_target[VOL10].when == by_target[VOL1].when
    assert machine.reap() == Reaped(0, "", "") and len(machine.sids()) == 2
    machine.age(VOL1, DAY)
    names = ", ".join(sorted((VOL1, VOL10)))
    assert machine.reap() == Reaped(0, f"auto-iscsi: ended 2 sessions: {names}\n", "")
    assert machine.sids() == [] and machine.target_files() == []
