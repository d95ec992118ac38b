"""Overlays: is each dirty filesystem complete, while not one byte of its LUN changes?"""

from __future__ import annotations

import json

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.snapshot import AUTO, OPTIONS, checksum, taken_in_use

#: What a host without an overlay shows: no device of ours, no store.
LEFT = "dmsetup ls; losetup --list --noheadings; ls -A /var/tmp | grep -v systemd-private"


def overlays(vm: Machine) -> list[str]:
    return vm.run("cat /sys/block/dm-*/dm/name 2>/dev/null", check=False).lines


@pytest.mark.parametrize("read_only", [True, False], ids=["protected", "writable"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_all_files_are_there_and_the_lun_stays_as_it_was(
    vm: Machine, san: San, kind: str, read_only: bool
) -> None:
    disk = taken_in_use(vm, san, kind)
    before, left = checksum(vm, disk), vm.run(LEFT, check=False).stdout
    san.target(job.ALPHA, [disk], read_only=read_only)
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")
    job.configure(vm, AUTO + "idle = 0\nlease = 1s\n")
    for visit in range(3):
        assert job.visit(vm, job.ALPHA, "marker", check=False).stdout == f"{kind}\n", visit
        assert vm.run(f"cat /iscsiauto/{job.ALPHA}/new*").stdout == 8 * "new\n"
        mounted = job.mount(vm, job.ALPHA)
        assert mounted is not None and mounted.source == f"/dev/mapper/{overlays(vm)[0]}"
        assert "ro" in mounted.options.split(",")
        (row,) = json.loads(vm.run("auto-iscsi status --json").stdout)["sessions"]
        (store,) = row["overlays"]
        assert store["name"] == overlays(vm)[0] and 0 < store["bytes"] < 64 << 20
        assert job.expired(vm, job.ALPHA)
        if visit:  # the second visit found the overlay of the first one
            assert job.until(lambda: vm.run(["auto-iscsi", "reap"], check=False).status == 0)
            assert job.until(
                lambda: vm.run("auto-iscsi reap; iscsiadm -m session", check=False).status
            )
            assert overlays(vm) == []
            assert vm.run(LEFT, check=False).stdout == left
    assert checksum(vm, disk) == before
    assert job.messages(vm) == []


def test_without_room_or_without_the_module_it_is_refused(vm: Machine, san: San) -> None:
    disk = taken_in_use(vm, san, "ext4")
    san.target(job.ALPHA, [disk])
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")
    vm.run("mkdir /run/small && mount -t tmpfs -o size=1m tmpfs /run/small")
    job.configure(vm, AUTO + "overlay_dir = /run/small\n")
    assert "/run/small has 1 MiB free" in job.refusal(vm, job.ALPHA)
    vm.run("mv /lib/modules/$(uname -r)/kernel/drivers/md/dm-snapshot.ko* /run && depmod")
    job.configure(vm, AUTO)
    assert "no overlay over " in job.refusal(vm, job.ALPHA)
    assert overlays(vm) == []
    vm.run("mv /run/dm-snapshot.ko* /lib/modules/$(uname -r)/kernel/drivers/md/ && depmod")
    assert job.until(lambda: job.visit(vm, job.ALPHA, "new8", check=False).stdout == "new\n")


#: A dmsetup that kills the lookup which started it, before or after it does its work.
KILLER = """#!/bin/sh
grep -q auto-iscsi /proc/$PPID/cmdline || exec /usr/sbin/dmsetup.real "$@" # for udev
echo >>/run/calls
if [ $(wc -l </run/calls) = {call} ]; then
    [ {when} = after ] && /usr/sbin/dmsetup.real "$@"
    kill -KILL $PPID
    exit 1
fi
exec /usr/sbin/dmsetup.real "$@"
"""


def test_a_lookup_killed_at_each_step_is_finished_by_the_next_one(vm: Machine, san: San) -> None:
    disk = taken_in_use(vm, san, "ext4")
    before, left = checksum(vm, disk), vm.run(LEFT, check=False).stdout
    san.target(job.ALPHA, [disk])
    vm.discover()
    job.configure(vm, AUTO + "idle = 0\nlease = 1s\n")
    vm.run("mv /usr/sbin/dmsetup /usr/sbin/dmsetup.real")
    vm.run("udevadm control --reload")
    killed = 0
    for when in ("before", "after"):
        for call in range(1, 7):
            vm.run("rm -f /run/calls /usr/sbin/dmsetup")
            vm.write("/usr/sbin/dmsetup", KILLER.format(call=call, when=when), 0o755)
            killed += vm.run(["auto-iscsi", "lookup", job.ALPHA], check=False).status != 0
            vm.run("rm -f /run/calls; ln -sf dmsetup.real /usr/sbin/dmsetup")
            entry = vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=120).stdout
            (name,) = overlays(vm)
            assert f'":/dev/mapper/{name}"' in entry, (when, call)
            vm.run(f"mount -o ro /dev/mapper/{name} /mnt && cat /mnt/new8 && umount /mnt")
            vm.run(["dmsetup", "remove", name])
    assert killed == 12
    vm.run("mv /usr/sbin/dmsetup.real /usr/sbin/dmsetup")
    assert job.until(lambda: vm.run("auto-iscsi reap; iscsiadm -m session", check=False).status)
    assert vm.run(LEFT, check=False).stdout == left
    assert checksum(vm, disk) == before


def test_a_target_that_is_cut_off_while_its_overlay_is_mounted(vm: Machine, san: San) -> None:
    disk = taken_in_use(vm, san, "xfs")
    left = vm.run(LEFT, check=False).stdout
    target = san.target(job.ALPHA, [disk])
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")
    job.configure(vm, AUTO + "idle = 0\nlease = 1s\nreplacement_timeout = 5s\n")
    assert job.visit(vm, job.ALPHA, "new8").stdout == "new\n"
    target.revoke()
    vm.run("echo 3 >/proc/sys/vm/drop_caches")
    assert job.visit(vm, job.ALPHA, "new7", check=False).status == 1
    assert job.expired(vm, job.ALPHA)

    def is_cleared() -> bool:
        vm.run(["auto-iscsi", "reap"], check=False, timeout=120)
        return not vm.sessions(job.ALPHA) and vm.run(LEFT, check=False).stdout == left

    assert job.until(is_cleared)


def test_links_by_uuid_lead_where_they_led(vm: Machine, san: San) -> None:
    disk = taken_in_use(vm, san, "ext4")
    own = vm.run(f"losetup --show -f -r {disk.path}").stdout.strip()
    uuid = vm.run(f"blkid -s UUID -o value {own}").stdout.strip()
    vm.run(f"udevadm trigger --settle {own}")
    link = f"readlink -f /dev/disk/by-uuid/{uuid}"
    assert vm.run(link).stdout.strip() == own
    san.target(job.ALPHA, [disk])
    vm.discover()
    job.configure(vm, AUTO)
    vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=120)
    vm.run("udevadm settle")
    assert overlays(vm)
    assert not vm.run(link).stdout.strip().startswith("/dev/dm-")
