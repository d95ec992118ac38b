"""Disks with a history: where two things could be meant, is neither taken by itself?"""

from __future__ import annotations

import re

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

SETTINGS = "options = nocheck, ro\nudev_timeout = 4m\nlookup_timeout = 5m\n"
ALL_LUNS = f"{SETTINGS}fstype = auto\npartition = auto\nlun = all\n"
SIGNATURES = "signatures of more than one filesystem"


@pytest.mark.long
def test_disks_with_a_history(vm: Machine, san: San) -> None:
    old = {
        kind: san.disk(whole=san.fs(kind, {"marker": f"old {kind}\n"}, label="old", size=size))
        for kind, size in {"ext4": 40, "btrfs": 160, "xfs": 300, "ext3": 20, "ext2": 40}.items()
    }
    both = san.disk(whole=san.fs("ext4", label="both", size=40))
    image = san.disk(whole=san.fs("iso9660", {"marker": "iso9660\n"}, label="CD"))
    two = san.disk([san.fs("ext4", {"marker": "two\n"}, size=40), san.fs("vfat", label="FW")])
    boot = san.disk([san.fs("ext4", {"marker": "boot\n"}, label="boot"), san.fs("", size=40)])
    # fdisk leaves the old signature where it is, if told to or if nobody is asked; so does parted
    # with those that are not in the first sectors.
    parted = " ".join(old[kind].path for kind in ("ext4", "xfs", "ext3", "ext2"))
    vm.run(
        f"set -e; dd if={old['btrfs'].path} of=/root/btrfs bs=1K skip=64 count=4; "
        f"for disk in {parted} {image.path}; do echo 2048, | "
        "sfdisk --quiet --label dos --wipe never $disk; done; "
        f"parted -s {old['btrfs'].path} mklabel gpt mkpart new 1MiB 100%; "
        f"for disk in {old['ext4'].path} {old['btrfs'].path} {old['xfs'].path} {old['ext2'].path}; "
        "do device=$(losetup -o 1M -f --show $disk); mkfs.ext4 -q -L new $device; "
        "mkdir -p /run/new; mount $device /run/new; echo new >/run/new/marker; "
        "umount /run/new; losetup -d $device; done; "
        f"device=$(losetup -o 9M -f --show {boot.path}); pvcreate -qq $device; "
        "losetup -d $device; "
        # A second signature, as an earlier btrfs leaves it.
        f"dd if=/root/btrfs of={both.path} bs=1K seek=64 conv=notrunc; "
        f"dd if=/root/btrfs of={old['ext2'].path} bs=1K seek=64 conv=notrunc; "
        f"dd if=/root/btrfs of={two.path} bs=1K seek={1024 + 64} conv=notrunc",
        timeout=300,
    )
    luns = [*(old[kind] for kind in old), both, image, two, boot]
    san.target(job.BETA, luns)
    vm.discover()
    job.configure(vm, ALL_LUNS)
    vm.automount("--timeout=1 --negative-timeout=1")
    assert job.visit(vm, job.BETA, "lun8/marker").stdout == "boot\n"
    assert job.visit(vm, job.BETA, "lun6/marker").stdout == "iso9660\n"
    line = job.messages(vm)[-1]
    told = vm.run(["auto-iscsi", "explain", job.BETA], check=False).stdout
    name = dict(vm.sessions(job.BETA)[0].disks)
    # The table is in the sector that the XFS has a checksum of, so no kernel mounts it any more.
    # libblkid before 2.40 does not verify that.
    left_out = []
    if "xfs" in vm.run(["lsblk", "-dno", "FSTYPE", f"/dev/{name[2]}"]).stdout:
        left_out = ["xfs on the whole disk, and partitions: disk: 300 MiB xfs 'old', 1: 299 MiB"]
    else:
        assert job.visit(vm, job.BETA, "lun2/marker").stdout == "new\n"
    for text in (
        f"lun0 is left out: LUN 0 ({name[0]}) has ext4 on the whole disk, and partitions: "
        "disk: 40 MiB ext4 'old', 1: 39 MiB ext4 'new'",
        "btrfs on the whole disk, and partitions: disk: 160 MiB btrfs 'old', 1: 159 MiB ext4 'new'",
        *left_out,
        "ext3 on the whole disk, and partitions: disk: 20 MiB ext3 'old', 1: 19 MiB nothing known",
        f"{SIGNATURES} on the whole disk, and partitions: disk: 40 MiB {SIGNATURES}, "
        "1: 39 MiB ext4 'new'",
        f"lun5 is left out: LUN 5 ({name[5]}) has no filesystem: disk: 40 MiB nothing known",
        f"LUN 7 ({name[7]}) has more than one filesystem: 1: 40 MiB {SIGNATURES}, "
        "2: 8 MiB vfat 'FW'",
        "lun8: partition 2 is an LVM physical volume and is left alone: /boot may be all",
    ):
        assert text in told
        assert text in line or line.endswith("...")  # a long line is cut
    assert "1: 39 MiB ext4 'new'; lun1 is left out" in line
    assert re.search(rf"LUN 0 {name[0]} +ext4 'old' +40 MiB +clean ", told)

    def refusal(settings: str) -> str:
        job.configure(vm, SETTINGS + settings)
        return job.refusal(vm, job.BETA)

    def read(settings: str) -> str:
        job.configure(vm, SETTINGS + settings)
        text = job.until(lambda: job.visit(vm, job.BETA, check=False).stdout)
        assert job.expired(vm, job.BETA)
        return text

    key = f"{job.ROOT}/{job.BETA}"
    assert job.until(lambda: not [m for m in vm.mounts(key) if m.fstype != "autofs"])
    line = refusal("lun = 0\nfstype = auto\npartition = all\n")
    assert "set partition to none for the whole disk, or to one of the numbers" in line
    assert "'old', 1: 39 MiB ext4 'new'" in line
    line = refusal("lun = 7\nfstype = auto\npartition = 1\n")
    assert f"{SIGNATURES}; wipefs -n /dev/{name[7]}1 shows them; set fstype and partition" in line
    assert f"wipefs -n /dev/{name[5]} shows {SIGNATURES}, set fstype" in refusal(
        "lun = 5\nfstype = auto\npartition = auto\n"
    )
    # What is set is obeyed, and one type is enough where only one place can have it.
    assert read("lun = 3\nfstype = auto\npartition = none\n") == "old ext3\n"
    assert read("lun = 2\nfstype = auto\npartition = 1\n") == "new\n"
    assert read("lun = 7\nfstype = ext4\npartition = auto\n") == "two\n"
    assert read("lun = 8\nfstype = auto\npartition = auto\n") == "boot\n"
    note = "partition 2 is an LVM physical volume and is left alone: /boot may be all that you see"
    assert job.messages(vm)[-1].endswith(f": {note}")
