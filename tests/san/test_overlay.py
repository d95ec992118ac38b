"""Overlays: is each dirty filesystem complete, while not one byte of its LUN changes?"""

from __future__ import annotations

import json

import pytest

from tests.san import job, killer
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.snapshot import (
    AUTO,
    OPTIONS,
    checksum,
    checksums,
    server_taken_in_use,
    taken_in_use,
    taken_with_data_in_the_journal,
)

#: What a host without an overlay shows: no device of ours, no store.
LEFT = "dmsetup ls; losetup --list --noheadings; ls -A /var/tmp | grep -v systemd-private"


JOURNAL = "ext4-data"


def overlays(vm: Machine) -> list[str]:
    return vm.run("cat /sys/block/dm-*/dm/name 2>/dev/null", check=False).lines


@pytest.mark.parametrize(
    ("read_only", "visits"),
    [
        pytest.param(True, 2, id="protected", marks=pytest.mark.core),
        pytest.param(True, 10, id="protected, ten", marks=pytest.mark.long),
        pytest.param(False, 2, id="writable"),
    ],
)
def test_all_files_are_there_and_no_lun_changes(
    vm: Machine, san: San, read_only: bool, visits: int
) -> None:
    disks = {kind: taken_in_use(vm, san, kind) for kind in ("ext3", *OPTIONS)}
    disks[JOURNAL] = taken_with_data_in_the_journal(vm, san)
    paths = [disk.path for disk in disks.values()]
    before, left = checksums(vm, paths), vm.run(LEFT, check=False).stdout
    targets = {kind: f"{job.ARRAY}-{kind}" for kind in disks}
    for kind, iqn in targets.items():
        san.target(iqn, [disks[kind]], read_only=read_only)
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")
    job.configure(vm, AUTO.replace("50s", "2m") + "idle = 0\nlease = 1s\nlookup_timeout = 5m\n")
    read = "cd {} && cat marker new* | sha256sum && findmnt -no SOURCE,OPTIONS -M $PWD"
    right = {kind: vm.run(f"cat {disk.path}.sum").stdout for kind, disk in disks.items()}
    for visit in range(visits):
        readers = {
            kind: vm.start(read.format(f"{job.ROOT}/{iqn}"), user="user", timeout=320)
            for kind, iqn in targets.items()
        }
        for kind, reader in readers.items():
            content, mounted = reader.wait().stdout.splitlines()
            assert f"{content}\n" == right[kind], (visit, kind)
            assert mounted.startswith("/dev/mapper/ai-") and " ro," in mounted
        if visit < 2:  # the second visit finds the overlays of the first one
            rows = json.loads(vm.run("auto-iscsi status --json").stdout)["sessions"]
            stores = [store for row in rows for store in row["overlays"]]
            assert sorted(store["name"] for store in stores) == sorted(overlays(vm))
            assert len(stores) == len(disks)
            assert all(0 < store["bytes"] < 64 << 20 for store in stores)
        assert all(job.expired(vm, iqn) for iqn in targets.values())
        if visit:
            assert job.until(
                lambda: vm.run("auto-iscsi reap; iscsiadm -m session", check=False).status
            )
            assert vm.run(LEFT, check=False).stdout == left
    assert checksums(vm, paths) == before
    assert job.messages(vm) == []


def test_without_room_or_without_the_module_it_is_refused(vm: Machine, san: San) -> None:
    disk = taken_in_use(vm, san, "ext4")
    san.target(job.ALPHA, [disk])
    san.target(job.BETA, [server_taken_in_use(vm, san)])
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
    # A clean partition of a server is not shown in place of its root.
    job.configure(vm, AUTO + "overlay_dir = /run/small\n")
    assert "vg0-root is left out: no overlay: /run/small" in job.refusal(vm, job.BETA)


def test_a_lookup_killed_at_each_step_is_finished_by_the_next_one(vm: Machine, san: San) -> None:
    disk = taken_in_use(vm, san, "ext4")
    before, left = checksum(vm, disk), vm.run(LEFT, check=False).stdout
    san.target(job.ALPHA, [disk])
    vm.discover()
    job.configure(vm, AUTO + "idle = 0\nlease = 1s\n")
    killer.prepare(vm)
    killed = 0
    for when in ("before", "after"):
        for call in (1, 2):  # the overlay is made, and its store looked at
            killer.arm(vm, call, when)
            killed += vm.run(["auto-iscsi", "lookup", job.ALPHA], check=False).status != 0
            killer.disarm(vm)
            entry = vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=120).stdout
            (name,) = overlays(vm)
            assert f'":/dev/mapper/{name}"' in entry, (when, call)
            vm.run(f"mount -o ro /dev/mapper/{name} /mnt && cat /mnt/new8 && umount /mnt")
            vm.run(["dmsetup", "remove", name])
    assert killed == 4
    assert job.until(lambda: vm.run("auto-iscsi reap; iscsiadm -m session", check=False).status)
    assert vm.run(LEFT, check=False).stdout == left
    assert checksum(vm, disk) == before


#: An unshare that kills the lookup which started it; its replay goes on for a while.
SLOW_REPLAY = """#!/bin/sh
[ -e /run/killed ] && exec /usr/bin/unshare.real "$@"
touch /run/killed
kill -KILL $PPID
shift 2
exec /usr/bin/unshare.real --mount --propagation=private sh -c '"$@"; sleep 6' sh "$@"
"""


def test_a_replay_whose_lookup_was_killed_is_waited_for(vm: Machine, san: San) -> None:
    disk = taken_in_use(vm, san, "ext4")
    before, left = checksum(vm, disk), vm.run(LEFT, check=False).stdout
    san.target(job.ALPHA, [disk])
    vm.discover()
    job.configure(vm, AUTO + "idle = 0\nlease = 1s\n")
    vm.run("mv /usr/bin/unshare /usr/bin/unshare.real")
    vm.write("/usr/bin/unshare", SLOW_REPLAY, 0o755)
    assert vm.run(["auto-iscsi", "lookup", job.ALPHA], check=False, timeout=120).status == -9
    entry = vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=120).stdout
    (name,) = overlays(vm)
    assert f'":/dev/mapper/{name}"' in entry
    assert vm.run(f"blockdev --getro /dev/mapper/{name}").stdout == "1\n"
    vm.run(f"mount -o ro /dev/mapper/{name} /mnt && cat /mnt/new8 && umount /mnt")
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
