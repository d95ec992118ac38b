"""A failed lookup reports one line with the reason and what to do, and changes nothing."""

from __future__ import annotations

import os

import pytest

from auto_iscsi import errors
from auto_iscsi.map import lookup
from tests.tree.machine import INITIATOR, VOL1, VOL10, Machine
from tests.tree.tree import contents


@pytest.mark.parametrize("status", [6, 8, 12, 18, 19, 24, 77])
def test_the_log_has_each_exit_code_with_its_meaning_and_a_hint(
    machine: Machine, status: int
) -> None:
    portal = machine.target(VOL1, answers={"login": {"exit": status}})
    answer = machine.lookup(VOL1)
    assert answer.status == 1
    assert answer.log.startswith(f"{VOL1}: login through {portal}: ")
    reason, semicolon, hint = answer.log.rpartition("; ")
    assert reason.endswith(f" (iscsiadm exit {status})") and semicolon and hint
    assert (INITIATOR in hint) == (status in (19, 24))


def test_without_iscsiadm_the_log_names_the_package(machine: Machine) -> None:
    machine.target(VOL1)
    (machine.root / "usr/sbin/iscsiadm").unlink()
    assert machine.lookup(VOL1).log == "iscsiadm is not installed; install open-iscsi"


def test_a_disabled_target_is_refused_before_anything_changes(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}\n[*-vol1]\nenabled = no")
    before = contents(machine.root)
    answer = machine.lookup(VOL1)
    assert answer.log == f"{VOL1}: enabled = no in /etc/auto.iscsi.conf"
    assert contents(machine.root) == before


def test_a_wrong_setting_is_reported_before_anything_changes(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.target(VOL10, portal)
    machine.configure("[*-vol1]\n  partitoin = 2\n")
    before = contents(machine.root)
    answer = machine.lookup(VOL1)
    assert answer.log.startswith("/etc/auto.iscsi.conf:2: partitoin: no such setting, did you mean")
    assert contents(machine.root) == before
    assert machine.visit(VOL10) == machine.entry(VOL10, portal)


def test_without_permission_the_log_says_to_run_it_as_root(machine: Machine) -> None:
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
