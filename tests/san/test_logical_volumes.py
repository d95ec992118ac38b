"""A server's disk with LVM: are its logical volumes there, beside the originals, and untouched?"""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San
from tests.san.snapshot import checksum

ALL = (
    "options = nocheck, ro\nfstype = auto\npartition = all\nudev_timeout = 50s\n"
    "idle = 0\nlease = 1s\n"
)

#: Makes a server's disk (/boot, and a volume group in the second partition), and copies it while
#: its filesystems are mounted and written. The original stays active and mounted.
SERVER = """
set -e
truncate -s 160M /run/server.img
printf 'label: gpt\nsize=16M\n\n' | sed 's/^$/size=+/' >/run/table
sfdisk -q /run/server.img </run/table
device=$(losetup --show -P -f /run/server.img)
udevadm settle
mkfs.ext4 -q -L boot ${{device}}p1
pvcreate -qq ${{device}}p2 && vgcreate -qq vg0 ${{device}}p2
lvcreate -qq -y -n root -L 24M vg0
lvcreate -qq -y -n my-data -L 16M vg0
lvcreate -qq -y -n swap -L 8M vg0
lvcreate -qq -y -n mirror --type raid1 -m 1 --nosync -L 8M vg0 || true
lvextend -qq -L +16M vg0/root
mkfs.ext4 -q /dev/vg0/root
mkfs.ext4 -q /dev/vg0/my-data
mkswap -q /dev/vg0/swap
for lv in root my-data; do
    mkdir -p /run/original/$lv
    mount /dev/vg0/$lv /run/original/$lv
    sync -f /run/original/$lv
    for n in $(seq 8); do echo $lv$n >/run/original/$lv/new$n; sync /run/original/$lv/new$n; done
done
cat /run/server.img >{copy}
sync
"""


def server(vm: Machine, san: San) -> LiveDisk:
    """Return a disk that was copied from a running server, which this host is, too."""
    disk = san.disk(whole=san.fs("", size=160))
    vm.run(SERVER.format(copy=disk.path), timeout=300)
    return disk


@pytest.mark.core
def test_logical_volumes_are_there_beside_the_originals(vm: Machine, san: San) -> None:
    disk = server(vm, san)
    before = checksum(vm, disk)
    san.target(job.ALPHA, [disk], read_only=True)
    san.target(job.BETA, [disk], read_only=True)
    vm.discover()
    vm.automount("--timeout=2 --negative-timeout=1")
    job.configure(vm, ALL)
    left = vm.run("dmsetup ls | sort; losetup -n | wc -l").stdout
    vm.run("echo later >>/run/original/root/new1; sync /run/original/root/new1")
    for iqn in (job.ALPHA, job.BETA):
        root = f"/iscsiauto/{iqn}"
        assert vm.run(f"cd {root} && cat vg0-root/new1", timeout=200).stdout == "root1\n"
        assert vm.run(f"cat {root}/vg0-my-data/new8", timeout=100).stdout == "my-data8\n"
        assert "lost+found" in vm.run(f"ls {root}/p1", timeout=100).stdout
    assert vm.read("/run/original/root/new1") == b"root1\nlater\n"
    assert any("swap is left out" in line for line in job.messages(vm))
    # Nothing of LVM's was started, and the host's own volumes are where they were.
    assert "lvm-activate" not in vm.run("systemctl list-units --all 'lvm-activate*'").stdout
    assert vm.run("findmnt -n -o SOURCE /run/original/root").stdout == "/dev/mapper/vg0-root\n"
    vm.run("echo more >>/run/original/root/new2; sync /run/original/root/new2")
    assert job.until(lambda: job.mount(vm, job.ALPHA) is None)
    assert job.until(lambda: job.mount(vm, job.BETA) is None)

    def is_cleared() -> bool:
        vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
        return not vm.sessions(job.ALPHA) and not vm.sessions(job.BETA)

    assert job.until(is_cleared)
    assert vm.run("dmsetup ls | sort; losetup -n | wc -l").stdout == left
    job.configure(vm, ALL.replace("partition = all", "partition = vg0/my-data"))
    assert job.visit(vm, job.ALPHA, "new3").stdout == "my-data3\n"
    job.configure(vm, ALL.replace("partition = all", "partition = vg0/none"))
    assert "there are vg0/" in job.refusal(vm, job.BETA)
    assert checksum(vm, disk) == before


def test_a_volume_group_behind_multipathd_is_left_to_us(vm: Machine, san: San) -> None:
    disk = server(vm, san)
    before = checksum(vm, disk)
    # The original goes, so that nothing but our rule keeps LVM from the snapshot's volume group.
    vm.run(
        "umount /run/original/* && vgchange -qq -an vg0 && losetup -D && udevadm settle;"
        " rm -f /run/lvm/*/*",
        timeout=120,
    )
    job.start_multipathd(vm)
    san.target(job.ALPHA, [disk], read_only=True)
    vm.discover()
    vm.automount("--timeout=2 --negative-timeout=1")
    job.configure(vm, ALL.replace("udev_timeout = 50s", "udev_timeout = 80s\nlookup_timeout = 2m"))
    assert vm.run(f"cat /iscsiauto/{job.ALPHA}/vg0-root/new2", timeout=200).stdout == "root2\n"
    vm.run("udevadm settle", timeout=100)
    names = vm.run("cat /sys/block/dm-*/dm/uuid").lines
    assert names and not [name for name in names if name.startswith("LVM-")]
    assert job.until(lambda: job.mount(vm, job.ALPHA) is None)

    def is_cleared() -> bool:
        vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
        return not vm.sessions(job.ALPHA)

    assert job.until(is_cleared)
    assert vm.run("dmsetup ls").stdout.strip() == "No devices found"
    assert checksum(vm, disk) == before
