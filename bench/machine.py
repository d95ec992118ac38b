"""Compare a visit on a real SAN with the shell script and with a bare iscsiadm.

bench/guest.py measures in the virtual machine of tests/san, on QEMU's virtual clock.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import report
from bench.host import PYTHON
from bench.table import Row
from tests.san.bed import layers, requirements
from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San

ROOT = Path(__file__).resolve().parent.parent
MANY = 16
SNAPSHOTS = 20  #: that "versions" looks at
ROUNDS = {"warm": 9, "cold": 3, "together": 1}
SUITES = ("bookworm", "trixie")

#: What is set for dirty snapshots and servers; other targets have what the package ships.
CONTENTS = """
[*-dirty*]
    fstype = auto
    partition = auto
[*-server*]
    fstype = auto
    partition = system
    udev_timeout = 5m
    lookup_timeout = 10m
"""

#: Copies a disk while the filesystem in its partition is mounted and written.
DIRTY = """
set -e
device=$(losetup --show -P -f {path})
udevadm settle
mkfs.ext4 -q -F ${{device}}p1
mount ${{device}}p1 /mnt
sync -f /mnt
for n in $(seq 50); do echo new >/mnt/new$n; sync /mnt/new$n; done
cp --sparse=always {path} /run/taken
umount /mnt
losetup -d $device
cp --sparse=always /run/taken {path}
rm /run/taken
"""

#: Makes the disk of a server, with five logical volumes, and copies it while it is written.
SERVER = """
set -e
truncate -s 600M /run/server.img
printf 'label: gpt\\nsize=16M,type=U\\nsize=32M\\nsize=+\\n' | sfdisk -q /run/server.img
device=$(losetup --show -P -f /run/server.img)
udevadm settle
mkfs.vfat ${{device}}p1 >/dev/null
mkfs.ext4 -q -L boot ${{device}}p2
pvcreate -qq ${{device}}p3 && vgcreate -qq vg0 ${{device}}p3
lvcreate -qq -y -n root -L 320M vg0
mkfs.xfs -q /dev/vg0/root
mount /dev/vg0/root /mnt
mkdir -p /mnt/etc /mnt/boot /mnt/home /mnt/var /mnt/srv /mnt/data
cat >/mnt/etc/fstab <<END
/dev/mapper/vg0-root / xfs defaults 0 0
LABEL=boot /boot ext4 defaults 0 0
UUID=$(blkid -s UUID -o value ${{device}}p1) /boot/efi vfat defaults 0 0
END
for lv in home var srv data; do
    lvcreate -qq -y -n $lv -L 24M vg0
    mkfs.ext4 -q /dev/vg0/$lv
    echo "/dev/vg0/$lv /$lv ext4 defaults 0 0" >>/mnt/etc/fstab
done
mount ${{device}}p2 /mnt/boot && mkdir -p /mnt/boot/efi
for lv in home var srv data; do mount /dev/vg0/$lv /mnt/$lv; done
for place in . boot home var srv data; do
    sync -f /mnt/$place
    for n in $(seq 8); do echo new >/mnt/$place/new$n; sync /mnt/$place/new$n; done
done
cp --sparse=always /run/server.img {path}
umount -R /mnt
vgchange -qq -an vg0
losetup -d $device
rm /run/server.img
"""


def mended(script: str) -> str:
    """Return the shell script, corrected: without its sleep, and with only the entry on stdout."""
    for old, new in (
        ("sleep 1\n", "\n"),
        ('| grep "$IQN"', '| grep -q "$IQN"'),
        ("echo node exists", ":"),
    ):
        assert old in script
        script = script.replace(old, new)
    return script


def named(volume: str) -> str:
    return f"iqn.2001-05.com.equallogic:0-8a0906-{volume}"


def prepared(vm: Machine, part: str) -> list[str]:
    """Make the targets and the files that the guest needs for a part; return the targets."""
    san = San(vm)
    disks: dict[str, LiveDisk | None] = {}
    if part == "cold":
        disks = {named("plain"): None, named("dirty"): dirty(vm, san)}
        disks[named("server")] = server(vm, san)
    elif part == "together":
        disks = {named(f"vol{number:02}"): None for number in range(MANY)}
        first = server(vm, san)
        for number in range(MANY):
            disks[named(f"server{number:02}")] = copy(vm, san, first) if number else first
    elif part == "versions":
        same = san.disk([san.fs("ext3", {"marker": "the same in each\n"})])
        for day in range(1, SNAPSHOTS + 1):
            disks[f"iqn.2001-05.com.example:vm-beta-2026-01-{day:02}-04:00:01"] = same
    else:
        disks = {named("vol00"): None}
    for target, disk in disks.items():
        san.target(target, [disk] if disk else None, read_only=bool(disk))
    vm.discover()
    # Where the script looks for node records.
    vm.run(
        "test -e /var/lib/iscsi/nodes || "
        "{ mkdir -p /var/lib/iscsi && ln -s /etc/iscsi/nodes /var/lib/iscsi/nodes; }"
    )
    vm.write("/etc/auto.iscsi.conf", CONTENTS)
    script = (ROOT / "tests/san/original/auto.iscsi").read_text()
    vm.write("/root/original", script, 0o755)
    vm.write("/root/mended", mended(script), 0o755)
    vm.write("/root/guest.py", (ROOT / "bench/guest.py").read_bytes())
    return list(disks)


def dirty(vm: Machine, san: San) -> LiveDisk:
    """Make the disk of a snapshot that was taken while its filesystem was written."""
    disk = san.disk([san.fs("", size=128)])
    vm.run(DIRTY.format(path=disk.path), timeout=600)
    return disk


def server(vm: Machine, san: San) -> LiveDisk:
    """Make the disk of a server with five logical volumes, which was copied while it ran."""
    disk = san.disk(whole=san.fs("", size=600))
    vm.run(SERVER.format(path=disk.path), timeout=1200)
    return disk


def copy(vm: Machine, san: San, disk: LiveDisk) -> LiveDisk:
    """Make another disk with the same bytes."""
    other = san.disk(whole=san.fs("", size=600))
    vm.run(["cp", "--sparse=always", disk.path, other.path], timeout=600)
    return other


def rows(part: str) -> list[Row]:
    """Measure a part in the guest: on Debian 12, or on the suite of that name."""
    if missing := requirements.missing(filesystems=True):
        return [Row(f"{part} visits", "–", "", "", "needs " + ", ".join(missing))]
    deb = requirements.newest_deb(ROOT)
    assert deb, "run make deb"
    job, suite = ("warm", part) if part in SUITES else (part, SUITES[0])
    with layers.installed(deb, suite, icount=True).resumed() as vm:
        python = vm.run(f"{PYTHON} --version").stdout.strip()
        print(f"bench: {part} visits in the virtual machine, {suite}, {python}", file=sys.stderr)
        if part == "failing":
            return report.failing(failed_visits(vm))
        targets = prepared(vm, job)
        times = measured(vm, job, targets)
    if job == "warm":
        return report.warm(times, python)
    if job == "versions":
        return report.versions(times, SNAPSHOTS)
    return report.cold(times) if job == "cold" else report.together(times)


def measured(vm: Machine, job: str, targets: Sequence[str]) -> dict[str, list[float]]:
    """Run a job of bench/guest.py; return its times."""
    command = ["python3", "/root/guest.py", job, str(ROUNDS.get(job, 1)), *targets]
    times: dict[str, list[float]] = json.loads(vm.run(command, timeout=3000).stdout)
    return times


def failed_visits(vm: Machine) -> dict[str, float]:
    """Return how many seconds a user waits for the error, by what is wrong."""
    vm.write("/root/guest.py", (ROOT / "bench/guest.py").read_bytes())
    san = San(vm)
    name = named("vol00")
    target = san.target(name)
    vm.discover()
    vm.run("systemctl restart autofs", timeout=120)
    measured(vm, "failing", [named("unknown")])  # fills the page cache
    seconds = {}
    target.delete()
    # An array's answer: the kernel's target says "unavailable" for any unknown name.
    portal = san.refusing("127.0.0.1", 2, 3, targets=[name])
    seconds["gone"] = measured(vm, "failing", [name])[name][0]
    portal.close()
    target.recreate()
    san.block("127.0.0.1")
    seconds["dead"] = measured(vm, "failing", [name])[name][0]
    san.unblock("127.0.0.1")
    target.revoke()
    seconds["offline"] = measured(vm, "failing", [name])[name][0]
    return seconds
