"""Thin volumes, mirrors and caches of LVM: is each shown or named, and not one byte written?"""

from __future__ import annotations

import pytest

from tests.san import job, killer
from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San
from tests.san.reaping import all_ended
from tests.san.snapshot import checksum

#: What a host without a device of ours shows: no map, no store.
LEFT = "dmsetup ls; losetup --list --noheadings; ls -A /var/tmp | grep -v systemd-private"
ALL = (
    "options = nocheck, ro\nfstype = auto\nlun = all\npartition = all\nudev_timeout = 50s\n"
    "lookup_timeout = 2m\nidle = 0\nlease = 1s\n"
)
ONE = ALL.replace("partition = all", "partition = vg1/thin")

#: Makes a volume group on two disks, and copies them while `thin` and `twice` are written.
MAKE = """
set -ex
modprobe -a dm-thin-pool dm-raid dm-cache dm-cache-smq dm-snapshot raid1
truncate -s 64M /var/tmp/a.img /var/tmp/b.img
A=$(losetup --show -f /var/tmp/a.img) B=$(losetup --show -f /var/tmp/b.img)
pvcreate -q $A $B && vgcreate -q -s 1M vg1 $A $B
lvcreate -q -y -L 14M -T vg1/pool $A
lvcreate -q -y -V 24M -T vg1/pool -n thin
lvcreate -q -y --type raid1 -m 1 -L 8M -n twice vg1 $A $B
for lv in through back; do
    lvcreate -q -y -L 8M -n $lv vg1 $A
    lvcreate -q -y -L 16M -n $lv-fast vg1 $B
    lvconvert -q -y --type cache --cachemode write$lv --cachevol $lv-fast vg1/$lv
done
lvcreate -q -y -L 6M -n origin vg1 $A
mkdir -p /run/m
for lv in thin twice through back origin; do
    mkfs.ext4 -q /dev/vg1/$lv
    mount /dev/vg1/$lv /run/m
    echo $lv >/run/m/marker
    umount /run/m
done
lvcreate -q -y -s -L 4M -n changed vg1/origin
lvcreate -q -y -s -n earlier vg1/thin
until lvs --noheadings -o sync_percent vg1/twice | grep -q 100; do sleep 1; done
mkdir -p /run/thin /run/twice
for lv in thin twice; do
    mount /dev/vg1/$lv /run/$lv
    sync -f /run/$lv
    for n in $(seq 8); do echo $lv$n >/run/$lv/new$n; sync /run/$lv/new$n; done
done
cat /var/tmp/a.img >{first}
cat /var/tmp/b.img >{second}
umount /run/thin /run/twice
udevadm settle
vgchange -q -an vg1
losetup -d $A $B
rm /var/tmp/a.img /var/tmp/b.img
sync
udevadm settle
"""


def group(vm: Machine, san: San) -> tuple[LiveDisk, LiveDisk]:
    """Return two disks that were copied while their volume group was in use."""
    first, second = (san.disk(whole=san.fs("", size=64)) for _ in range(2))
    vm.run(MAKE.format(first=first.path, second=second.path), timeout=400)
    return first, second


@pytest.mark.parametrize("read_only", [True, False], ids=["protected", "writable"])
def test_each_kind_is_shown_or_named(vm: Machine, san: San, read_only: bool) -> None:
    disks = group(vm, san)
    before, left = [checksum(vm, disk) for disk in disks], vm.run(LEFT, check=False).stdout
    san.target(job.ALPHA, disks, read_only=read_only)
    san.target(job.BETA, disks[1:], read_only=read_only)
    vm.discover()
    vm.automount("--timeout=2 --negative-timeout=1")
    job.configure(vm, ALL)
    root = f"/iscsiauto/{job.ALPHA}"
    assert vm.run(f"cd {root} && cat vg1-thin/new8", timeout=300).stdout == "thin8\n"
    assert vm.run(f"cat {root}/vg1-twice/new8", timeout=100).stdout == "twice8\n"
    assert vm.run(f"cat {root}/vg1-through/marker", timeout=100).stdout == "through\n"
    assert vm.run(f"cat {root}/vg1-origin/marker", timeout=100).stdout == "origin\n"
    assert vm.run(f"cd {root}/vg1-earlier && cat marker; ls", timeout=100).lines == [
        "thin",
        "lost+found",
        "marker",
    ]
    shown = ["vg1-earlier", "vg1-origin", "vg1-thin", "vg1-through", "vg1-twice"]
    assert vm.run(f"ls {root}").lines == shown
    lines = job.messages(vm)
    assert any("vg1-back is left out: " in line and "'writeback'" in line for line in lines)
    assert any("vg1-changed is left out: " in line and "'origin'" in line for line in lines)
    # Nothing of LVM's was started, and nothing was written on the way to the disks.
    assert not [n for n in vm.run("cat /sys/block/dm-*/dm/uuid").lines if n.startswith("LVM-")]
    for node in vm.run("cd /sys/block && grep -l -E '(pool_t|vg1-pool)' dm-*/dm/name").lines:
        counters = vm.read(f"/sys/block/{node.split('/')[0]}/stat").split()
        assert counters[4] == b"0", node  # writes
    assert [checksum(vm, disk) for disk in disks] == before
    # Of the second disk alone, a mirror can be shown.
    root = f"/iscsiauto/{job.BETA}/lun0"
    assert vm.run(f"cd {root} && ls", timeout=300).lines == ["vg1-twice"]
    assert vm.run(f"cat {root}/vg1-twice/new8", timeout=100).stdout == "twice8\n"
    assert any("/vg1-thin is left out: " in line and "missing" in line for line in job.messages(vm))
    assert job.expired(vm, job.ALPHA) and job.expired(vm, job.BETA)
    assert all_ended(vm)
    assert vm.run(LEFT, check=False).stdout == left
    assert [checksum(vm, disk) for disk in disks] == before


@pytest.mark.long
def test_a_lookup_killed_at_each_step_leaves_nothing_that_stays(vm: Machine, san: San) -> None:
    disks = group(vm, san)
    before, left = [checksum(vm, disk) for disk in disks], vm.run(LEFT, check=False).stdout
    san.target(job.ALPHA, disks)
    vm.discover()
    job.configure(vm, ONE)
    killer.prepare(vm)
    killed = 0
    for when in ("before", "after"):
        for call in range(1, 6):  # two devices, the pool, its status, the volume
            killer.arm(vm, call, when)
            killed += (
                vm.run(["auto-iscsi", "lookup", job.ALPHA], check=False, timeout=180).status != 0
            )
            killer.disarm(vm)
            if call % 2:  # the next lookup finishes it; else the reaper clears it
                entry = vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=180).stdout
                device = entry.rpartition('":')[2].rstrip('"\n ')
                text = vm.run(f"mount -o ro {device} /mnt && cat /mnt/new8; umount /mnt").stdout
                assert text == "thin8\n", (when, call)
            assert all_ended(vm), (when, call)
            assert vm.run(LEFT, check=False).stdout == left, (when, call)
    for call in range(1, 6):  # the overlay, the volume, the pool, two devices
        vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=180)
        killer.arm(vm, call, "after")
        killed += bool(
            job.until(lambda: vm.run(["auto-iscsi", "reap"], check=False, timeout=180).status)
        )
        killer.disarm(vm)
        assert all_ended(vm), call
        assert vm.run(LEFT, check=False).stdout == left, call
    assert killed == 15
    assert [checksum(vm, disk) for disk in disks] == before
