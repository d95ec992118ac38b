"""Is nothing left of overlays and logical volumes, and is each file right, whatever happens?"""

from __future__ import annotations

import hashlib
import re
import signal
from pathlib import Path

import pytest

import auto_iscsi
from tests.san import job, killer
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.reaping import all_unmounted, is_cleared, left
from tests.san.snapshot import AUTO, checksum, server_taken_in_use, taken_in_use

TREE = Path(__file__).resolve().parents[2]
SOON = "idle = 0\nlease = 1s\n"
ALL = AUTO.replace("partition = auto", "partition = all") + SOON
QUICK_LOSS = "replacement_timeout = 5s\n"
VISIT = "--timeout=1 --negative-timeout=1"


def files_of_server(vm: Machine, iqn: str) -> list[str]:
    """Return the different lines of all files of a server's logical volumes."""
    root = f"{job.ROOT}/{iqn}"
    text = vm.run(
        f"echo 3 >/proc/sys/vm/drop_caches; cd {root} && ls p1 && cat vg0-root/* vg0-my-data/*;"
        f" cat {root}/vg0-*/new?",
        check=False,
        timeout=200,
    ).stdout
    return sorted(set(text.split()))


SERVERS_FILES = ["lost+found", "my-data", "root", "server"]

#: An unshare that takes the room of the store when the overlay is there, before the replay.
FILLER = """#!/bin/sh
head -c 30M /dev/zero >/run/small/other 2>/dev/null
truncate -s -$(cat /run/spare) /run/small/other
exec /usr/bin/unshare.real "$@"
"""


def test_a_store_whose_room_is_taken_during_the_replay(vm: Machine, san: San) -> None:
    disk = taken_in_use(vm, san, "ext4")
    before, empty = checksum(vm, disk), left(vm)
    san.target(job.ALPHA, [disk])
    vm.discover()
    vm.automount(VISIT)
    vm.run("mkdir /run/small && mount -t tmpfs -o size=30m tmpfs /run/small")
    job.configure(vm, f"{AUTO}{SOON}overlay_dir = /run/small\n")
    vm.run("mv /usr/bin/unshare /usr/bin/unshare.real")
    vm.write("/usr/bin/unshare", FILLER, 0o755)
    for spare in ("0", "32K"):  # full from the start, and in the middle
        vm.write("/run/spare", spare)
        assert "the store of the overlay is full" in job.refusal(vm, job.ALPHA)
        assert vm.run("cat /sys/block/dm-*/dm/name", check=False).stdout == ""
        assert vm.run("losetup --list --noheadings").stdout == ""
        assert vm.run("ls /run/small").stdout == "other\n"
        vm.run("rm /run/small/other")
    vm.run("mv /usr/bin/unshare.real /usr/bin/unshare")
    assert job.visit(vm, job.ALPHA, "new8").stdout == "new\n"
    # From now on nothing is written to the store, so it needs no room.
    vm.run("head -c 30M /dev/zero >/run/small/other", check=False)
    status = vm.run("dmsetup status").stdout
    vm.run("echo 3 >/proc/sys/vm/drop_caches")
    assert vm.run(f"cat /iscsiauto/{job.ALPHA}/new*").stdout == 8 * "new\n"
    assert job.expired(vm, job.ALPHA)
    assert vm.run("dmsetup status").stdout == status and "Invalid" not in status
    assert is_cleared(vm, empty)
    assert checksum(vm, disk) == before


#: Makes a disk with members of all kinds: a mirror and a thin pool, half an array, a filesystem.
MEMBERS = r"""
set -e
truncate -s 128M /run/members.img
printf 'label: gpt\nsize=40M\nsize=40M\nsize=24M\nsize=+\n' | sfdisk -q /run/members.img
device=$(losetup --show -P -f /run/members.img)
udevadm settle
vgcreate -qq vg0 ${{device}}p1 ${{device}}p2
lvcreate -qq -y -n mirror --type raid1 -m 1 --nosync -L 8M vg0
lvcreate -qq -y -n pool --type thin-pool -L 16M vg0
lvcreate -qq -y -n thin -V 16M --thinpool pool vg0
mkfs.ext4 -q /dev/vg0/mirror
mkfs.ext4 -q /dev/vg0/thin
mdadm --quiet --create /dev/md9 --run --level=1 --raid-devices=2 ${{device}}p3 missing
mkfs.ext4 -q /dev/md9
mkfs.ext4 -q ${{device}}p4
sync
vgchange -qq -an vg0
mdadm --quiet --stop /dev/md9
cp --sparse=always /run/members.img {path}
losetup -d $device
udevadm settle
rm -f /run/members.img /run/lvm/*/*
systemctl stop lvm-activate-vg0 2>/dev/null || :
systemctl reset-failed
"""


@pytest.mark.long
def test_members_on_a_writable_lun_are_not_written(vm: Machine, san: San) -> None:
    disk = san.disk(whole=san.fs("", size=128))
    vm.run(MEMBERS.format(path=disk.path), timeout=300)
    before, empty = checksum(vm, disk), left(vm)
    san.target(job.ALPHA, [disk])
    vm.discover()
    vm.automount(VISIT)
    job.configure(vm, ALL)
    vm.run("rm -rf /run/auto-iscsi")  # as it is after a boot
    assert "lost+found" in vm.run(f"ls {job.ROOT}/{job.ALPHA}/p4", timeout=200).stdout
    vm.run("udevadm settle", timeout=100)
    uuids = vm.run("cat /sys/block/dm-*/dm/uuid", check=False).lines
    assert [uuid for uuid in uuids if not uuid.startswith("AUTOISCSI-")] == []
    assert "md" not in vm.run("cat /proc/mdstat").stdout.partition("\n")[2]
    units = "systemctl list-units --all --plain --no-legend 'lvm-activate*' 'mdadm-last*'"
    assert vm.run(units).stdout == ""
    assert all_unmounted(vm, job.ALPHA)
    assert is_cleared(vm, empty)
    assert checksum(vm, disk) == before
    # To the target of somebody who logs in himself, nothing is different than without us.
    vm.discover()
    vm.run(["iscsiadm", "-m", "node", "-T", job.ALPHA, "--login"])
    assert job.until(lambda: "vg0-mirror" in vm.run("dmsetup ls").stdout)
    assert job.until(lambda: "md" in vm.run("cat /proc/mdstat").stdout.partition("\n")[2])


def test_a_target_that_vanishes_below_a_tree(vm: Machine, san: San) -> None:
    disk = server_taken_in_use(vm, san)
    before, empty = checksum(vm, disk), left(vm)
    san.target(job.ALPHA, [disk])
    vm.discover()
    vm.automount(VISIT)
    job.configure(vm, f"{ALL}{QUICK_LOSS}")
    assert files_of_server(vm, job.ALPHA) == SERVERS_FILES
    root = f"{job.ROOT}/{job.ALPHA}"
    reader = vm.start(
        f"cd {root}/vg0-root && device=$(findmnt -no SOURCE -t ext4 -M $PWD) &&"
        " while dd if=$device of=/dev/null bs=1M iflag=direct status=none; do :; done",
        timeout=200,
    )
    vm.run("sleep 1")
    assert not reader.done
    san.block("127.0.0.1")
    assert "Input/output error" in reader.wait(check=False).stderr
    assert vm.run(f"cat {root}/vg0-my-data/* {root}/p1/*", check=False, timeout=90).status
    assert all_unmounted(vm, job.ALPHA)
    assert is_cleared(vm, empty)
    san.unblock("127.0.0.1")
    assert checksum(vm, disk) == before
    assert job.until(lambda: files_of_server(vm, job.ALPHA) == SERVERS_FILES)


def mounts_in_private(vm: Machine, entry: str) -> str:
    """Mount each device of a map entry where nobody sees it; return what is in its newest file."""
    devices = " ".join(re.findall(r"/dev/mapper/ai-[^\s\"]+", entry))
    return vm.run(
        f"for device in {devices}; do unshare -m sh -c"
        ' "mount -o ro $device /mnt && cat /mnt/new8"; done'
    ).stdout


@pytest.mark.long
def test_lookup_and_reaper_killed_at_the_steps_of_a_tree(vm: Machine, san: San) -> None:
    disk = server_taken_in_use(vm, san)
    before, empty = checksum(vm, disk), left(vm)
    san.target(job.ALPHA, [disk])
    vm.discover()
    job.configure(vm, ALL)
    killer.prepare(vm)
    # Both volumes are mapped (1, 2), then an overlay is laid over each of them (3 and 4, 5 and 6).
    # The reaper removes these four. test_overlay.py has every step of one overlay.
    for number, call in enumerate((1, 2, 3, 5, 6), 1):
        killer.arm(vm, call, "after")
        assert vm.run(["auto-iscsi", "lookup", job.ALPHA], check=False, timeout=120).status, call
        killer.disarm(vm)
        entry = vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=120).stdout
        assert sorted(mounts_in_private(vm, entry).split()) == ["my-data", "root"], (call, entry)
        if number <= 4:
            vm.run("sleep 1.1")
            killer.arm(vm, number, "before" if number % 2 else "after")
            assert vm.run(["auto-iscsi", "reap"], check=False, timeout=120).status == -9, number
            killer.disarm(vm)
        assert is_cleared(vm, empty), (call, left(vm))
    assert checksum(vm, disk) == before


BOTH = ["127.0.0.1", "127.0.0.2"]


def test_paths_that_come_and_go_below_an_overlay(vm: Machine, san: San) -> None:
    job.start_multipathd(vm)
    disk = taken_in_use(vm, san, "ext4")
    before, empty = checksum(vm, disk), left(vm)
    san.target(job.ALPHA, [disk], portals=BOTH)
    vm.automount(VISIT)
    job.configure(
        vm,
        AUTO.replace("udev_timeout = 50s", "udev_timeout = 80s\nlookup_timeout = 3m")
        + f"{SOON}{QUICK_LOSS}portals = {', '.join(BOTH)}\npaths = all\n",
    )
    assert job.visit(vm, job.ALPHA, "new8").stdout == "new\n"
    below = vm.run("dmsetup deps -o devname $(dmsetup ls | grep -o '^ai-[^[:space:]]*')").stdout
    assert "sd" not in below
    reader = vm.start(
        f"cd {job.ROOT}/{job.ALPHA} && while [ ! -e /run/end ]; do"
        " echo 3 >/proc/sys/vm/drop_caches; cat marker new* | md5sum; done | sort -u",
        timeout=400,
    )

    def up() -> list[str]:
        return sorted(s.address for s in vm.sessions(job.ALPHA) if s.state == "LOGGED_IN")

    def has_both_paths() -> bool:
        paths = vm.run(["multipathd", "show", "paths", "raw", "format", "%t"], check=False).lines
        return up() == BOTH and [path.strip() for path in paths].count("active") == 2

    for address in BOTH:
        assert job.until(has_both_paths, 120)
        san.reject(address)
        assert job.until(lambda: len(up()) == 1)
        vm.run("sleep 1")
        san.unblock(address)
    assert job.until(has_both_paths, 120)
    vm.run("touch /run/end")
    content = ("ext4\n" + 8 * "new\n").encode()
    assert reader.wait().stdout == f"{hashlib.md5(content).hexdigest()}  -\n"
    assert job.expired(vm, job.ALPHA)
    assert is_cleared(vm, empty)
    assert checksum(vm, disk) == before


@pytest.mark.long
def test_an_upgrade_and_two_restarts_of_automount_below_a_tree(vm: Machine, san: San) -> None:
    disk = server_taken_in_use(vm, san)
    before, empty = checksum(vm, disk), left(vm)
    san.target(job.ALPHA, [disk])
    vm.discover()
    vm.automount(VISIT)
    job.configure(vm, ALL)
    assert files_of_server(vm, job.ALPHA) == SERVERS_FILES
    worker = vm.start(f"cd {job.ROOT}/{job.ALPHA}/vg0-root && exec sleep 3000", timeout=3100)
    deb = TREE / f"dist/auto-iscsi_{auto_iscsi.__version__}_all.deb"
    vm.write("/root/again.deb", deb.read_bytes())
    apt = "DEBIAN_FRONTEND=noninteractive apt-get -qy -o Dpkg::Options::=--force-confold"
    vm.run(f"{apt} install --reinstall /root/again.deb", timeout=300)
    assert files_of_server(vm, job.ALPHA) == SERVERS_FILES
    vm.run("systemctl restart autofs", timeout=200)
    assert job.until(lambda: files_of_server(vm, job.ALPHA) == SERVERS_FILES)
    vm.run("systemctl kill --signal=KILL autofs; sleep 1; systemctl start autofs", timeout=200)
    assert job.until(lambda: files_of_server(vm, job.ALPHA) == SERVERS_FILES)
    assert not worker.done
    worker.kill(signal.SIGKILL)
    assert all_unmounted(vm, job.ALPHA), vm.mounts(job.ROOT)
    assert is_cleared(vm, empty)
    assert checksum(vm, disk) == before
    assert files_of_server(vm, job.ALPHA) == SERVERS_FILES
    # What is there at a reboot is gone after it: all of it is in the kernel or in /run. A record
    # is not, and the claim of an earlier boot does not say whose it is.
    assert all_unmounted(vm, job.ALPHA)
    vm.run(
        "for each in 1 2 3; do dmsetup ls | cut -f1 | xargs -n 1 dmsetup remove; done 2>/dev/null;"
        f" iscsiadm -m node -T {job.ALPHA} --logout;"
        " echo another >/run/boot_id;"
        " mount --bind /run/boot_id /proc/sys/kernel/random/boot_id",
        check=False,
    )
    assert vm.run("cat /run/auto-iscsi/claims/*").stdout != ""
    vm.run(["auto-iscsi", "reap"])
    assert vm.run("ls /run/auto-iscsi/claims").stdout == ""
    assert left(vm) == empty
    assert files_of_server(vm, job.ALPHA) == SERVERS_FILES
