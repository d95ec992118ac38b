"""Many lookups at once, and lookups that are interrupted or killed."""

from __future__ import annotations

import signal

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

NAMES = [f"{job.BETA[:-1]}{number}" for number in range(8)]

# Logs every iscsiadm that names a target, and whether another one worked on the same target.
WATCH = """#!/bin/bash
for argument; do [ "$before" = -T ] && target=$argument; before=$argument; done
[ "$target" ] || exec /usr/sbin/iscsiadm.real "$@"
mkdir "/run/watch/$target" || echo "concurrent_runs at once: $*" >> /run/watch/log
echo "$target" >> /run/watch/all
/usr/sbin/iscsiadm.real "$@"; status=$?
rmdir "/run/watch/$target"
exit $status
"""


@pytest.fixture
def watched(vm: Machine) -> Machine:
    """The machine with an iscsiadm that logs each of its runs."""
    vm.run("mkdir -p /run/watch && mv /usr/sbin/iscsiadm /usr/sbin/iscsiadm.real")
    vm.write("/usr/sbin/iscsiadm", WATCH, 0o755)
    return vm


def concurrent_runs(vm: Machine) -> str:
    """Return the log of iscsiadm runs that worked on one target at the same time."""
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
    assert concurrent_runs(vm) == ""


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
    assert concurrent_runs(vm) == ""


def test_ctrl_c_and_another_visit(watched: Machine, san: San) -> None:
    """automount then runs the program concurrent_runs at once, and mounts concurrent_runs."""
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
    assert concurrent_runs(vm) == ""


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
        # Only the lookup is killed, not its iscsiadm. One that has ended already is no failure.
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
    assert concurrent_runs(vm) == ""
    assert vm.run("cd /run/auto-iscsi && find claims iscsiadm lock -type f").stdout == ""
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
