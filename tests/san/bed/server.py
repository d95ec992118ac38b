"""Make the disks of a server: snapshots that the SAN took on three days while the server ran.

The server has /boot in a partition, and a volume group with its root (XFS) and /home (ext4). Each
snapshot is a copy of its disk while these two are mounted and written, so their journals are
dirty. A second sshd, with a hostname and a /root of its own, is another host to restore to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .machine import Machine
from .san import LiveDisk, San

SIZE = 340  # MiB; XFS takes 300
MAKE = f"""
set -e
truncate -s {SIZE}M /var/tmp/server.img
printf 'label: gpt\\nsize=16M\\nsize=+\\n' | sfdisk -q /var/tmp/server.img
device=$(losetup --show -P -f /var/tmp/server.img)
udevadm settle
mkfs.ext4 -q -L boot ${{device}}p1
vgcreate -qq vg0 ${{device}}p2
lvcreate -qq -y -n root -L 304M vg0
lvcreate -qq -y -n home -L 12M vg0
mkfs.xfs -q /dev/vg0/root
mkfs.ext4 -q /dev/vg0/home
root=/run/server
mkdir -p $root && mount /dev/vg0/root $root && cd $root
mkdir -p usr/bin usr/lib usr/sbin boot dev etc home opt proc root run srv sys tmp var
ln -s usr/bin usr/lib usr/sbin .
mount ${{device}}p1 boot && echo kernel >boot/vmlinuz && umount boot
mount /dev/vg0/home home && mkdir home/alice
cat >etc/fstab <<END
/dev/mapper/vg0-root  /      xfs   defaults  0 1
LABEL=boot            /boot  ext4  defaults  0 2
/dev/mapper/vg0-home  /home  ext4  defaults  0 2
END
sync -f $root && sync -f home
"""
#: Writes the file as it was on a day, and copies the disk. Only the journal has the file.
TAKE = """
set -e
cd /run/server
printf %s "$content" >etc/really_important_file
touch -d "$changed" etc/really_important_file
echo "$changed" >home/alice/notes
sync etc/really_important_file home/alice/notes
cp --sparse=always /var/tmp/server.img $copy
sync
"""
#: Ends the server. While this unit of lvm2's is there, it activates no volume group of that name.
END = """
set -e
umount -R /run/server
vgchange -qq -an vg0
losetup -d $(losetup -n -O NAME -j /var/tmp/server.img)
udevadm settle
rm -f /var/tmp/server.img /run/lvm/*/*
systemctl stop lvm-activate-vg0 2>/dev/null || :
systemctl reset-failed
"""

#: Starts web1: an sshd with a mount namespace and a hostname of its own. The guest's own one has
#: port 22 of all addresses, and sshd says nothing if it cannot have it.
OTHER_HOST = """
set -e
systemctl stop ssh.service
echo 127.0.0.2 web1 >>/etc/hosts
mkdir -p /run/sshd /root/.ssh
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
cp /root/.ssh/id_ed25519.pub /etc/ssh/web1.keys
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/web1
unshare --uts --mount sh -ec 'hostname web1
    mount -t tmpfs -o mode=700 tmpfs /root
    exec /usr/sbin/sshd -f /dev/null -h /etc/ssh/web1 -o UsePAM=yes -o ListenAddress=127.0.0.2 \\
        -o AuthorizedKeysFile=/etc/ssh/web1.keys -o PidFile=/run/sshd/web1.pid'
echo web1 $(cat /etc/ssh/web1.pub) >/root/.ssh/known_hosts
timeout 60 sh -c 'until [ -s /run/sshd/web1.pid ]; do sleep 0.2; done'
"""


class Version(NamedTuple):
    """What a file was when a snapshot was taken."""

    iqn: str  #: the target of the snapshot
    content: str
    changed: str  #: when, as touch(1) reads it


def present(vm: Machine, san: San, versions: Sequence[Version]) -> list[LiveDisk]:
    """Have the SAN present a snapshot for each version; return their disks."""
    vm.run(MAKE, timeout=400)
    disks = [san.disk(whole=san.fs("", size=SIZE)) for _ in versions]
    for version, disk in zip(versions, disks):
        env = {"content": version.content, "changed": version.changed, "copy": disk.path}
        vm.run(TAKE, env=env, timeout=200)
    vm.run(END, timeout=120)
    for version, disk in zip(versions, disks):
        san.target(version.iqn, [disk], read_only=True)
    return disks


def start_other_host(vm: Machine) -> None:
    """Start the sshd of web1, which root may enter with a key."""
    vm.run(OTHER_HOST, timeout=120)
