"""A whole server: does its key show what the server's own fstab mounts, where it mounts it?"""

from __future__ import annotations

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.snapshot import checksum, system_taken_in_use

SETTINGS = (
    "options = nocheck, ro\nfstype = auto\npartition = system\nudev_timeout = 80s\n"
    "lookup_timeout = 3m\nidle = 0\nlease = 1s\n"
)
#: What a host without a tree shows: no device of ours, no store, no session.
LEFT = "dmsetup ls | sort; losetup -n | wc -l; ls -A /var/tmp | grep -v systemd-private"
OURS = "cat /sys/block/dm-*/dm/uuid | grep -c ^AUTOISCSI-; iscsiadm -m session"

SHOWN = {
    "usr/new8": "usr8\n",
    "home/new8": "home8\n",
    "var/new1": "var1\n",
    "boot/vmlinuz": "kernel\n",
    "boot/efi/grub.efi": "loader\n",
    "srv/data/file": "data\n",
}


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
    disk = system_taken_in_use(vm, san)
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
    disk = system_taken_in_use(vm, san)
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
