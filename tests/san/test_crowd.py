"""What if many ask at once, or go away in the middle?"""

from __future__ import annotations

import signal

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

NAMES = [f"{job.BETA[:-1]}{number}" for number in range(8)]

# Writes down every iscsiadm that names a target, and whether another one was at the same target.
WATCH = """#!/bin/bash
for argument; do [ "$before" = -T ] && target=$argument; before=$argument; done
[ "$target" ] || exec /usr/sbin/iscsiadm.real "$@"
mkdir "/run/watch/$target" || echo "twice at once: $*" >> /run/watch/log
echo "$target" >> /run/watch/all
/usr/sbin/iscsiadm.real "$@"; status=$?
rmdir "/run/watch/$target"
exit $status
"""


@pytest.fixture
def watched(vm: Machine) -> Machine:
    """The machine, with every start of iscsiadm written down."""
    vm.run("mkdir -p /run/watch && mv /usr/sbin/iscsiadm /usr/sbin/iscsiadm.real")
    vm.write("/usr/sbin/iscsiadm", WATCH, 0o755)
    return vm


def twice(vm: Machine) -> str:
    """Return where two iscsiadm were at one target."""
    return vm.run("cat /run/watch/log 2>/dev/null", check=False).stdout


def test_eight_targets_at_once(watched: Machine, san: San) -> None:
    vm = watched
    for iqn in NAMES:
        san.target(iqn)
    job.configure(
        vm, "portals = 127.0.0.1\nlogin_timeout = 60s\nudev_timeout = 60s\nlookup_timeout = 3m\n"
    )
    reading = [
        vm.start(["cat", f"{job.ROOT}/{iqn}/marker"], user="user", timeout=180) for iqn in NAMES
    ]
    assert [each.wait().stdout for each in reading] == [f"{iqn}\n" for iqn in NAMES]
    assert san.sessions() == dict.fromkeys(NAMES, 1)
    assert twice(vm) == ""


def test_one_target_from_eight_processes_at_once(watched: Machine, san: San) -> None:
    vm = watched
    san.target(job.BETA)
    vm.discover()
    vm.run("rm -f /run/watch/all")
    lookups = [vm.start(["auto-iscsi", "lookup", job.BETA]) for _ in range(4)]
    reading = [vm.start(["cat", f"{job.ROOT}/{job.BETA}/marker"], user="user") for _ in range(8)]
    assert {each.wait().stdout for each in reading} == {f"{job.BETA}\n"}
    assert len({each.wait().stdout for each in lookups}) == 1
    assert san.sessions() == {job.BETA: 1}
    assert vm.run("cat /run/watch/all").lines == [job.BETA]
    assert twice(vm) == ""


def test_ctrl_c_and_once_more(watched: Machine, san: San) -> None:
    """automount then runs the program twice at once, and mounts twice (facts of autofs, 4)."""
    vm = watched
    san.target(job.BETA)
    vm.discover()
    vm.automount()
    for delay in (0.3, 1.0, 1.8, 2.6):
        first = vm.start(["cat", f"{job.ROOT}/{job.BETA}/marker"], user="user")
        vm.run(f"sleep {delay}")
        first.kill(signal.SIGINT)
        assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n", delay
        first.wait(check=False)
        assert san.sessions() == {job.BETA: 1}
        assert job.expired(vm, job.BETA)
        job.logout(vm, job.BETA)
        vm.run("sleep 1.2")
    assert twice(vm) == ""


@pytest.mark.parametrize("known", ["record", "portals"])
def test_a_lookup_killed_at_any_point_does_not_stop_the_next(
    watched: Machine, san: San, known: str
) -> None:
    vm = watched
    san.target(job.BETA)
    if known == "record":
        vm.discover()
    job.configure(vm, "portals = 127.0.0.1\n")
    kept = set(job.records(vm))
    for delay in (0.2, 0.7, 1.3, 2.2):
        # The lookup alone, not its iscsiadm; one that was quicker than that is no failure.
        vm.run(f"auto-iscsi lookup {job.BETA} & sleep {delay}; kill -KILL $!; wait", check=False)
        entry = vm.run(["auto-iscsi", "lookup", job.BETA], check=False)
        assert (entry.status, entry.stderr) == (0, ""), delay
        assert san.sessions() == {job.BETA: 1}, delay
        claim = vm.read(f"/run/auto-iscsi/claims/{job.BETA}").decode().splitlines()
        assert [line for line in claim if line.startswith("opened ")], delay
        job.logout(vm, job.BETA)
        if known == "portals":
            job.forget(vm, job.BETA)
        vm.run(["rm", f"/run/auto-iscsi/claims/{job.BETA}"])
        assert set(job.records(vm)) == kept, delay
    assert twice(vm) == ""
    assert vm.run("cd /run/auto-iscsi && find claims iscsiadm lock -type f").stdout == ""
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
