"""Make a disk whose filesystem was copied while it was written, as a snapshot copies it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San

#: Settings that select the filesystem and its options by what is on the disk.
AUTO = "options = nocheck, ro\nfstype = auto\npartition = auto\nudev_timeout = 50s\n"
#: By filesystem, the mount option that leaves the journal alone.
OPTIONS = {"ext4": "noload", "xfs": "norecovery", "btrfs": "rescue=nologreplay"}

#: Mounts the file of a disk, writes with fsync, and copies the file: the copy becomes the disk.
TAKE = """
set -e
modprobe {kind}
device=$(losetup --show -f {path})
mkdir -p /run/volume
mount -t {kind} -o {options} $device /run/volume
sync -f /run/volume
for n in $(seq {files}); do
    {writer} >/run/volume/new$n
    sync /run/volume/new$n
done
cp --sparse=always {path} {path}.taken
cat /run/volume/marker /run/volume/new* | sha256sum >{path}.sum
umount /run/volume
losetup -d $device
cp --sparse=always {path}.taken {path}
rm {path}.taken
"""


def taken_in_use(vm: Machine, san: San, kind: str, text: str = "new") -> LiveDisk:
    """Return a disk whose newest files, new1 to new8, are only in the journal of its filesystem."""
    size = 16 if kind.startswith("ext") else None
    disk = san.disk(whole=san.fs(kind, {"marker": f"{kind}\n"}, size=size))
    take = TAKE.format(
        kind=kind, path=disk.path, options="defaults", files=8, writer=f"echo {text}"
    )
    vm.run(take, timeout=180)
    return disk


def taken_with_data_in_the_journal(vm: Machine, san: San) -> LiveDisk:
    """Return an ext4 disk with 8 MiB of files in its journal of 128 MiB.

    A checksum of all its files is in PATH.sum.
    """
    options = ["-J", "size=128", "-E", "root_owner=0:0,lazy_journal_init=1"]
    disk = san.disk(whole=san.fs("ext4", {"marker": "data\n"}, size=320, options=options))
    writer = "yes $n | head -c 512K"
    take = TAKE.format(kind="ext4", path=disk.path, options="data=journal", files=16, writer=writer)
    vm.run(take, timeout=180)
    return disk


#: Makes a server's disk: /boot, and a volume group in the second partition. It is copied while its
#: filesystems are written; then the original goes.
SERVER = r"""
set -e
truncate -s 80M /run/original.img
printf 'label: gpt\nsize=16M\nsize=+\n' | sfdisk -q /run/original.img
device=$(losetup --show -P -f /run/original.img)
udevadm settle
mkfs.ext4 -q ${{device}}p1
vgcreate -qq vg0 ${{device}}p2
for lv in root my-data; do
    lvcreate -qq -y -n $lv -L 16M vg0
    mkfs.ext4 -q /dev/vg0/$lv
    mkdir -p /run/original/$lv
    mount /dev/vg0/$lv /run/original/$lv
    sync -f /run/original/$lv
    for n in $(seq 8); do echo $lv >/run/original/$lv/new$n; sync /run/original/$lv/new$n; done
    echo {marker} >/run/original/$lv/marker
    sync /run/original/$lv/marker
done
cp --sparse=always /run/original.img {path}
umount /run/original/*
vgchange -qq -an vg0
losetup -d $device
udevadm settle
rm -f /run/original.img /run/lvm/*/*
# As long as this unit of lvm2's is there, it activates no volume group of that name.
systemctl stop lvm-activate-vg0 2>/dev/null || :
systemctl reset-failed
"""


def server_taken_in_use(vm: Machine, san: San, marker: str = "server") -> LiveDisk:
    """Return a server's disk: p1, and vg0 with root and my-data, whose newest files are in logs."""
    disk = san.disk(whole=san.fs("", size=80))
    vm.run(SERVER.format(marker=marker, path=disk.path), timeout=300)
    return disk


#: Makes the disk of a server with its own fstab, and copies it while root, /home and /var are
#: mounted and written. The fstab also has what must not be followed.
SYSTEM = r"""
set -e
truncate -s 400M /var/tmp/$vg.img
printf 'label: gpt\nsize=8M, type=U\nsize=16M\nsize=+\n' | sfdisk -q /var/tmp/$vg.img
device=$(losetup --show -P -f /var/tmp/$vg.img)
udevadm settle
mkfs.vfat -n ESP ${device}p1 >/run/null
mkfs.ext4 -q ${device}p2
pvcreate -qq ${device}p3 && vgcreate -qq $vg ${device}p3
lvcreate -qq -y -n root -L 304M $vg
for lv in home var my-data; do lvcreate -qq -y -n $lv -L 12M $vg; done
lvcreate -qq -y -n swap -L 8M $vg
mkfs.xfs -q /dev/$vg/root
mkfs.ext4 -q /dev/$vg/home
mkfs.ext4 -q -L var /dev/$vg/var
mkfs.ext4 -q /dev/$vg/my-data
mkswap -q /dev/$vg/swap
root=/run/$vg
mkdir -p $root && mount /dev/$vg/root $root
mkdir -p $root/usr/bin $root/boot $root/dev $root/etc $root/home $root/mnt $root/opt $root/proc
mkdir -p $root/srv/data $root/var $root/tmp
ln -s usr/bin $root/bin
ln -s /tmp $root/link
mount ${device}p2 $root/boot
mkdir $root/boot/efi
mount ${device}p1 $root/boot/efi
for lv in home var; do mount /dev/$vg/$lv $root/$lv; done
mount /dev/$vg/my-data $root/srv/data
echo kernel >$root/boot/vmlinuz
echo loader >$root/boot/efi/grub.efi
echo data >$root/srv/data/file
for place in boot boot/efi srv/data; do echo $marker >$root/$place/marker; done
cat >$root/etc/fstab <<END
# /etc/fstab: the server's own
/dev/mapper/$vg-root / xfs defaults 0 1
UUID=$(blkid -s UUID -o value ${device}p2) /boot ext4 defaults,suid,dev 0 2
PARTUUID=$(blkid -s PARTUUID -o value ${device}p1) /boot/efi vfat umask=$umask 0 1
/dev/$vg/home /home ext4 nodev,usrquota 0 2
LABEL=var	/var	ext4	defaults	0	2
/dev/mapper/$vg-my--data /srv/data ext4 defaults 0 2
/dev/mapper/$vg-swap none swap sw 0 0
proc /proc proc defaults 0 0
LABEL=var /link ext4 defaults 0 0
LABEL=var /srv/../mnt ext4 defaults 0 0
LABEL=var /missing ext4 defaults 0 0
LABEL=var /mnt\\040x ext4 defaults 0 0
/home /mnt none bind 0 0
nas:/export /opt nfs defaults 0 0
UUID=11111111-2222-3333-4444-555555555555 /opt ext4 defaults 0 2
END
sync -f $root
umount $root/boot/efi $root/boot $root/srv/data
sync -f $root/home; sync -f $root/var
for place in usr home var; do
    for n in $(seq 8); do echo $place$n >$root/$place/new$n; sync $root/$place/new$n; done
    echo $marker >$root/$place/marker; sync $root/$place/marker
done
cp --sparse=always /var/tmp/$vg.img $copy
sync
"""
#: Ends the original of SYSTEM, so that only its copy is left.
END_ORIGINAL = r"""
set -e
umount -R /run/$vg
vgchange -qq -an $vg
losetup -d $(losetup -n -O NAME -j /var/tmp/$vg.img)
udevadm settle
rm -f /var/tmp/$vg.img /run/lvm/*/*
systemctl stop lvm-activate-$vg 2>/dev/null || :
systemctl reset-failed
"""


def system_taken_in_use(
    vm: Machine, san: San, marker: str = "server", *, vg: str = "vg0", stays: bool = True
) -> LiveDisk:
    """Return a disk that was copied from a running server, which this host is, too.

    With `stays`, the original stays active and mounted.
    """
    disk = san.disk(whole=san.fs("", size=400))
    env = {"vg": vg, "copy": disk.path, "marker": marker, "umask": "0077" if stays else "0022"}
    vm.run(SYSTEM, env=env, timeout=400)
    if not stays:
        vm.run(END_ORIGINAL, env=env, timeout=120)
    return disk


def checksums(vm: Machine, paths: Iterable[str]) -> str:
    """Return a checksum of what is in the files of disks, and where. It costs nothing for holes."""
    tar = shlex.join(["tar", "--sparse", "-P", "--mtime=@0", "-cf", "-", *paths])
    return vm.run(f"{tar} | sha256sum", timeout=300).stdout


def checksum(vm: Machine, disk: LiveDisk) -> str:
    """Return a checksum of every byte of a disk."""
    return vm.run(["sha256sum", disk.path], timeout=120).stdout.split()[0]
