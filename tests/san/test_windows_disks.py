"""Disks of Windows machines and other disks that Linux did not make: read, reaped, untouched."""

from __future__ import annotations

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.snapshot import checksum

ALL = (
    "options = nocheck, ro, nosuid, nodev\nfstype = auto\npartition = all\nudev_timeout = 80s\n"
    "lookup_timeout = 3m\nidle = 0\nlease = 1s\n"
)
#: Three primary partitions, and two logical ones in an extended one.
TABLE = """label: dos
start=2048, size=16384, type=7
start=18432, size=16384, type=7
start=34816, size=8192, type=42
start=43008, type=5
start=45056, size=16384, type=c
start=63488, size=16384, type=7
"""
#: Makes the filesystems, and writes to each as their system would have.
FILL = """
set -e
sfdisk -q {disk} <<END
{table}END
device=$(losetup --show -P -f {disk})
udevadm settle
mkntfs -q -f ${{device}}p1
mkfs.exfat ${{device}}p2 >/dev/null
mkfs.vfat ${{device}}p5 >/dev/null
mkntfs -q -f ${{device}}p6
mkdir -p /run/fill
for part in 1:ntfs-3g 2:exfat 5:vfat 6:ntfs-3g; do
    mount -t ${{part#*:}} ${{device}}p${{part%:*}} /run/fill
    echo "file on ${{part%:*}}" >"/run/fill/a file"
    umount /run/fill
done
udevadm settle
sync
losetup -d $device
"""


def test_ntfs_exfat_and_vfat_on_primary_and_logical_partitions(vm: Machine, san: San) -> None:
    disk = san.disk(whole=san.fs("", size=40))
    vm.run(FILL.format(disk=disk.path, table=TABLE), timeout=300)
    before = checksum(vm, disk)
    san.target(job.BETA, [disk])
    vm.discover()
    vm.automount("--timeout=2 --negative-timeout=1")
    job.configure(vm, ALL)
    root = f"{job.ROOT}/{job.BETA}"
    for part in (1, 2, 5, 6):
        read = vm.run(["cat", f"{root}/p{part}/a file"], user="user", timeout=200)
        assert read.stdout == f"file on {part}\n"
    (line,) = job.messages(vm)
    assert "p3 is left out" in line and "part of a Windows dynamic disk (LDM)" in line
    kinds = {m.point[len(root) :]: m.fstype for m in vm.mounts(root) if m.fstype != "autofs"}
    has_ntfs3 = vm.run("modprobe ntfs3", check=False).status == 0
    ntfs = "ntfs3" if has_ntfs3 else "fuseblk"
    assert {**kinds, "/p1": ntfs, "/p2": "exfat", "/p5": "vfat", "/p6": ntfs} == kinds
    # Somebody in it keeps the session; afterwards it ends, and the LUN is what it was.
    vm.run(["systemd-run", "--unit=reader", "tail", "-f", f"{root}/p6/a file"])
    vm.run("sleep 4; auto-iscsi reap", timeout=120)
    assert vm.sessions(job.BETA)
    assert "/p6" in vm.run(["auto-iscsi", "status"], check=False).stdout
    vm.run("systemctl stop reader")
    assert job.until(lambda: not [m for m in vm.mounts(root) if m.fstype != "autofs"])

    def is_cleared() -> bool:
        vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
        return not vm.sessions(job.BETA)

    assert job.until(is_cleared)
    job.configure(vm, ALL.replace("partition = all", "partition = 6"))
    assert job.visit(vm, job.BETA, "a file").stdout == "file on 6\n"
    assert checksum(vm, disk) == before


def test_a_gpt_without_its_backup_and_a_disk_of_4096_byte_blocks(vm: Machine, san: San) -> None:
    ext4, ntfs = san.fs("ext4", {"marker": "ext4\n"}), san.fs("ntfs", {"marker": "ntfs\n"})
    cut = san.disk([ext4, ntfs], table="gpt")
    native = san.disk([ext4, san.fs("vfat", {"marker": "vfat\n"})], block_size=4096)
    vm.run(f"dd if=/dev/zero of={cut.path} bs=1M seek=17 count=1 conv=notrunc status=none")
    before = [checksum(vm, cut), checksum(vm, native)]
    san.target(job.BETA, {0: cut, 1: native})
    vm.discover()
    vm.automount("--timeout=2 --negative-timeout=1")
    job.configure(vm, ALL.replace("partition = all", "partition = 2") + "lun = 1\n")
    assert job.visit(vm, job.BETA).stdout == "vfat\n"
    assert job.expired(vm, job.BETA)
    job.configure(vm, ALL + "lun = all\n")
    root = f"{job.ROOT}/{job.BETA}"
    places = {"lun0/p1": "ext4", "lun0/p2": "ntfs", "lun1/p1": "ext4", "lun1/p2": "vfat"}
    for place, kind in places.items():
        assert vm.run(f"cat {root}/{place}/marker", timeout=200).stdout == f"{kind}\n"
    name = job.session(vm, job.BETA).disks[1]
    assert vm.read(f"/sys/block/{name}/queue/logical_block_size") == b"4096\n"
    assert job.until(lambda: not [m for m in vm.mounts(root) if m.fstype != "autofs"])
    assert [checksum(vm, cut), checksum(vm, native)] == before
