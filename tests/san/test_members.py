"""A snapshot of an LVM volume is left alone, even beside the volume of which it was taken."""

from __future__ import annotations

from pathlib import Path

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

RULE = Path(__file__).resolve().parents[2] / "etc/68-auto-iscsi-no-lvm.rules"
VOLUME = """
set -e
truncate -s 64M /run/volume.img
device=$(losetup --show -f /run/volume.img)
udevadm settle
pvcreate -qq $device && vgcreate -qq data $device && lvcreate -qq -n root -l 100%FREE data
mkfs.ext4 -q /dev/data/root
vgchange -qq -an data
cp --sparse=always /run/volume.img {copy}
losetup -d $device
udevadm settle
rm -f /run/lvm/*/*
# lvm2's rule activates in this unit. As long as a failed one exists, it starts no other.
systemctl stop lvm-activate-data 2>/dev/null || :
systemctl reset-failed
"""


def holders(vm: Machine, disk: str) -> list[str]:
    """Return the device mapper's devices on top of a disk."""
    vm.run("udevadm settle --timeout=120", timeout=130)
    return vm.run(["ls", f"/sys/block/{disk}/holders"]).lines


def test_the_volume_group_of_a_snapshot_is_not_activated_beside_the_original(
    vm: Machine, san: San
) -> None:
    disk = san.disk(whole=san.fs("", size=64))
    vm.run(VOLUME.format(copy="/run/copy.img") + f"cat /run/copy.img >{disk.path}", timeout=180)
    san.target(job.BETA, [disk])
    vm.discover()
    job.configure(vm, "fstype = auto\npartition = auto\nudev_timeout = 50s\n")
    # Without the rule, lvm2 activates the volume group; otherwise the test would prove nothing.
    vm.run(["iscsiadm", "-m", "node", "-T", job.BETA, "--login"])
    (name,) = job.until(lambda: list(job.session(vm, job.BETA).disks.values()))
    assert job.until(lambda: holders(vm, name))
    vm.run("vgchange -qq -an data")
    job.logout(vm, job.BETA)
    vm.run("udevadm settle --timeout=120; rm -f /run/lvm/*/*", timeout=130)

    vm.write(f"/etc/udev/rules.d/{RULE.name}", RULE.read_text())
    vm.run("udevadm control --reload")
    vm.run(
        "losetup /dev/loop7 /run/volume.img && vgchange -qq -ay data && mkdir /run/root && "
        "mount /dev/data/root /run/root && echo own >/run/root/own",
        timeout=120,
    )
    line = job.refusal(vm, job.BETA)
    (name,) = job.session(vm, job.BETA).disks.values()
    assert f"({name}) is an LVM physical volume and is left alone" in line
    assert "partition = all" in line
    assert holders(vm, name) == []
    assert holders(vm, "loop7") != []
    vm.run("echo more >>/run/root/own && umount /run/root && mount /dev/data/root /run/root")
    assert vm.read("/run/root/own") == b"own\nmore\n"
