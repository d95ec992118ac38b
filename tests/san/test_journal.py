"""A snapshot taken in the midst of work: is it shown, and is not one byte of it changed?"""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San

AUTO = "options = nocheck, ro\nfstype = auto\npartition = auto\nudev_timeout = 50s\n"
OPTIONS = {"ext4": "noload", "xfs": "norecovery", "btrfs": "rescue=nologreplay"}

#: Mount a disk's file, write with fsync, copy the file as it is then, and have it be the disk.
TAKE = """
set -e
modprobe {kind}
device=$(losetup --show -f {path})
mkdir -p /run/volume
mount -t {kind} $device /run/volume
sync -f /run/volume
for n in $(seq 8); do echo new >/run/volume/new$n; sync /run/volume/new$n; done
cp --sparse=always {path} {path}.taken
umount /run/volume
losetup -d $device
cp --sparse=always {path}.taken {path}
rm {path}.taken
"""


def taken_in_use(vm: Machine, san: San, kind: str) -> LiveDisk:
    """Return a disk with a filesystem as a snapshot catches it: its newest files in the journal."""
    size = 16 if kind == "ext4" else None
    disk = san.disk(whole=san.fs(kind, {"marker": f"{kind}\n"}, size=size))
    vm.run(TAKE.format(kind=kind, path=disk.path), timeout=180)
    return disk


def checksum(vm: Machine, disk: LiveDisk) -> str:
    """Return what a disk's file is, every byte of it."""
    return vm.run(["sha256sum", disk.path], timeout=120).stdout.split()[0]


@pytest.mark.parametrize("kind", OPTIONS)
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
        told = len(job.said(vm))
        assert job.until(lambda: job.visit(vm, iqn, check=False).stdout) == f"{kind}\n"
        mounted = job.mount(vm, iqn)
        assert mounted is not None and "ro" in mounted.options.split(",")
        (line, *_) = job.said(vm)[told:]
        assert "is mounted without its journal: the newest files can be missing" in line
        assert job.expired(vm, iqn)

    # A LUN that cannot be written: refused, skipped, and a replay is refused with its reason.
    job.configure(vm, AUTO)
    refused(protected, "journal = skip")
    job.configure(vm, AUTO + "journal = skip\n")
    skipped(protected)
    job.configure(vm, AUTO + "journal = replay\n")
    # As one noted that met the disk before the kernel knew that it is write-protected.
    vm.run(["sed", "-i", "s/ rw$/ ro/", f"/run/auto-iscsi/disks/{protected}"])
    refused(protected, "its journal cannot be replayed")
    job.logout(vm, protected)

    # One that can.
    target = san.target(writable, [disk])
    assert target.sessions == 0
    vm.discover()
    job.configure(vm, AUTO)
    refused(writable, "journal = replay shows all, and writes to the LUN")
    session = job.session(vm, writable)
    assert vm.read(f"/sys/block/{session.disks[0]}/ro") == b"1\n"
    assert job.visit(vm, clean).stdout == "clean\n"
    explained = vm.run(["auto-iscsi", "explain", writable], check=False)
    assert explained.status == 1 and "journal dirty" in explained.stdout
    assert "journal clean" in vm.run(["auto-iscsi", "explain", clean]).stdout
    job.configure(vm, AUTO + "journal = skip\n")
    skipped(writable)
    # All that was mounted: not one byte.
    assert checksum(vm, disk) == before
    job.configure(vm, AUTO + "journal = replay\n")
    assert job.until(lambda: job.visit(vm, writable, "new8", check=False).stdout) == "new\n"
    assert vm.read(f"/sys/block/{session.disks[0]}/ro") == b"0\n"
    assert job.expired(vm, writable)
    assert checksum(vm, disk) != before


def test_with_a_type_that_is_given_it_is_as_it_was(vm: Machine, san: San) -> None:
    """As shipped, but for the type: nothing is looked at, nothing set; the kernel replays."""
    disk = taken_in_use(vm, san, "ext4")
    before = checksum(vm, disk)
    san.target(job.BETA, [disk])
    vm.discover()
    job.configure(vm, "fstype = ext4\npartition = none\n")
    assert job.visit(vm, job.BETA, "new8").stdout == "new\n"
    assert vm.read(f"/sys/block/{job.session(vm, job.BETA).disks[0]}/ro") == b"0\n"
    assert checksum(vm, disk) != before
    assert job.said(vm) == []
