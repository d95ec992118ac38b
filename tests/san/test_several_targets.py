"""A volume group over LUNs of several targets (setting `with`): is it shown and ended whole?"""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San
from tests.san.reaping import all_ended
from tests.san.snapshot import checksum

SETTINGS = (
    "options = nocheck, ro\nfstype = auto\npartition = all\nudev_timeout = 80s\n"
    "lookup_timeout = 3m\nidle = 0\nlease = 1s\n"
)
#: Each of the two names the other.
BOTH = f"{SETTINGS}\n[*-vm-alpha-*]\nwith = *-vm-beta-*\n[*-vm-beta-*]\nwith = {job.ALPHA}\n"
LEFT = "dmsetup ls | sort; losetup -n | wc -l; ls -A /var/tmp | grep -v systemd-private"

#: Makes a server's two disks, and copies them while their filesystems are written: /boot and a
#: physical volume on the first, a physical volume on the second; `root` on the first, `home` on
#: the second, `both` on both. Then the original goes.
MAKE = r"""
set -e
modprobe -a dm-snapshot ext4
truncate -s 96M /var/tmp/one.img
truncate -s 64M /var/tmp/two.img
printf 'label: gpt\nsize=8M\nsize=+\n' | sfdisk -q /var/tmp/one.img
one=$(losetup --show -P -f /var/tmp/one.img) two=$(losetup --show -f /var/tmp/two.img)
udevadm settle
mkfs.ext4 -q ${one}p1
vgcreate -qq -s 1M vg0 ${one}p2 $two
lvcreate -qq -y -n root -L 24M vg0 ${one}p2
lvcreate -qq -y -n home -L 16M vg0 $two
lvcreate -qq -y -n both -i 2 -L 32M vg0
root=/run/original
for lv in root home both; do mkfs.ext4 -q /dev/vg0/$lv; done
mkdir -p $root && mount /dev/vg0/root $root
mkdir -p $root/bin $root/etc $root/usr $root/home $root/srv $root/var $root/dev $root/boot
cat >$root/etc/fstab <<END
/dev/mapper/vg0-root / ext4 defaults 0 1
/dev/vg0/home /home ext4 defaults 0 2
UUID=$(blkid -s UUID -o value /dev/vg0/both) /srv ext4 defaults 0 2
END
mount /dev/vg0/home $root/home
mount /dev/vg0/both $root/srv
for place in usr home srv; do sync -f $root/$place; done
for n in $(seq 8); do
    for place in usr home srv; do echo $place$n >$root/$place/new$n; sync $root/$place/new$n; done
done
cp --sparse=always /var/tmp/one.img FIRST
cp --sparse=always /var/tmp/two.img SECOND
umount -R $root
vgchange -qq -an vg0
losetup -d $one $two
udevadm settle
rm -f /var/tmp/one.img /var/tmp/two.img /run/lvm/*/*
systemctl stop lvm-activate-vg0 2>/dev/null || :
systemctl reset-failed
sync
"""


def server(vm: Machine, san: San) -> list[LiveDisk]:
    """Return the two disks of a server."""
    disks = [san.disk(whole=san.fs("", size=size)) for size in (96, 64)]
    script = MAKE.replace("FIRST", disks[0].path).replace("SECOND", disks[1].path)
    vm.run(script, timeout=400)
    return disks


@pytest.mark.long
def test_a_group_over_two_targets_is_shown_held_and_ended_whole(vm: Machine, san: San) -> None:
    disks = server(vm, san)
    before, left = [checksum(vm, disk) for disk in disks], vm.run(LEFT, check=False).stdout
    san.target(job.ALPHA, disks[:1])
    beta = san.target(job.BETA, disks[1:])
    vm.discover()
    vm.automount("--timeout=3 --negative-timeout=1")
    job.configure(vm, BOTH)
    root = f"{job.ROOT}/{job.ALPHA}"
    assert vm.run(f"cd {root} && cat vg0-both/new8", timeout=300).stdout == "srv8\n"
    assert vm.run(f"cat {root}/vg0-home/new8", timeout=100).stdout == "home8\n"
    assert vm.run(f"cat {root}/vg0-root/usr/new8", timeout=100).stdout == "usr8\n"
    assert vm.run(f"ls {root}").lines == ["p1", "vg0-both", "vg0-home", "vg0-root"]
    assert vm.sessions(job.BETA)
    # Who stands in the key's directory uses both targets, whatever is mounted.
    inside = vm.start(f"cd {root} && sleep 60")
    assert job.until(lambda: not [m for m in vm.mounts(root) if m.fstype != "autofs"], 90)
    vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
    assert vm.sessions(job.ALPHA) and vm.sessions(job.BETA)
    status = vm.run("auto-iscsi status", check=False, timeout=60).stdout
    assert f"belongs to {job.ALPHA}" in status
    inside.kill()
    explained = vm.run(["auto-iscsi", "explain", job.ALPHA], timeout=60).stdout
    assert f"{job.BETA}: session" in explained and f"{job.BETA} " in explained
    assert "/vg0-home" in explained and "/vg0-both" in explained
    assert "not mapped" not in explained and "left out: of no" not in explained
    assert vm.run(f"cat {root}/vg0-both/new7", timeout=100).stdout == "srv7\n"
    # Of the other key, too, and of both at once: neither waits for the other for ever.
    other = f"{job.ROOT}/{job.BETA}"
    assert vm.run(f"cat {other}/vg0-both/new1", timeout=300).stdout == "srv1\n"
    assert job.expired(vm, job.ALPHA, 150) and job.expired(vm, job.BETA, 150)
    assert all_ended(vm, 120)
    assert vm.run(LEFT, check=False).stdout == left
    for _ in range(3):
        lookups = [
            vm.start(["auto-iscsi", "lookup", iqn], timeout=300)
            for iqn in (job.ALPHA, job.BETA, job.ALPHA)
        ]
        for lookup in lookups:
            assert "vg0-both" in lookup.wait().stdout
        assert all_ended(vm, 120)
    # One that cannot be reached is named, and what is whole is shown.
    beta.revoke()
    assert vm.run(f"cat {root}/vg0-root/usr/new1", timeout=300).stdout == "usr1\n"
    assert vm.run(f"ls {root}").lines == ["p1", "vg0-root"]
    line = job.last_message(vm)
    assert f"{job.BETA}: login" in line and "vg0-home is left out" in line, line
    assert job.expired(vm, job.ALPHA, 150) and all_ended(vm, 120)
    assert vm.run(LEFT, check=False).stdout == left
    assert [checksum(vm, disk) for disk in disks] == before
