"""Overlays: is each dirty filesystem complete, while not one byte of its LUN changes?"""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.test_journal import AUTO, OPTIONS, checksum, taken_in_use

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
        assert job.expired(vm, job.ALPHA)
        if visit:  # the second visit found the overlay of the first one
            assert job.until(lambda: vm.run(["auto-iscsi", "reap"], check=False).status == 0)
            assert job.until(
                lambda: vm.run("auto-iscsi reap; iscsiadm -m session", check=False).status
            )
            assert overlays(vm) == []
            assert vm.run(LEFT, check=False).stdout == left
    assert checksum(vm, disk) == before
    assert job.said(vm) == []


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
