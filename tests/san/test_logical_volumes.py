"""A server's disk with LVM: are its logical volumes there, beside the originals, and untouched?"""

from __future__ import annotations

import re

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


#: Makes a disk with a boot filesystem in its first partition, and a volume group in its last one.
TABLES = """
set -e
truncate -s 96M /run/x.img
device=$(losetup --show -P --sector-size {block} -f /run/x.img)
sfdisk -q $device <<'END' || exit 1
{table}
END
udevadm settle
mkfs.ext4 -q -L boot ${{device}}p1
pvcreate -qq ${{device}}p{part} && vgcreate -qq vgx ${{device}}p{part}
lvcreate -qq -y -n files -L 32M vgx && mkfs.ext4 -q /dev/vgx/files
mkdir -p /run/x && mount /dev/vgx/files /run/x
echo {part} >/run/x/part && seq 100000 >/run/x/numbers && umount /run/x
vgchange -qq -an vgx && losetup -d $device
cat /run/x.img >{copy}
{after}
rm /run/x.img && sync
"""
GPT = "label: gpt\nsize=16M\nsize=+"
LOGICAL = "label: dos\nsize=16M\nsize=+, type=5\nsize=8M\nsize=+"


def nodes_of_members(vm: Machine) -> list[str]:
    """Return the partitions of SCSI disks that show a physical volume."""
    return vm.run("lsblk -nrpo NAME,FSTYPE | grep -E '^/dev/sd.*LVM2_member'", check=False).lines


def server(vm: Machine, san: San) -> LiveDisk:
    """Return a disk that was copied from a running server, which this host is, too."""
    disk = san.disk(whole=san.fs("", size=160))
    vm.run(SERVER.format(copy=disk.path), timeout=300)
    return disk


def test_logical_volumes_are_there_beside_the_originals(vm: Machine, san: San) -> None:
    disk = server(vm, san)
    before = checksum(vm, disk)
    san.target(job.ALPHA, [disk], read_only=True)
    san.target(job.BETA, [disk], read_only=True)
    vm.discover()
    vm.automount("--timeout=8 --negative-timeout=1")
    job.configure(vm, ALL)
    left = vm.run("dmsetup ls | sort; losetup -n | wc -l").stdout
    links = vm.run("cd /dev/disk/by-uuid && for f in *; do echo $f $(readlink $f); done").stdout
    vm.run("echo later >>/run/original/root/new1; sync /run/original/root/new1")
    for iqn in (job.ALPHA, job.BETA):
        root = f"/iscsiauto/{iqn}"
        assert vm.run(f"cd {root} && cat vg0-root/new1", timeout=200).stdout == "root1\n"
        assert vm.run(f"cat {root}/vg0-my-data/new8", timeout=100).stdout == "my-data8\n"
        assert "lost+found" in vm.run(f"ls {root}/p1", timeout=100).stdout
    assert vm.read("/run/original/root/new1") == b"root1\nlater\n"
    # The host's own LVM sees its own physical volume only, and changes its volume group.
    assert not nodes_of_members(vm)
    for command in ("vgs", "lvs", "pvs", "lvextend -L +4M vg0/my-data", "lvcreate -L 4M -n x vg0"):
        result = vm.run(f"{command} 2>&1", timeout=100)
        assert "WARNING" not in result.stdout and "duplicate" not in result.stdout.lower()
    assert len(vm.run("pvs --noheadings").lines) == 1
    vm.run("lvremove -qq -y vg0/x", timeout=100)
    assert (
        links
        == vm.run("cd /dev/disk/by-uuid && for f in *; do echo $f $(readlink $f); done").stdout
    )
    assert "lvm" not in vm.run("systemctl --failed --plain --no-legend").stdout
    assert vm.run("mdadm --detail --scan").stdout == ""
    # They come back, and the next lookup hides them again: automount asks for what is mounted.
    node = vm.run("lsblk -nro NAME,PKNAME | awk '/^sd.1/ {print $2; exit}'").stdout.strip()
    vm.run(f"partx -a --nr 2 /dev/{node}; udevadm settle", timeout=100)
    assert nodes_of_members(vm)
    for iqn in (job.ALPHA, job.BETA):
        vm.run(["auto-iscsi", "lookup", iqn], timeout=100)
        assert vm.run(f"cat /iscsiauto/{iqn}/vg0-my-data/new7").stdout == "my-data7\n"
    assert not nodes_of_members(vm)
    assert any("swap is left out" in line for line in job.messages(vm))
    # Nothing of LVM's was started, and the host's own volumes are where they were.
    assert "lvm-activate" not in vm.run("systemctl list-units --all 'lvm-activate*'").stdout
    assert vm.run("findmnt -n -o SOURCE /run/original/root").stdout == "/dev/mapper/vg0-root\n"
    vm.run("echo more >>/run/original/root/new2; sync /run/original/root/new2")
    assert job.expired(vm, job.ALPHA, 150)
    assert job.expired(vm, job.BETA, 150)

    def is_cleared() -> bool:
        vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
        return not vm.sessions(job.ALPHA) and not vm.sessions(job.BETA)

    assert job.until(is_cleared)
    assert vm.run("dmsetup ls | sort; losetup -n | wc -l").stdout == left
    job.configure(vm, ALL.replace("partition = all", "partition = vg0/my-data"))
    assert job.visit(vm, job.ALPHA, "new3").stdout == "my-data3\n"
    # Another partition can be mounted while a logical volume of ours holds the disk.
    assert job.expired(vm, job.ALPHA, 150)
    job.configure(vm, "options = nocheck, ro\nfstype = ext4\nidle = 0\nlease = 1s\n")
    assert "lost+found" in vm.run(f"ls /iscsiauto/{job.ALPHA}", timeout=100).stdout
    job.configure(vm, ALL.replace("partition = all", "partition = vg0/none"))
    assert "there are vg0/" in job.refusal(vm, job.BETA)
    assert checksum(vm, disk) == before


@pytest.mark.long
def test_a_volume_group_behind_multipathd_is_left_to_us(vm: Machine, san: San) -> None:
    disk = server(vm, san)
    before = checksum(vm, disk)
    # The original goes, so that nothing but our rule keeps LVM from the snapshot's volume group,
    # and so that /run has the room that systemd wants to have before it reloads units.
    vm.run(
        "umount /run/original/* && vgchange -qq -an vg0 && losetup -D && udevadm settle;"
        " rm -f /run/lvm/*/* /run/server.img",
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
    assert names and not [name for name in names if name.startswith(("LVM-", "part2-"))]
    assert not vm.run("pvs --noheadings").lines
    assert "lost+found" in vm.run(f"ls /iscsiauto/{job.ALPHA}/p1", timeout=100).stdout
    # kpartx makes a map of the partition again, and the next lookup removes it.
    wwid = next(name[len("mpath-") :] for name in names if name.startswith("mpath-"))
    vm.run(f"kpartx -a -p -part /dev/disk/by-id/dm-uuid-mpath-{wwid}; udevadm settle", timeout=100)
    assert "part2-" in vm.run("cat /sys/block/dm-*/dm/uuid").stdout
    vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=100)
    assert "part2-" not in vm.run("cat /sys/block/dm-*/dm/uuid").stdout
    assert job.expired(vm, job.ALPHA)

    def is_cleared() -> bool:
        vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
        return not vm.sessions(job.ALPHA)

    assert job.until(is_cleared)
    assert vm.run("dmsetup ls").stdout.strip() == "No devices found"
    assert checksum(vm, disk) == before


@pytest.mark.shared
@pytest.mark.parametrize(
    ("table", "block", "part", "after"),
    [
        (GPT, 4096, 2, ""),
        (
            GPT,
            512,
            2,
            "dd if=/dev/zero of={copy} bs=512 seek=$((96 * 2048 - 33)) count=33 conv=notrunc",
        ),
        (GPT, 512, 2, "dd if=/dev/zero of={copy} bs=512 seek=1 count=1 conv=notrunc"),
        pytest.param(LOGICAL, 512, 6, "", marks=pytest.mark.core),
    ],
    ids=["4Kn", "no-second-GPT", "no-first-GPT", "logical"],
)
def test_a_volume_group_in_any_table(
    vm: Machine, san: San, table: str, block: int, part: int, after: str
) -> None:
    disk = san.disk(whole=san.fs("", size=96), block_size=block)
    after = after.format(copy=disk.path)
    vm.run(
        TABLES.format(table=table, block=block, part=part, copy=disk.path, after=after), timeout=300
    )
    before = checksum(vm, disk)
    san.target(job.ALPHA, [disk])
    vm.discover()
    vm.automount("--timeout=2 --negative-timeout=1")
    job.configure(vm, ALL)
    root = f"/iscsiauto/{job.ALPHA}"
    assert vm.run(f"cd {root} && cat vgx-files/part", timeout=200).stdout == f"{part}\n"
    assert vm.run(f"tail -1 {root}/vgx-files/numbers").stdout == "100000\n"
    assert "lost+found" in vm.run(f"ls {root}/p1", timeout=100).stdout
    assert not nodes_of_members(vm)
    shown = vm.run(["auto-iscsi", "explain", job.ALPHA], timeout=100).stdout
    assert re.search(rf" {part} sd[a-z]{part} +LVM2_member of vgx ", shown)
    # As long as a volume is mounted, no lookup is asked for the key.
    assert job.until(lambda: not vm.mounts(root))
    job.configure(vm, ALL.replace("partition = all", f"partition = {part}"))
    assert "LVM physical volume" in job.refusal(vm, job.ALPHA)
    assert checksum(vm, disk) == before
