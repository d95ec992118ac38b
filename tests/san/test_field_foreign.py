"""A lookup changes nothing about a disk that an administrator logged in or uses."""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

pytestmark = pytest.mark.shared

AUTO = "options = nocheck, ro\nfstype = auto\npartition = auto\nudev_timeout = 50s\nlease = 1s\n"
LIVE = f"{job.ARRAY}-administrators-live-volume"
IDLE = f"{job.ARRAY}-administrators-idle-volume"


def log_in(vm: Machine, iqn: str) -> str:
    """Log in by hand, as an administrator does, and return the disk's node."""
    vm.discover()
    vm.run(["iscsiadm", "-m", "node", "-T", iqn, "--login"], timeout=60)
    vm.run("udevadm settle", timeout=60)
    link = f"/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-{iqn}-lun-0"
    return vm.run(["readlink", "-f", link]).stdout.strip()


def is_read_only(vm: Machine, node: str) -> bool:
    return vm.run(["blockdev", "--getro", node]).stdout.strip() == "1"


def test_an_administrators_live_volume_stays_writable(vm: Machine, san: San) -> None:
    vm.write("/etc/auto.iscsi.conf", AUTO)
    san.target(LIVE, [san.disk(whole=san.fs("ext4", {"marker": "live\n"}, size=16))])
    node = log_in(vm, LIVE)
    vm.run(f"mkdir -p /srv/live && mount -o rw {node} /srv/live", timeout=60)
    assert job.visit(vm, LIVE, check=False).status != 0
    assert not is_read_only(vm, node)
    vm.run("mount -o remount,ro /srv/live && mount -o remount,rw /srv/live", timeout=60)
    vm.run("echo still >/srv/live/writable && sync /srv/live/writable", timeout=60)
    line = vm.journal("-u", "autofs")
    assert LIVE in line and "was in use" in line
    vm.run("umount /srv/live", timeout=60)


def test_an_administrators_idle_session_is_used_as_it_is(vm: Machine, san: San) -> None:
    vm.write("/etc/auto.iscsi.conf", AUTO)
    san.target(IDLE, [san.disk(whole=san.fs("ext4", {"marker": "idle\n"}, size=16))])
    node = log_in(vm, IDLE)
    assert job.visit(vm, IDLE).stdout == "idle\n"
    assert not is_read_only(vm, node)
    mount = job.mount(vm, IDLE)
    assert mount and "ro" in mount.options.split(",")
