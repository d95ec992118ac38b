"""Killed at every arrow of the journal, then a reboot: what was presented is known and undone.

The array is the driver `lio` with real thin snapshots; its host is this one, and stays up. So the
reboot of the browse host is played: automount and mounts are gone, the sessions end, iscsid has
forgotten them, /run/auto-iscsi is empty, and the leases are from another boot. It takes longer than
the minute after which a revoke that failed is tried again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import pytest

from tests.san import arrows, job
from tests.san.arrows import DRIVER, MAP, REAPER, Arrow
from tests.san.at_san import CONFIGURATION, SAN_FILE, SOON, read
from tests.san.bed.machine import Machine
from tests.san.lio_array import FIRST, VOLUME, Array

KEY = f"{VOLUME}@{FIRST}"
#: What is left of this host's by a reboot, where an iscsiadm that was started ends in time.
REBOOT = r"""
systemctl stop autofs
for _ in $(seq 300); do pgrep -x 'iscsiadm|mount' >/dev/null || break; sleep 0.1; done
awk '$2 ~ "^/iscsiauto/" { print $2 }' /proc/mounts | sort -r | xargs -r umount
dmsetup info -c --noheadings -o name -S 'uuid=~"^AUTOISCSI"' | xargs -rn 1 dmsetup remove --retry
iscsiadm -m session -u
find /run/auto-iscsi -mindepth 1 -delete
cd /var/lib/auto-iscsi/san
sed -i 's/"boot": "[^"]*"/"boot": "-"/; s/"changed": [0-9.]*/"changed": 1.0/' *-*
systemctl reset-failed
systemctl start autofs
true
"""
#: What the timer starts; the second one is what the first one wants.
TIMER = "systemctl start auto-iscsi.service auto-iscsi-san.service"

#: On the way up: each kills a visit, or the driver that it has started.
PRESENTING = {
    "before it is begun": Arrow(MAP, "PRESENTING"),
    "before the driver is asked": Arrow(MAP, "PRESENTING", after=True),
    "with the driver": Arrow(DRIVER, "configfs", nth=5, parent=True),
    "the driver alone": Arrow(DRIVER, "configfs", nth=7),
    "before it is noted": Arrow(MAP, "PRESENTED"),
    "when it is presented": Arrow(MAP, "PRESENTED", after=True),
    "when the login is begun": Arrow(MAP, "LOGGED_IN", after=True),
    "while iscsiadm logs in": Arrow(MAP, "--login", parent=True),
    "when it is logged in": Arrow(MAP, "opened", after=True),
}
#: On the way down: each kills a reaper.
LOGGING_OUT = {
    "while iscsiadm logs out": Arrow(REAPER, "--logout", parent=True),
    "when it is logged out": Arrow(REAPER, "LOGGED_OUT"),
    "before the driver is asked": Arrow(REAPER, "LOGGED_OUT", after=True),
}
#: Later: each kills a reaper, or the driver that it has started.
REVOKING = {
    "with the driver": Arrow(DRIVER, "configfs", nth=2, parent=True),
    "the driver alone": Arrow(DRIVER, "configfs", nth=3),
    "before it is ended": Arrow(REAPER, "end"),
    "when it is ended": Arrow(REAPER, "end", after=True),
}


class Host:
    """The browse host, and what it had before the first visit."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm
        self.array = Array(vm, {"mode": "own"})
        vm.run(SOON, timeout=100)
        vm.write("/etc/auto.iscsi.san.d/san1.conf", SAN_FILE.format(volume=VOLUME, mode="own"))
        job.configure(vm, CONFIGURATION)
        arrows.prepare(vm)
        vm.run("mount -o remount,ro /run/live")  # ext4 itself would go on to write
        self.before, self.live = self.array.dump(), self.checksum()

    def checksum(self) -> str:
        """Return the checksum of the live volume, which is mounted read-only by now."""
        return self.vm.run(f"sha256sum /dev/vg0/{VOLUME}", timeout=100).stdout

    def journal(self) -> list[str]:
        """Return the states of the leases; `status` shows the same snapshots."""
        done = self.vm.run("auto-iscsi san journal --json; auto-iscsi status --json", check=False)
        decoder = json.JSONDecoder()
        journal, end = decoder.raw_decode(done.stdout)
        status, _ = decoder.raw_decode(done.stdout[end:].lstrip())
        assert len(status["presented"]) == len(journal["leases"])
        return [lease["state"] for lease in journal["leases"]]

    def check_known(self, where: str) -> None:
        """Check that what is presented at the array is in the journal and in `status`."""
        if self.array.dump() != self.before:
            assert len(self.journal()) == 1, where

    def check_undone(self, where: str) -> None:
        """Check that nothing is left at the array, nor here."""
        assert self.journal() == [] and self.array.dump() == self.before, where
        left = self.vm.run("find /etc/iscsi/nodes -type f; iscsiadm -m session", check=False)
        assert left.stdout == "", where

    def reboot_and_finish(self, where: str) -> None:
        self.vm.run(REBOOT, timeout=200)
        self.check_known(where)
        self.vm.run(TIMER, timeout=200)
        self.check_undone(where)

    def visit(self) -> str:
        """Read the file of the snapshot, as soon as automount asks anew."""
        path = f"{job.ROOT}/{KEY}/marker"
        return job.until(lambda: read(self.vm, path))


def kill_on_the_way_up(host: Host, name: str) -> None:
    where = f"present, {name}"
    arrows.arm(host.vm, PRESENTING[name])
    assert read(host.vm, f"{job.ROOT}/{KEY}/marker") == "", where
    assert arrows.has_come(host.vm), where
    host.check_known(where)
    host.reboot_and_finish(where)


def kill_on_the_way_down(host: Host, name: str) -> None:
    where = f"revoke, {name}"
    assert host.visit() == f"{FIRST}\n", where
    assert job.expired(host.vm, KEY, 90), where
    arrows.arm(host.vm, {**LOGGING_OUT, **REVOKING}[name])
    host.vm.run("auto-iscsi reap", check=False, timeout=120)
    assert arrows.has_come(host.vm), where
    host.check_known(where)
    host.reboot_and_finish(where)


@pytest.mark.parametrize(
    ("up", "down"),
    [
        pytest.param(["while iscsiadm logs in"], ["with the driver"], id="two"),
        pytest.param(PRESENTING, [], id="present", marks=pytest.mark.long),
        pytest.param([], LOGGING_OUT, id="logout", marks=pytest.mark.long),
        pytest.param([], REVOKING, id="revoke", marks=pytest.mark.long),
    ],
)
def test_killed_at_an_arrow(array_vm: Machine, up: Iterable[str], down: Iterable[str]) -> None:
    host = Host(array_vm)
    for kill, names in ((kill_on_the_way_up, up), (kill_on_the_way_down, down)):
        for name in names:
            began = time.monotonic()
            kill(host, name)
            print(f"{kill.__name__} {name}: {time.monotonic() - began:.0f} s", flush=True)
    assert host.checksum() == host.live
