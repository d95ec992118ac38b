"""Make a disk whose filesystem was copied while it was written, as a snapshot copies it."""

from __future__ import annotations

from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San

#: Settings that select the filesystem and its options by what is on the disk.
AUTO = "options = nocheck, ro\nfstype = auto\npartition = auto\nudev_timeout = 50s\n"
#: By filesystem, the mount option that leaves the journal alone.
OPTIONS = {"ext4": "noload", "xfs": "norecovery", "btrfs": "rescue=nologreplay"}

#: Mounts the file of a disk, writes with fsync, and copies the file: the copy becomes the disk.
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
    """Return a disk whose newest files are only in the journal of its filesystem."""
    size = 16 if kind == "ext4" else None
    disk = san.disk(whole=san.fs(kind, {"marker": f"{kind}\n"}, size=size))
    vm.run(TAKE.format(kind=kind, path=disk.path), timeout=180)
    return disk


def checksum(vm: Machine, disk: LiveDisk) -> str:
    """Return a checksum of every byte of a disk."""
    return vm.run(["sha256sum", disk.path], timeout=120).stdout.split()[0]
