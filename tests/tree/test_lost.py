"""A session whose connection is down: brought back, replaced, or answered for while mounted."""

from __future__ import annotations

import pytest

from tests.tree import kernel
from tests.tree.machine import VOL1, VOL10, Machine
from tests.tree.test_portals import MARGIN

MOUNTINFO = (
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "40 22 0:38 / {root}/iscsiauto rw,relatime shared:9 - autofs /etc/auto.iscsi rw,fd=7\n"
    "41 40 0:39 / {root}/iscsiauto/{other} rw,relatime - autofs /etc/auto.iscsi rw,fd=7\n"
    "42 40 8:17 / {root}/iscsiauto/{name} ro,nosuid,nodev,relatime - ext3 /dev/sdb1 ro\n"
)


def mounted(machine: Machine, name: str, other: str = VOL10) -> None:
    """Have automount hold partition 1 of the first disk mounted under a key."""
    text = MOUNTINFO.format(root=machine.root, name=name, other=other)
    kernel.write(str(machine.root), "/proc/self/mountinfo", text.rstrip())


def test_it_waits_for_iscsid_to_bring_a_session_back(machine: Machine) -> None:
    portal = machine.target(VOL1)
    sid = machine.session(VOL1, portal, "FAILED")
    lookup = machine.start(VOL1)
    machine.connected(portal)  # it has seen that the session is down
    machine.state(sid, "LOGGED_IN")
    assert lookup.answer().entry == machine.entry(VOL1, portal)
    assert machine.runs("--login") == []
    assert machine.sids() == [sid]


def test_one_whose_portal_is_dead_is_not_waited_for(machine: Machine) -> None:
    portal = machine.target(VOL1, machine.dead_portal())
    machine.session(VOL1, portal, "FAILED")
    machine.configure("login_timeout = 30s")
    answer = machine.lookup(VOL1)
    assert answer.status == 1 and f"session 1 through {portal} is FAILED" in answer.log
    assert answer.seconds < 2 + MARGIN
    assert machine.runs() == []


def test_another_portal_takes_its_place(machine: Machine) -> None:
    first, second = machine.dead_portal("127.0.0.1"), machine.portal("127.0.0.2")
    machine.target(VOL1, first, second)
    machine.session(VOL1, first, "FAILED")
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, second)
    assert machine.leads_to(answer.entry) == "sdc1"
    assert machine.runs() == [f"-m node -T {VOL1} -p {second},1 --login"]


def test_while_it_is_mounted_the_answer_is_at_once_what_is_mounted(machine: Machine) -> None:
    # automount asks when it is restarted, and never expires a mount whose lookup failed.
    portal = machine.target(VOL1, machine.mute_portal())
    machine.session(VOL1, portal, "FAILED")
    mounted(machine, VOL1)
    machine.configure("login_timeout = 30s")
    answer = machine.lookup(VOL1)
    assert answer.entry == machine.entry(VOL1, portal)
    assert answer.seconds < MARGIN
    assert machine.runs() == []


@pytest.mark.parametrize("key", [VOL1, VOL1.upper()])
def test_also_when_the_session_is_gone_altogether(machine: Machine, key: str) -> None:
    machine.target(VOL1, machine.mute_portal())
    mounted(machine, key)
    answer = machine.lookup(key)
    assert answer.entry == "-nocheck,ro,fstype=ext3 :/dev/sdb1"
    assert answer.seconds < MARGIN
    assert machine.runs() == []


def test_that_something_else_is_mounted_does_not_count(machine: Machine) -> None:
    machine.target(VOL1, machine.dead_portal())
    mounted(machine, VOL10, other=VOL1)  # and automount's own trigger where VOL1 would be
    assert machine.lookup(VOL1).status == 1


def test_that_it_is_mounted_does_not_stop_a_session_that_is_up(machine: Machine) -> None:
    portal = machine.target(VOL1)
    mounted(machine, VOL1)
    machine.session(VOL1, portal)
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
