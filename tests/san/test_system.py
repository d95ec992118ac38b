"""A whole server: does its key show what the server's own fstab mounts, where it mounts it?"""

from __future__ import annotations

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import LiveDisk, San
from tests.san.snapshot import checksum

SETTINGS = (
    "options = nocheck, ro\nfstype = auto\npartition = system\nudev_timeout = 80s\n"
    "lookup_timeout = 3m\nidle = 0\nlease = 1s\n"
)
#: What a host without a tree shows: no device of ours, no store, no session.
LEFT = "dmsetup ls | sort; losetup -n | wc -l; ls -A /var/tmp | grep -v systemd-private"
OURS = "cat /sys/block/dm-*/dm/uuid | grep -c ^AUTOISCSI-; iscsiadm -m session"

#: Makes a server's disk, and copies it while root, /home and /var are mounted and written. The
#: original stays active and mounted. Its fstab also has what must not be followed.
SERVER = """
set -e
truncate -s 400M /var/tmp/server.img
printf 'label: gpt\nsize=8M, type=U\nsize=16M\nsize=+\n' | sfdisk -q /var/tmp/server.img
device=$(losetup --show -P -f /var/tmp/server.img)
udevadm settle
mkfs.vfat -n ESP ${device}p1 >/run/null
mkfs.ext4 -q ${device}p2
pvcreate -qq ${device}p3 && vgcreate -qq vg0 ${device}p3
lvcreate -qq -y -n root -L 304M vg0
for lv in home var my-data; do lvcreate -qq -y -n $lv -L 12M vg0; done
lvcreate -qq -y -n swap -L 8M vg0
mkfs.xfs -q /dev/vg0/root
mkfs.ext4 -q /dev/vg0/home
mkfs.ext4 -q -L var /dev/vg0/var
mkfs.ext4 -q /dev/vg0/my-data
mkswap -q /dev/vg0/swap
root=/run/original
mkdir -p $root && mount /dev/vg0/root $root
mkdir -p $root/usr/bin $root/boot $root/dev $root/etc $root/home $root/mnt $root/opt $root/proc
mkdir -p $root/srv/data $root/var $root/tmp
ln -s usr/bin $root/bin
ln -s /tmp $root/link
mount ${device}p2 $root/boot
mkdir $root/boot/efi
mount ${device}p1 $root/boot/efi
for lv in home var; do mount /dev/vg0/$lv $root/$lv; done
mount /dev/vg0/my-data $root/srv/data
echo kernel >$root/boot/vmlinuz
echo loader >$root/boot/efi/grub.efi
echo data >$root/srv/data/file
cat >$root/etc/fstab <<END
# /etc/fstab: the server's own
/dev/mapper/vg0-root / xfs defaults 0 1
UUID=$(blkid -s UUID -o value ${device}p2) /boot ext4 defaults,suid,dev 0 2
PARTUUID=$(blkid -s PARTUUID -o value ${device}p1) /boot/efi vfat umask=0077 0 1
/dev/vg0/home /home ext4 nodev,usrquota 0 2
LABEL=var	/var	ext4	defaults	0	2
/dev/mapper/vg0-my--data /srv/data ext4 defaults 0 2
/dev/mapper/vg0-swap none swap sw 0 0
proc /proc proc defaults 0 0
LABEL=var /link ext4 defaults 0 0
LABEL=var /srv/../mnt ext4 defaults 0 0
LABEL=var /missing ext4 defaults 0 0
LABEL=var /mnt\\\\040x ext4 defaults 0 0
/home /mnt none bind 0 0
nas:/export /opt nfs defaults 0 0
UUID=11111111-2222-3333-4444-555555555555 /opt ext4 defaults 0 2
END
sync -f $root
umount $root/boot/efi $root/boot $root/srv/data
sync -f $root/home; sync -f $root/var
for n in $(seq 8); do
    for place in usr home var; do echo $place$n >$root/$place/new$n; sync $root/$place/new$n; done
done
cp --sparse=always /var/tmp/server.img COPY
sync
"""
SHOWN = {
    "usr/new8": "usr8\n",
    "home/new8": "home8\n",
    "var/new1": "var1\n",
    "boot/vmlinuz": "kernel\n",
    "boot/efi/grub.efi": "loader\n",
    "srv/data/file": "data\n",
}


def server(vm: Machine, san: San) -> LiveDisk:
    """Return a disk that was copied from a running server, which this host is, too."""
    disk = san.disk(whole=san.fs("", size=400))
    vm.run(SERVER.replace("COPY", disk.path), timeout=400)
    return disk


def shown(vm: Machine, iqn: str) -> dict[str, str]:
    """Return what a user reads in the files of SHOWN."""
    root = f"{job.ROOT}/{iqn}"
    return {
        name: vm.run(["cat", f"{root}/{name}"], timeout=200, check=False).stdout for name in SHOWN
    }


def is_cleared(vm: Machine, iqn: str) -> bool:
    vm.run(["auto-iscsi", "reap"], check=False, timeout=180)
    return not vm.sessions(iqn)


def test_a_server_is_there_as_it_mounts_itself(vm: Machine, san: San) -> None:
    disk = server(vm, san)
    before = checksum(vm, disk)
    san.target(job.ALPHA, [disk])
    vm.discover()
    vm.automount("--timeout=3 --negative-timeout=1")
    job.configure(vm, SETTINGS)
    left = vm.run(LEFT, check=False).stdout
    names = vm.run(f"cd {job.ROOT}/{job.ALPHA} && ls", timeout=300).lines
    assert names == "bin boot dev etc home link mnt opt proc srv tmp usr var".split()
    assert shown(vm, job.ALPHA) == SHOWN
    entry = vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=100).stdout
    places = [word for word in entry.split() if word.startswith("/")]
    assert places == ["/", "/boot", "/boot/efi", "/home", "/srv/data", "/var"]
    assert "usrquota" not in entry and "suid" not in entry
    (message,) = {line for line in job.messages(vm) if "left out of its /etc/fstab" in line}
    for named in (
        "/link (no directory there)",
        "/missing (no directory there)",
        "/srv/../mnt (its path leads through . or ..)",
        "/mnt x (automount cannot take its name)",
        "/mnt (a bind mount)",
        "none (swap space)",
        "/opt (",
    ):
        assert named in message, named
    assert job.expired(vm, job.ALPHA, 90)
    assert job.until(lambda: is_cleared(vm, job.ALPHA), 120)
    assert vm.run(LEFT, check=False).stdout == left
    assert checksum(vm, disk) == before


def test_a_tree_is_worked_out_once_and_outlives_its_session(vm: Machine, san: San) -> None:
    disk = server(vm, san)
    before = checksum(vm, disk)
    san.target(job.ALPHA, [disk], read_only=True)
    vm.discover()
    # What would be several filesystems to choose from is a system.
    job.configure(vm, SETTINGS.replace("= system", "= auto") + "replacement_timeout = 5s\n")
    lookup = ["auto-iscsi", "lookup", job.ALPHA]
    mounted = "dmesg | grep -c 'Mounting V5'"
    entry = vm.run(lookup, timeout=300).stdout
    assert entry.startswith("/ -") and " /home -" in entry and " /boot/efi -" in entry
    count = vm.run(mounted).stdout
    assert vm.run(lookup, timeout=100).stdout == entry
    assert vm.run(mounted).stdout == count
    assert "/home" in vm.run(["auto-iscsi", "explain", job.ALPHA], timeout=100).stdout
    assert vm.run(mounted).stdout == count
    vm.write(f"/run/auto-iscsi/trees/{job.ALPHA}", "garbage")
    assert vm.run(lookup, timeout=200).stdout == entry
    assert vm.run(mounted).stdout != count

    vm.automount("--timeout=3 --negative-timeout=1")
    root = f"{job.ROOT}/{job.ALPHA}"
    user = vm.start(["sleep", "400"], cwd=f"{root}/home", timeout=410)
    assert job.until(lambda: job.mount(vm, job.ALPHA))
    san.block("127.0.0.1")
    assert job.until(lambda: job.session(vm, job.ALPHA).state == "FAILED")
    messages = job.messages(vm)
    vm.run("systemctl restart autofs", timeout=120)
    assert job.mount(vm, job.ALPHA)
    assert {"left out of" in line for line in job.messages(vm)[len(messages) :]} <= {True}
    san.unblock("127.0.0.1")
    assert job.until(lambda: job.session(vm, job.ALPHA).state == "LOGGED_IN")
    assert vm.run(f"cat {root}/var/new2", timeout=100).stdout == "var2\n"
    user.kill()
    user.wait(check=False)
    assert job.expired(vm, job.ALPHA, 90)
    assert job.until(lambda: is_cleared(vm, job.ALPHA), 120)
    assert vm.run("ls /run/auto-iscsi/trees").stdout == ""
    assert checksum(vm, disk) == before


BTRFS = """
set -e
truncate -s 160M /var/tmp/btrfs.img
printf 'label: gpt\nsize=+\n' | sfdisk -q /var/tmp/btrfs.img
device=$(losetup --show -P -f /var/tmp/btrfs.img)
udevadm settle
mkfs.btrfs -q ${device}p1
mkdir -p /run/volume && mount ${device}p1 /run/volume
cd /run/volume
for each in @ @home @snapshots; do btrfs -q subvolume create $each; done
mkdir -p @/etc @/home @/.snapshots @/usr
cat >@/etc/fstab <<END
UUID=$(blkid -s UUID -o value ${device}p1) / btrfs defaults,subvol=@,compress=zstd 0 0
UUID=$(blkid -s UUID -o value ${device}p1) /home btrfs subvol=/@home,user_subvol_rm_allowed 0 0
UUID=$(blkid -s UUID -o value ${device}p1) /.snapshots btrfs subvol=@gone 0 0
END
sync -f /run/volume
for n in $(seq 8); do echo new >@home/new$n; sync @home/new$n; done
cp --sparse=always /var/tmp/btrfs.img COPY
cd / && umount /run/volume && losetup -d $device
sync
"""


def test_the_subvolumes_of_a_btrfs(vm: Machine, san: San) -> None:
    disk = san.disk(whole=san.fs("", size=160))
    vm.run(BTRFS.replace("COPY", disk.path), timeout=300)
    before = checksum(vm, disk)
    san.target(job.ALPHA, [disk])
    vm.discover()
    vm.automount("--timeout=3 --negative-timeout=1")
    job.configure(vm, SETTINGS)
    root = f"{job.ROOT}/{job.ALPHA}"
    assert vm.run(f"cd {root} && ls", timeout=300).lines == ["etc", "home", "usr"]
    assert vm.run(f"cat {root}/home/new*", timeout=100).stdout == 8 * "new\n"
    assert any("/.snapshots (UUID=" in line for line in job.messages(vm))
    assert job.expired(vm, job.ALPHA, 90)
    assert job.until(lambda: is_cleared(vm, job.ALPHA), 120)
    assert checksum(vm, disk) == before
