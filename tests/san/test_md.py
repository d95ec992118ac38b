"""Disks of a software RAID: is what is on the array there, from one of its disks alone?"""

from __future__ import annotations

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.snapshot import checksum

ALL = (
    "options = nocheck, ro\nfstype = auto\npartition = all\nlun = all\nudev_timeout = 80s\n"
    "lookup_timeout = 3m\nidle = 0\nlease = 1s\n"
)

#: Makes arrays on loop devices of files, uses them, and copies the files while they are in use.
ARRAYS = """
set -e
modprobe raid1; modprobe raid456
parts=""
for n in 1 2 3 4 5 6; do
    truncate -s $([ $n -lt 4 ] && echo 20M || echo 8M) /run/leg$n
    parts="$parts $(losetup --show -f /run/leg$n)"
done
set -- $parts
make="mdadm --quiet --create --run --force --assume-clean"
$make /dev/md/mirror --level=1 --metadata=1.2 --raid-devices=2 $1 $2
$make /dev/md/group --level=1 --metadata=1.0 --raid-devices=2 $3 missing
$make /dev/md/five --level=5 --raid-devices=3 $4 $5 $6
udevadm settle
mkfs.ext4 -q /dev/md/mirror
pvcreate -qq /dev/md/group && vgcreate -qq vg0 /dev/md/group
lvcreate -qq -y -n home -L 12M vg0 && mkfs.ext4 -q /dev/vg0/home
for each in md/mirror vg0/home; do
    mkdir -p /run/original/$each
    mount /dev/$each /run/original/$each
    sync -f /run/original/$each
    for n in $(seq 8); do
        echo $each$n >/run/original/$each/new$n
        sync /run/original/$each/new$n
    done
done
cat /run/leg1 >{mirror}
cat /run/leg2 >{other}
dd if=/run/leg3 of={group} bs=1M seek=9 conv=notrunc status=none
dd if=/run/leg4 of={group} bs=1M seek=29 conv=notrunc status=none
mdadm --quiet /dev/md/mirror --fail $2
echo later >/run/original/md/mirror/later; sync /run/original/md/mirror/later
cat /run/leg1 >{later}
sync
"""


def test_an_array_is_shown_by_one_disk_beside_the_original(vm: Machine, san: San) -> None:
    mirror, other, later = (san.disk(whole=san.fs("", size=20)) for _ in range(3))
    boot = san.fs("ext4", {"marker": "boot\n"})
    group = san.disk([boot, san.fs("", size=20), san.fs("")], table="gpt")
    names = {"mirror": mirror, "other": other, "later": later, "group": group}
    vm.run(ARRAYS.format(**{name: disk.path for name, disk in names.items()}), timeout=400)
    before = [checksum(vm, disk) for disk in names.values()]
    arrays = vm.run("cat /proc/mdstat").stdout
    # Its newest files are in the journal. One LUN has a disk that was removed from the array.
    san.target(job.ALPHA, [other, later, group])
    san.target(job.BETA, [mirror])
    vm.discover()
    vm.automount("--timeout=2 --negative-timeout=1")
    job.configure(vm, ALL)
    left = vm.run("dmsetup ls | sort; losetup -n | wc -l").stdout
    root = f"{job.ROOT}/{job.ALPHA}"
    assert vm.run(f"cat {root}/lun1/later", timeout=200).stdout == "later\n"
    assert vm.run(f"cat {root}/lun1/new8", timeout=100).stdout == "md/mirror8\n"
    assert vm.run(f"cat {root}/lun2/vg0-home/new8", timeout=100).stdout == "vg0/home8\n"
    assert vm.run(f"cat {root}/lun2/p1/marker", timeout=100).stdout == "boot\n"
    (line,) = job.messages(vm)
    assert "lun0 is left out: it is an older copy of the md array lun1 (event count" in line
    assert "lun2/p3 is left out: " in line and "is a member of a raid5 array" in line
    assert job.expired(vm, job.ALPHA)
    job.configure(vm, ALL.replace("partition = all\nlun = all", "partition = none"))
    assert job.visit(vm, job.BETA, "new8").stdout == "md/mirror8\n"
    assert job.visit(vm, job.BETA, "later", check=False).status != 0
    assert job.expired(vm, job.BETA)
    # The host's own arrays and volumes are as they were, and can be worked with.
    assert vm.run("cat /proc/mdstat").stdout == arrays
    assert "ai-" not in vm.run("mdadm --detail --scan; vgs -o pv_name").stdout

    def is_cleared() -> bool:
        vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
        return not vm.sessions(job.ALPHA) and not vm.sessions(job.BETA)

    assert job.until(is_cleared)
    assert vm.run("dmsetup ls | sort; losetup -n | wc -l").stdout == left
    job.configure(vm, ALL.replace("partition = all", "partition = vg0/home"))
    assert job.visit(vm, job.ALPHA, "new3").stdout == "vg0/home3\n"
    assert [checksum(vm, disk) for disk in names.values()] == before
