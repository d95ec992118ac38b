"""A failed lookup logs the reason in time, and the next one works once the cause is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

# Seconds that emulation may add to a time limit of the contract. It starts programs about 25 times
# slower than hardware: a Python with sh and pyudev in about three seconds.
SLACK = 10.0
BOUND = 12.0  # login_timeout + 2 s, with the shipped configuration


@pytest.fixture
def host(vm: Machine, san: San) -> Iterator[Machine]:
    """A host that knows the target from an administrator's discovery."""
    san.target(job.BETA)
    vm.discover()
    vm.run(
        ["auto-iscsi", "lookup", "warm.up"], check=False
    )  # fills the page cache with Python's files
    yield vm
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"  # the cause is gone
    assert san.sessions()[job.BETA] == 1


def refused(vm: Machine, *words: str, within: float = BOUND) -> str:
    """Visit in vain; check that the log's line has the target and `words`, and came in time."""
    begun = float(vm.run("cut -d' ' -f1 /proc/uptime").stdout)
    line = job.refusal(vm, job.BETA)
    took = float(vm.run("cut -d' ' -f1 /proc/uptime").stdout) - begun
    for word in (job.BETA, *words):
        assert word in line
    assert "; " in line, "no hint"
    assert took < within + SLACK
    return line


@pytest.mark.shared
@pytest.mark.core
def test_the_target_is_gone(host: Machine, san: San) -> None:
    san.targets[job.BETA].delete()
    # This is an array's answer; the kernel's target says "unavailable" for any unknown name.
    portal = san.refusing("127.0.0.1", 2, 3, targets=[job.BETA])
    refused(host, "127.0.0.1:3260", "iscsiadm exit 19", "present it at the SAN")
    portal.close()
    san.targets[job.BETA].recreate()


def test_the_target_is_offline_and_the_record_is_an_administrators(host: Machine, san: San) -> None:
    """The record makes iscsid try for two minutes: the log says so, and iscsid continues."""
    kept = job.records(host)
    san.targets[job.BETA].revoke()
    refused(host, "127.0.0.1:3260", "initial_login_retry_max = 8")
    # The next visit starts no second login, and does not wait until iscsid gives up.
    refused(host, "session 1 through 127.0.0.1:3260", "iscsid keeps trying")
    assert job.records(host) == kept
    san.targets[job.BETA].enable()


@pytest.mark.shared
def test_the_target_is_offline_and_the_record_is_ours(vm: Machine, san: San) -> None:
    target = san.target(job.BETA)
    job.configure(vm, "portals = 127.0.0.1\n")
    vm.run(["auto-iscsi", "lookup", job.BETA])
    vm.run(["iscsiadm", "-m", "node", "-T", job.BETA, "--logout"])
    target.revoke()
    refused(vm, "127.0.0.1:3260", "is the target enabled at the SAN")
    assert job.records(vm) == {}
    target.enable()
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"


@pytest.mark.shared
def test_the_portal_is_dead(host: Machine, san: San) -> None:
    san.block("127.0.0.1")
    refused(host, "127.0.0.1:3260", "no answer")
    san.unblock("127.0.0.1")


@pytest.mark.shared
def test_nobody_listens_at_the_portal(host: Machine, san: San) -> None:
    san.targets[job.BETA].delete()
    refused(host, "127.0.0.1:3260", "connection refused")
    san.targets[job.BETA].recreate()


@pytest.mark.shared
def test_chap_is_refused(vm: Machine, san: San) -> None:
    san.target(job.BETA, chap=("browse", "a-long-secret"), portals=["127.0.0.1", "127.0.0.2"])
    vm.discover()
    line = refused(vm, "127.0.0.1:3260", "CHAP", "iscsiadm exit 24", "node.session.auth")
    assert "127.0.0.2" not in line  # the same secret, the same answer: not tried again
    for name, value in {
        "authmethod": "CHAP",
        "username": "browse",
        "password": "a-long-secret",
    }.items():
        vm.run(
            [
                "iscsiadm",
                "-m",
                "node",
                "-T",
                job.BETA,
                "-o",
                "update",
                "-n",
                f"node.session.auth.{name}",
                "-v",
                value,
            ]
        )
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"


@pytest.mark.shared
def test_the_lun_is_missing(host: Machine, san: San) -> None:
    target = san.targets[job.BETA]
    disk = target.luns[0]
    target.unmap(0)
    target.map(2, disk)
    refused(host, "no LUN 0 through 127.0.0.1:3260", "LUNs there: 2", "map the LUN")
    target.unmap(2)
    target.map(0, disk)


@pytest.mark.shared
def test_the_partition_is_missing(host: Machine, san: San) -> None:
    job.configure(host, "partition = 3\n")
    line = refused(host, "no partition 3 on LUN 0", "127.0.0.1:3260", "the disk has 1")
    assert "partition = 1" in line
    job.configure(host, "")


def test_iscsid_hangs(host: Machine, san: San) -> None:
    host.run("systemctl start iscsid")
    pids = host.run("pgrep -x iscsid").stdout.split()
    host.run(["kill", "-STOP", *pids])
    refused(host, "127.0.0.1:3260", "systemctl status iscsid")
    refused(host, "earlier still runs", "systemctl restart iscsid")
    # The login that iscsid was asked for is ours, also if automount stops before it has ended.
    restart = host.start("systemctl restart autofs", timeout=120)
    state = ["systemctl", "is-active", "autofs"]
    assert job.until(lambda: host.run(state, check=False).stdout == "deactivating\n")
    host.run(["kill", "-CONT", *pids])
    restart.wait()
    assert job.visit(host, job.BETA).stdout == f"{job.BETA}\n"
    (session,) = json.loads(host.run("auto-iscsi status --json").stdout)["sessions"]
    assert session["ours"]


@pytest.mark.shared
def test_lookup_timeout_bounds_everything(host: Machine, san: San) -> None:
    san.targets[job.BETA].revoke()
    job.configure(host, "lookup_timeout = 3s\nlogin_timeout = 60s\n")
    refused(host, within=3)
    job.configure(host, "")
    san.targets[job.BETA].enable()


@pytest.mark.shared
def test_automount_restarted_while_the_target_of_a_mount_is_unreachable(
    host: Machine, san: San
) -> None:
    host.automount()
    with_shell = host.start(["sleep", "300"], cwd=f"{job.ROOT}/{job.BETA}", timeout=310)
    assert job.until(lambda: job.mount(host, job.BETA))
    san.block("127.0.0.1")
    assert job.until(lambda: job.session(host, job.BETA).state == "FAILED")
    begun = float(host.run("cut -d' ' -f1 /proc/uptime").stdout)
    host.run("systemctl restart autofs", timeout=120)
    took = float(host.run("cut -d' ' -f1 /proc/uptime").stdout) - begun
    assert took < BOUND + SLACK
    assert job.mount(host, job.BETA)
    assert job.messages(host) == []
    with_shell.kill()
    with_shell.wait(check=False)
    assert job.expired(host, job.BETA), "the mount did not expire"
    san.unblock("127.0.0.1")
    assert job.until(lambda: job.session(host, job.BETA).state == "LOGGED_IN")
