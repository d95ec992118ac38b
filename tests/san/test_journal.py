"""A snapshot with a dirty journal is refused, skipped or replayed, and only a replay writes."""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.snapshot import AUTO, OPTIONS, checksum, taken_in_use

pytestmark = pytest.mark.shared


@pytest.mark.parametrize(
    "kind",
    [pytest.param(each, marks=[] if each == "ext4" else pytest.mark.long) for each in OPTIONS],
)
def test_a_dirty_journal_is_refused_skipped_or_replayed(vm: Machine, san: San, kind: str) -> None:
    disk = taken_in_use(vm, san, kind)
    protected, writable = f"{job.ARRAY}-{kind}-protected", f"{job.ARRAY}-{kind}-writable"
    clean = f"{job.ARRAY}-{kind}-clean"
    san.target(protected, [disk], read_only=True)
    san.target(clean, [san.disk(whole=san.fs(kind, {"marker": "clean\n"}))])
    before = checksum(vm, disk)
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")

    def refused(iqn: str, word: str) -> None:
        line = job.refusal(vm, iqn)
        assert f"{kind} on {job.session(vm, iqn).disks[0]} was in use" in line and word in line

    def skipped(iqn: str) -> None:
        before_visit = len(job.messages(vm))
        assert job.until(lambda: job.visit(vm, iqn, check=False).stdout) == f"{kind}\n"
        mounted = job.mount(vm, iqn)
        assert mounted is not None and "ro" in mounted.options.split(",")
        (line, *_) = job.messages(vm)[before_visit:]
        assert "is mounted without its journal: the newest files can be missing" in line
        assert job.expired(vm, iqn)

    # A LUN that cannot be written: refused, skipped, and a replay is refused with its reason.
    job.configure(vm, AUTO + "journal = refuse\n")
    refused(protected, "journal = skip")
    job.configure(vm, AUTO + "journal = skip\n")
    skipped(protected)
    job.configure(vm, AUTO + "journal = replay\n")
    # As if a lookup had seen the disk before the kernel knew that it is write-protected.
    vm.run(["sed", "-i", "s/ rw$/ ro/", f"/run/auto-iscsi/disks/{protected}"])
    refused(protected, "its journal cannot be replayed")
    job.logout(vm, protected)

    # A LUN that can be written.
    target = san.target(writable, [disk])
    assert target.sessions == 0
    vm.discover()
    job.configure(vm, AUTO + "journal = refuse\n")
    refused(writable, "journal = replay shows all, and writes to the LUN")
    session = job.session(vm, writable)
    assert vm.read(f"/sys/block/{session.disks[0]}/ro") == b"1\n"
    assert job.visit(vm, clean).stdout == "clean\n"
    explained = vm.run(["auto-iscsi", "explain", writable], check=False)
    assert explained.status == 1 and " dirty" in explained.stdout
    assert " clean " in vm.run(["auto-iscsi", "explain", clean]).stdout
    job.configure(vm, AUTO + "journal = skip\n")
    skipped(writable)
    # All that was mounted: not one byte.
    assert checksum(vm, disk) == before
    job.configure(vm, AUTO + "journal = replay\n")
    assert job.until(lambda: job.visit(vm, writable, "new8", check=False).stdout) == "new\n"
    assert vm.read(f"/sys/block/{session.disks[0]}/ro") == b"0\n"
    assert job.expired(vm, writable)
    assert checksum(vm, disk) != before


def test_with_a_given_type_the_kernel_replays_the_journal(vm: Machine, san: San) -> None:
    """As in the original script, nothing is examined and no read-only flag is set."""
    disk = taken_in_use(vm, san, "ext4")
    before = checksum(vm, disk)
    san.target(job.BETA, [disk])
    vm.discover()
    job.configure(vm, "fstype = ext4\npartition = none\n")
    assert job.visit(vm, job.BETA, "new8").stdout == "new\n"
    assert vm.read(f"/sys/block/{job.session(vm, job.BETA).disks[0]}/ro") == b"0\n"
    assert checksum(vm, disk) != before
    assert job.messages(vm) == []
