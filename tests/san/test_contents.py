"""fstype = auto: every kind of disk is recognised, and mounted correctly or refused by name."""

from __future__ import annotations

import re
import struct

import pytest

from tests.san import job
from tests.san.bed.disk import Filesystem
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

AUTO = "options = nocheck, ro, nosuid, nodev\nfstype = auto\npartition = auto\nudev_timeout = 50s\n"


def explained(vm: Machine, iqn: str) -> str:
    """Return the output of `explain` for a key."""
    return vm.run(["auto-iscsi", "explain", iqn], check=False).stdout


def zfs_label() -> bytes:
    """Return the label of a ZFS pool: an XDR list of names and values.

    The format is that of OpenZFS module/nvpair/nvpair.c. libblkid 2.41 reads the label, libblkid
    2.38 counts uberblocks.
    """

    def text(value: str) -> bytes:
        return struct.pack(">I", len(value)) + value.encode() + b"\0" * (-len(value) % 4)

    values = {"version": 5000, "name": "tank", "state": 0, "txg": 4, "pool_guid": 12, "guid": 34}
    label = struct.pack(">BBHII", 1, 1, 0, 0, 1)
    for name, value in values.items():
        typed = (9, text(value)) if isinstance(value, str) else (8, struct.pack(">Q", value))
        pair = text(name) + struct.pack(">II", typed[0], 1) + typed[1]
        label += struct.pack(">II", len(pair) + 8, len(pair) + 8) + pair
    return label + bytes(8)


@pytest.mark.long
def test_every_kind_of_disk_of_one_target_at_once(vm: Machine, san: San) -> None:
    def fs(kind: str, name: str = "marker") -> Filesystem:
        return san.fs(kind, {name: f"{kind}\n"})

    efi = san.fs("vfat", {"EFI/BOOT/x": "vfat\n"}, label="ESP", efi=True)
    mixed = san.disk(
        [
            efi,
            fs("ext2"),
            fs("ext3", "etc/marker"),
            fs("ext4"),
            fs("squashfs"),
            san.fs("swap"),
            *[san.fs("")] * 3,
            san.fs("", size=64),
        ],
        table="gpt",
    )  # blkid recognises no smaller ZFS
    luns = {
        0: mixed,
        1: san.disk(whole=fs("xfs")),
        3: san.disk(whole=fs("btrfs")),
        4: san.disk(whole=fs("iso9660")),
        5: san.disk(whole=fs("ntfs")),
        6: san.disk([fs("ext4")], emulated=True),
        300: san.disk([efi, fs("ext4")], block_size=4096, table="gpt"),
    }
    vm.write("/root/zfs", zfs_label())
    vm.run(
        f"device=$(losetup -o {49 << 20} --sizelimit {8 << 20} -f --show {mixed.path}); "
        "pvcreate -qq $device && losetup -d $device; "
        f"printf 'LUKS\\xba\\xbe\\0\\1' | dd of={mixed.path} bs=1M seek=57 conv=notrunc;"
        f"device=$(losetup -o {65 << 20} --sizelimit {8 << 20} -f --show {mixed.path}); "
        "mdadm --create --quiet --run --force --level=1 --raid-devices=2 /dev/md9 $device "
        "missing && mdadm --quiet --stop /dev/md9 && losetup -d $device; "
        f"dd if=/root/zfs of={mixed.path} bs=1K seek={(73 << 10) + 16} conv=notrunc;"
        # The uberblocks of a pool's first label (OpenZFS include/sys/uberblock_impl.h).
        f"for n in $(seq {(73 << 10) + 128} {(73 << 10) + 160}); do "
        f"printf '\\x0c\\xb1\\xba\\0' | dd of={mixed.path} bs=1K seek=$n conv=notrunc; done"
    )
    san.target(job.BETA, luns)
    vm.discover()
    job.configure(
        vm,
        "options = nocheck, ro, nosuid\nfstype = auto\npartition = all\nlun = all\n"
        "udev_timeout = 4m\nlookup_timeout = 5m\n",
    )
    vm.automount("--timeout=600 --negative-timeout=1")
    key = f"{job.ROOT}/{job.BETA}"

    def read(name: str) -> str:
        return vm.run(["cat", f"{key}/{name}"], user="user", timeout=300).stdout

    assert read("lun0/p4/marker") == "ext4\n"
    # Only the entered partition is mounted.
    assert [m.point for m in vm.mounts(key) if m.fstype != "autofs"] == [f"{key}/lun0/p4"]
    seen = {
        name: read(name)
        for name in (
            "lun0/p1/EFI/BOOT/x",
            "lun0/p2/marker",
            "lun0/p3/etc/marker",
            "lun0/p5/marker",
            "lun1/marker",
            "lun3/marker",
            "lun4/marker",
            "lun6/p1/marker",
            "lun300/p2/marker",
        )
    }
    kinds = ("vfat", "ext2", "ext3", "squashfs", "xfs", "btrfs", "iso9660", "ext4", "ext4")
    assert list(seen.values()) == [f"{kind}\n" for kind in kinds]
    mounted = {m.point[len(key) + 1 :]: m for m in vm.mounts(key) if m.fstype != "autofs"}
    assert all({"ro", "nosuid"} <= set(m.options.split(",")) for m in mounted.values())
    assert "nouuid" in mounted["lun1"].super
    (line,) = job.messages(vm)  # the partitions that were left out, with the reasons
    reasons = [
        "lun0/p6 is left out: LUN 0 (sda) partition 6 is swap space",
        "sda7 is an LVM physical volume that belongs to no volume group",
        "partition 8 is LUKS encrypted",
        "lun0/p9 is left out: the md array on ",
        "partition 10 is a member of ZFS pool tank",
    ]
    assert read("lun5/marker") == "ntfs\n"  # by ntfs-3g where the kernel has no ntfs3
    explanation = explained(vm, job.BETA)
    disks = vm.sessions(job.BETA)[0].disks
    sizes = {
        lun: [
            vm.read(f"/sys/block/{disks[lun]}/queue/{kind}_block_size").decode().strip()
            for kind in ("logical", "physical")
        ]
        for lun in (0, 6, 300)
    }
    assert sizes == {0: ["512", "512"], 6: ["512", "4096"], 300: ["4096", "4096"]}
    for reason in reasons:
        reason = reason.replace("sda", disks[0])
        assert reason in line and reason in explanation
    assert re.search(r" 1 \w+ +vfat 'ESP' +8 MiB .*/lun0/p1$", explanation, re.M)
    assert re.search(r" 4 \w+ +ext4 +8 MiB +clean +/lun0/p4$", explanation, re.M)
    # Swap space, volume groups and RAID members were not activated: the one device is ours.
    assert vm.run("tail -n +2 /proc/swaps; dmsetup ls | grep -v ^ai-", check=False).stdout == ""
    assert "inactive" not in vm.run("cat /proc/mdstat", check=False).stdout


@pytest.mark.shared
def test_which_of_several_partitions_is_mounted(vm: Machine, san: San) -> None:
    """The visits use one session, and each has another configuration."""
    disk = san.disk(
        [
            san.fs("vfat", label="ESP", efi=True),
            san.fs("ext4", {"marker": "root\n"}, label="root"),
            san.fs("ext3", {"marker": "home\n"}, label="home"),
        ],
        table="gpt",
    )
    san.target(job.BETA, {5: disk})
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")
    job.configure(vm, AUTO + "lun = 5\n")
    line = job.refusal(vm, job.BETA)
    listed = (
        "1: 8 MiB vfat 'ESP' (EFI system partition), 2: 8 MiB ext4 'root', 3: 8 MiB ext3 'home'"
    )
    assert f"LUN 5 (sda) has more than one filesystem: {listed}" in line
    assert "set partition to one of the numbers, or to all" in line
    assert listed in explained(vm, job.BETA)

    job.configure(vm, AUTO.replace("partition = auto", "partition = 3") + "lun = 5\n")
    assert job.until(lambda: job.visit(vm, job.BETA, check=False).stdout) == "home\n"
    assert job.expired(vm, job.BETA)
    # With a given type, the filesystem of that type is mounted.
    job.configure(vm, AUTO.replace("fstype = auto", "fstype = ext4") + "lun = 5\n")
    assert job.until(lambda: job.visit(vm, job.BETA, check=False).stdout) == "root\n"
    assert job.expired(vm, job.BETA)

    job.configure(vm, AUTO.replace("partition = auto", "partition = all") + "lun = 5\n")
    key = f"{job.ROOT}/{job.BETA}"
    seen = job.until(
        lambda: (
            vm.run(f"ls {key}; cat {key}/p2/marker", user="user", check=False, timeout=60).stdout
        )
    )
    assert seen.split() == ["p1", "p2", "p3", "root"]
    assert vm.run(["cat", f"{key}/p3/marker"], user="user").stdout == "home\n"
    # All of it expires, and can be mounted again.
    assert job.until(lambda: not [m for m in vm.mounts(key) if m.fstype != "autofs"])
    assert (
        job.until(lambda: vm.run(["cat", f"{key}/p3/marker"], user="user", check=False).stdout)
        == "home\n"
    )
    assert len(vm.sessions(job.BETA)) == 1


@pytest.mark.shared
def test_a_volume_and_its_snapshots_at_once(vm: Machine, san: San) -> None:
    uuid = "11111111-2222-3333-4444-555555555555"
    names = {kind: [f"{job.ARRAY}-{kind}-{n}" for n in range(2)] for kind in ("xfs", "btrfs")}
    for kind, (volume, snapshot) in names.items():
        for iqn in (volume, snapshot):
            san.target(iqn, [san.disk(whole=san.fs(kind, {"marker": f"{iqn}\n"}, uuid=uuid))])
    vm.discover()
    job.configure(vm, AUTO)
    vm.automount("--timeout=600 --negative-timeout=1")
    for iqn in names["xfs"]:
        assert job.visit(vm, iqn).stdout == f"{iqn}\n"
    first, second = names["btrfs"]
    assert job.visit(vm, first).stdout == f"{first}\n"
    release = tuple(int(part) for part in vm.run("uname -r").stdout.split(".")[:2])
    if release >= (6, 7):
        assert job.visit(vm, second).stdout == f"{second}\n"
    else:
        disk = job.session(vm, first).disks[0]
        line = job.refusal(vm, second)
        assert f"a btrfs with the same UUID is mounted from {disk}" in line and "6.7" in line
    for iqn in (*names["xfs"], first):
        mounted = job.mount(vm, iqn)
        assert mounted is not None
        assert mounted.source == f"/dev/{job.session(vm, iqn).disks[0]}"


@pytest.mark.shared
def test_a_lookup_reads_no_more_of_two_tebibytes_than_of_a_few_megabytes(
    vm: Machine, san: San
) -> None:
    """Compare the sectors that were read, not the time."""
    small, big = f"{job.ARRAY}-small", f"{job.ARRAY}-big"
    few = san.fs("xfs", {"marker": f"{small}\n"})
    many = san.fs("xfs", {"marker": f"{big}\n"}, size=2 << 20, options=["-l", "size=64m"])
    san.target(small, [san.disk([few], table="gpt")])
    san.target(big, [san.disk([many], table="gpt")])
    vm.discover()
    job.configure(vm, AUTO)
    vm.automount("--timeout=600 --negative-timeout=1")
    read = {}
    for iqn in (small, big):
        assert job.visit(vm, iqn).stdout == f"{iqn}\n"
        (disk,) = job.session(vm, iqn).disks.values()
        fields = vm.read(f"/sys/block/{disk}/stat").split()
        read[iqn] = int(fields[2])  # sectors; Documentation/block/stat.rst
        assert int(fields[6]) == 0  # and none written
    assert re.search(r" 1 \w+ +xfs +2 TiB +clean ", explained(vm, big))
    assert read[big] < 2 * read[small] + 20000
