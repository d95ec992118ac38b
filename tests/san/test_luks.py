"""LUKS on a server's disk: is it opened with the right key, and the key seen by nobody?"""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San
from tests.san.snapshot import checksum

KEY, FILE = "geheim-4711-luks", "/etc/auto.iscsi.luks-key"
ALL = (
    "options = nocheck, ro\nfstype = auto\npartition = all\nudev_timeout = 80s\n"
    "lookup_timeout = 3m\nidle = 0\nlease = 1s\n"
)

#: Makes a disk with LUKS in four ways and a plain filesystem, and copies it while all are written.
SERVER = """
set -e
truncate -s 136M /run/server.img
printf 'label: gpt\n'  >/run/table
for size in 16 24 24 24 24; do echo size=${{size}}M; done >>/run/table
sfdisk -q /run/server.img </run/table
disk=$(losetup --show -P -f /run/server.img)
udevadm settle
fast='--pbkdf pbkdf2 --pbkdf-force-iterations 1000'
two='--type luks2 --offset 4096 --luks2-keyslots-size 1008k'
small='--pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 32768 --pbkdf-parallel 1'
mkfs.ext4 -q ${{disk}}p1
cryptsetup luksFormat -q $two $fast --key-file {file} ${{disk}}p2
cryptsetup open --key-file {file} ${{disk}}p2 original2
cryptsetup luksFormat -q $two $small --key-file {file} ${{disk}}p3
cryptsetup open --key-file {file} ${{disk}}p3 original3
pvcreate -qq /dev/mapper/original3 && vgcreate -qq vg1 /dev/mapper/original3
lvcreate -qq -y -n root -L 16M vg1
pvcreate -qq ${{disk}}p4 && vgcreate -qq vg0 ${{disk}}p4
lvcreate -qq -y -n secret -l 100%FREE vg0
one='--type luks1 --pbkdf-force-iterations 1000'
cryptsetup luksFormat -q $one --key-file {file} /dev/vg0/secret
cryptsetup open --key-file {file} /dev/vg0/secret original4
echo another >/run/another
cryptsetup luksFormat -q $two $fast --key-file /run/another ${{disk}}p5
for device in original2 vg1-root original4; do
    mkfs.ext4 -q /dev/mapper/$device
    mkdir -p /run/original/$device
    mount /dev/mapper/$device /run/original/$device
    sync -f /run/original/$device
    for n in $(seq 8); do
        echo $device$n >/run/original/$device/new$n; sync /run/original/$device/new$n
    done
done
cat /run/server.img >{copy}
sync
umount /run/original/*
cryptsetup close original4
vgchange -qq -an vg0 vg1
cryptsetup close original3
cryptsetup close original2
losetup -D
udevadm settle
rm -f /run/lvm/*/* /run/server.img
"""
#: ps(1) would take all of the machine's time, and udev needs some.
SAMPLE = "touch /run/on; while [ -e /run/on ]; do cat /proc/[0-9]*/cmdline; sleep 0.3; done"
LEFT = "dmsetup ls | sort; losetup -n | wc -l"


def configure(vm: Machine, text: str) -> None:
    vm.write(FILE, KEY, 0o600)
    job.configure(vm, text + f"luks_key_file = {FILE}\n")


def is_cleared(vm: Machine) -> bool:
    vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
    return not vm.sessions(job.ALPHA)


def test_everything_in_luks_is_there_and_the_key_is_seen_by_nobody(vm: Machine, san: San) -> None:
    configure(vm, ALL)
    disk = san.disk(whole=san.fs("", size=136))
    vm.run(SERVER.format(copy=disk.path, file=FILE), timeout=400)
    before, left = checksum(vm, disk), vm.run(LEFT).stdout
    san.target(job.ALPHA, [disk])
    vm.discover()
    vm.automount("--timeout=2 --negative-timeout=1")
    assert "ok" in vm.run("auto-iscsi check").stdout
    vm.run(f"systemd-run --quiet sh -c '({SAMPLE}) >/run/sampled'")
    root = f"/iscsiauto/{job.ALPHA}"
    assert vm.run(f"cat {root}/p2/new8", timeout=300).stdout == "original28\n"
    vm.run("rm /run/on")
    assert vm.run(f"cat {root}/vg1-root/new8", timeout=100).stdout == "vg1-root8\n"
    assert vm.run(f"cat {root}/vg0-secret/new8", timeout=100).stdout == "original48\n"
    assert "lost+found" in vm.run(f"ls {root}/p1", timeout=100).stdout
    assert any("p5 is left out: LUKS on " in line for line in job.messages(vm))
    assert any(f"the key in {FILE} does not fit" in line for line in job.messages(vm))
    sampled = vm.read("/run/sampled").decode().replace("\0", " ")
    assert "cryptsetup open" in sampled and KEY not in sampled
    assert KEY not in vm.journal()
    vm.run(f"! grep -r {KEY[:-1]} /run/auto-iscsi /var/lib/auto-iscsi")
    assert KEY not in vm.run("auto-iscsi status --json; auto-iscsi explain --settings").stdout
    # LVM has activated nothing of what is in there.
    assert not [uuid for uuid in vm.run("cat /sys/block/dm-*/dm/uuid").lines if "LVM-" in uuid]
    assert "lvm-activate" not in vm.run("systemctl list-units --all 'lvm-activate*'").stdout
    assert set(vm.run("cat /sys/block/dm-*/ro").lines) == {"1"}
    assert job.expired(vm, job.ALPHA)
    assert job.until(lambda: is_cleared(vm))
    assert vm.run(LEFT).stdout == left
    assert checksum(vm, disk) == before


#: Makes LUKS of a whole disk.
WHOLE = """
set -e
cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
    --key-file {file} {path}
cryptsetup open --key-file {file} {path} original
mkfs.ext4 -q /dev/mapper/original
mount /dev/mapper/original /mnt && echo whole >/mnt/marker && umount /mnt
cryptsetup close original
"""


def whole(vm: Machine, san: San) -> LiveDisk:
    vm.write(FILE, KEY, 0o600)
    disk = san.disk(whole=san.fs("", size=48))
    vm.run(WHOLE.format(path=disk.path, file=FILE), timeout=200)
    san.target(job.ALPHA, [disk])
    vm.discover()
    vm.automount("--timeout=2 --negative-timeout=1")
    return disk


AUTO = ALL.replace("partition = all", "partition = auto")


@pytest.mark.long
def test_what_is_missing_is_named_and_then_the_whole_disk_is_opened(vm: Machine, san: San) -> None:
    disk = whole(vm, san)
    before = checksum(vm, disk)
    job.configure(vm, AUTO)
    assert "LUKS encrypted and is left alone; needed: its key: set luks_key_file" in job.refusal(
        vm, job.ALPHA
    )
    configure(vm, AUTO)
    vm.run(f"chmod 640 {FILE}")
    assert f"{FILE}: not used: users other than root can read it" in job.refusal(vm, job.ALPHA)
    assert "key-file" in vm.run("auto-iscsi check --json", check=False).stdout
    assert FILE in vm.run("auto-iscsi doctor", check=False).stdout
    vm.run(f"rm {FILE}")
    assert f"{FILE}: no such file; see luks_key_file" in job.refusal(vm, job.ALPHA)
    vm.write(FILE, f"{KEY}\n", 0o600)
    assert f"the key in {FILE} does not fit it; every byte" in job.refusal(vm, job.ALPHA)
    vm.write(FILE, KEY, 0o600)
    vm.run("mv /usr/sbin/cryptsetup /sbin/cryptsetup.away")
    assert "cryptsetup is not installed; install cryptsetup-bin" in job.refusal(vm, job.ALPHA)
    vm.run("mv /sbin/cryptsetup.away /usr/sbin/cryptsetup")
    vm.run("rmmod dm_crypt; mv $(modinfo -n dm_crypt) /run && depmod")
    assert "it takes the kernel module dm_crypt" in job.refusal(vm, job.ALPHA)
    vm.run("mv /run/dm-crypt.ko* /lib/modules/$(uname -r)/kernel/drivers/md/ && depmod")
    assert vm.run("dmsetup ls").stdout == "No devices found\n"
    assert job.visit(vm, job.ALPHA).stdout == "whole\n"
    assert job.expired(vm, job.ALPHA)
    assert job.until(lambda: is_cleared(vm))
    assert vm.run("dmsetup ls").stdout == "No devices found\n"
    assert checksum(vm, disk) == before


#: A cryptsetup that kills the lookup which started it, before or after it does its work.
KILLER = """#!/bin/sh
case "$*" in *--key-file*) ;; *) exec /usr/sbin/cryptsetup.real "$@";; esac
[ -e /run/killed ] && exec /usr/sbin/cryptsetup.real "$@"
touch /run/killed
lookup=$(ps -o ppid= -p $PPID)
[ {when} = after ] && /usr/sbin/cryptsetup.real "$@"
kill -KILL $lookup
[ {when} = before ] && exit 1
exec /usr/sbin/cryptsetup.real "$@"
"""


@pytest.mark.parametrize("when", ["before", "while", "after"])
def test_a_lookup_that_is_killed_leaves_nothing(vm: Machine, san: San, when: str) -> None:
    whole(vm, san)
    configure(vm, AUTO)
    vm.run("mv /usr/sbin/cryptsetup /usr/sbin/cryptsetup.real")
    vm.write("/usr/sbin/cryptsetup", KILLER.format(when=when), 0o755)
    job.visit(vm, job.ALPHA, check=False)
    assert vm.run("ls /run/killed").status == 0
    assert job.until(lambda: job.visit(vm, job.ALPHA, check=False).stdout == "whole\n")
    assert job.expired(vm, job.ALPHA)
    assert job.until(lambda: is_cleared(vm))
    assert vm.run("dmsetup ls").stdout == "No devices found\n"


#: Makes a server's disk: /boot, and a volume group in LUKS. It is copied while it is written.
SYSTEM = """
set -e
modprobe dm-snapshot
truncate -s 96M /run/server.img
printf 'label: gpt\nsize=16M\nsize=+\n' | sfdisk -q /run/server.img
disk=$(losetup --show -P -f /run/server.img)
udevadm settle
mkfs.ext4 -q ${disk}p1
cryptsetup luksFormat -q --type luks2 --offset 4096 --luks2-keyslots-size 1008k --pbkdf pbkdf2 \
    --pbkdf-force-iterations 1000 --key-file FILE ${disk}p2
cryptsetup open --key-file FILE ${disk}p2 original
vgcreate -qq vg0 /dev/mapper/original
for lv in root home; do lvcreate -qq -y -n $lv -L 24M vg0 && mkfs.ext4 -q /dev/vg0/$lv; done
root=/run/original
mkdir -p $root && mount /dev/vg0/root $root
mkdir -p $root/bin $root/boot $root/dev $root/etc $root/home $root/usr $root/var
cat >$root/etc/fstab <<END
/dev/mapper/vg0-root / ext4 defaults 0 1
UUID=$(blkid -s UUID -o value ${disk}p1) /boot ext4 defaults 0 2
/dev/vg0/home /home ext4 defaults 0 2
END
mount ${disk}p1 $root/boot && echo kernel >$root/boot/vmlinuz && umount $root/boot
mount /dev/vg0/home $root/home
for place in usr home; do
    sync -f $root/$place
    for n in $(seq 8); do echo $place$n >$root/$place/new$n; sync $root/$place/new$n; done
done
cat /run/server.img >COPY
umount -R $root
vgchange -qq -an vg0
cryptsetup close original
losetup -D
udevadm settle
rm -f /run/lvm/*/* /run/server.img
systemctl stop lvm-activate-vg0 2>/dev/null || :
sync
"""


@pytest.mark.long
def test_a_system_in_luks_behind_multipathd_survives_the_loss_of_a_path(
    vm: Machine, san: San
) -> None:
    vm.write(FILE, KEY, 0o600)
    disk = san.disk(whole=san.fs("", size=96))
    vm.run(SYSTEM.replace("COPY", disk.path).replace("FILE", FILE), timeout=400)
    before, left = checksum(vm, disk), vm.run(LEFT).stdout
    job.start_multipathd(vm, 'devnode "^(vd|loop)"\n')
    san.target(job.ALPHA, [disk], portals=["127.0.0.1", "127.0.0.2"])
    vm.automount("--timeout=3 --negative-timeout=1")
    system = ALL.replace("partition = all", "partition = system")
    paths = "portals = 127.0.0.1, 127.0.0.2\npaths = all\nreplacement_timeout = 5s\n"
    configure(vm, f"{system}{paths}")
    root = f"{job.ROOT}/{job.ALPHA}"
    assert vm.run(f"cat {root}/home/new8", timeout=300).stdout == "home8\n"
    assert len(vm.sessions(job.ALPHA)) == 2
    # What LUKS lies on is multipath's map, or its map of the partition.
    (crypt,) = vm.run("grep -l -e -crypt /sys/block/dm-*/dm/name").lines
    below = vm.run(f"cat {crypt.replace('dm/name', 'slaves')}/*/dm/uuid").stdout
    assert "mpath-" in below or "AUTOISCSI-" in below
    san.block("127.0.0.1")
    vm.run("echo 3 >/proc/sys/vm/drop_caches")
    assert vm.run(f"cat {root}/usr/new8", timeout=200).stdout == "usr8\n"
    assert vm.run(f"cat {root}/boot/vmlinuz", timeout=200).stdout == "kernel\n"
    san.unblock("127.0.0.1")
    assert job.until(lambda: len([s for s in vm.sessions() if s.state == "LOGGED_IN"]) == 2, 120)
    assert job.expired(vm, job.ALPHA, 150)
    assert job.until(lambda: is_cleared(vm), 120)
    assert job.until(lambda: vm.run(LEFT).stdout == left)
    assert checksum(vm, disk) == before
