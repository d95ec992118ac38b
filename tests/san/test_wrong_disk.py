"""Can one snapshot's files ever be seen under another one's name?"""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

pytestmark = pytest.mark.shared


@pytest.mark.core
def test_a_disk_name_that_went_to_another_target_is_not_mounted(vm: Machine, san: San) -> None:
    """A mounted, expired, logged out; B gets A's sdX; A is read while autofs remembers it."""
    for iqn in (job.ALPHA, job.BETA):
        san.target(iqn)
    vm.discover()
    # The longest memory that a line could give it: the original then shows B's files under A.
    vm.automount("--timeout=1 --negative-timeout=60")
    assert job.visit(vm, job.ALPHA).stdout == f"{job.ALPHA}\n"
    disk = job.session(vm, job.ALPHA).disks
    assert job.expired(vm, job.ALPHA)
    job.logout(vm, job.ALPHA)
    vm.run("udevadm settle")
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    assert job.session(vm, job.BETA).disks == disk
    # Out of its memory: the program was not asked, or there would be a second session.
    seen = job.visit(vm, job.ALPHA, check=False)
    assert (seen.status, seen.stdout) == (1, "")
    assert vm.sessions(job.ALPHA) == []


def test_with_the_shipped_line_the_right_files_are_back_after_a_second(
    vm: Machine, san: San
) -> None:
    for iqn in (job.ALPHA, job.BETA):
        san.target(iqn)
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")
    job.visit(vm, job.ALPHA)
    assert job.expired(vm, job.ALPHA)
    job.logout(vm, job.ALPHA)
    job.visit(vm, job.BETA)
    assert job.until(lambda: job.visit(vm, job.ALPHA, check=False).stdout) == f"{job.ALPHA}\n"


def test_a_name_that_begins_another_one_is_another_target(vm: Machine, san: San) -> None:
    short, long = f"{job.BETA[:60]}1", f"{job.BETA[:60]}10"
    for iqn in (short, long):
        san.target(iqn)
    vm.discover()
    assert job.visit(vm, long).stdout == f"{long}\n"
    assert job.visit(vm, short).stdout == f"{short}\n"
    assert san.sessions() == {short: 1, long: 1}


def test_filesystems_with_one_uuid_are_two(vm: Machine, san: San) -> None:
    uuid = "11111111-2222-3333-4444-555555555555"
    for iqn in (job.ALPHA, job.BETA):
        san.target(iqn, [san.disk([san.fs("ext3", {"marker": f"{iqn}\n"}, uuid=uuid)])])
    vm.discover()
    for iqn in (job.ALPHA, job.BETA, job.ALPHA):
        assert job.visit(vm, iqn).stdout == f"{iqn}\n"
    for iqn in (job.ALPHA, job.BETA):
        mounted = job.mount(vm, iqn)
        assert mounted is not None
        assert mounted.source == f"/dev/{job.session(vm, iqn).disks[0]}1"


def test_a_lun_that_was_swapped_under_a_living_session_is_noticed(vm: Machine, san: San) -> None:
    """Sizes and partitions differ, so that what the kernel remembers is wrong in every way."""
    first = san.disk([san.fs("ext3", {"marker": "first\n"})], serial="1111")
    second = san.disk(
        [san.fs("", size=3), san.fs("ext3", {"marker": "second\n"}, size=20)], serial="2222"
    )
    third = san.disk([san.fs("ext3", {"marker": "third\n"}, size=12)], serial="3333")
    target = san.target(job.BETA, [first])
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")
    job.configure(vm, "udev_timeout = 50s\n")
    assert job.visit(vm, job.BETA).stdout == "first\n"
    assert job.expired(vm, job.BETA)
    session = job.session(vm, job.BETA).number
    target.unmap(0)
    target.map(0, second)
    # The old one's first partition is none of the new one's filesystem: purged, and looked at anew.
    job.configure(vm, "partition = 2\nudev_timeout = 50s\n")
    assert job.until(lambda: job.visit(vm, job.BETA, check=False).stdout) == "second\n"
    assert job.session(vm, job.BETA).number == session

    # In use: refused, and what is mounted stays what it was, as far as the SAN still has it.
    user = vm.start(f"cd {job.ROOT}/{job.BETA} && echo in && sleep 300", user="user")
    assert job.until(lambda: "in" in user.output())
    target.unmap(0)
    target.map(0, third)
    job.configure(vm, "partition = 1\nudev_timeout = 50s\n")
    assert job.mount(vm, job.BETA) is not None
    seen = vm.run(["auto-iscsi", "lookup", job.BETA], check=False, timeout=120)
    assert seen.status == 1 and "another volume than it was" in seen.stderr
    assert "still in use" in seen.stderr
    assert (
        "the SAN has mapped another volume here"
        in vm.run(["auto-iscsi", "explain", job.BETA], check=False).stdout
    )
    user.kill()
    assert job.expired(vm, job.BETA)
    # Also where somebody has had the kernel look at the disk anew, and it keeps the old table.
    vm.run(["iscsiadm", "-m", "session", "--rescan"])
    assert job.until(lambda: job.visit(vm, job.BETA, check=False).stdout) == "third\n"
