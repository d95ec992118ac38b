"""What goes wrong at the SAN and on this host while a snapshot is presented: nothing is left."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.san import arrows, job
from tests.san.arrows import MAP, REAPER, Arrow
from tests.san.at_san import CONFIGURATION, LONG_AGO, SOON, read
from tests.san.bed.machine import Machine
from tests.san.lio_array import FIRST, FOLDER, VOLUME, Array

KEY = f"{VOLUME}@{FIRST}"
PATH = f"{job.ROOT}/{KEY}/marker"
SAN_FILE = f"""\
driver = lio
address = 127.0.0.1:2022
user = root
key_file = {FOLDER}/key
volumes = {VOLUME}
present = yes
allow = user
timeout = 60s
[options]
known_hosts = {FOLDER}/known_hosts
"""
SSHD = f"/usr/sbin/sshd -f {FOLDER}/sshd_config"
#: Where the journal is, on a small filesystem.
SMALL = """
set -e
mkdir /run/small && mount -t tmpfs -o size=128k tmpfs /run/small
cp -a /var/lib/auto-iscsi/. /run/small
mount --bind /run/small /var/lib/auto-iscsi
"""
FILL = "cat /dev/zero >/var/lib/auto-iscsi/filler"
#: The target's configuration is in the kernel only, and LVM activates no snapshot by itself.
REBOOT_OF_THE_ARRAY = f"""
set -e
python3 -W ignore -c 'import rtslib_fb; rtslib_fb.RTSRoot().clear_existing(confirm=True)'
lvchange -an vg0/{FIRST}
"""
LEDGER = "/var/lib/auto-iscsi-lio/leases.json"


class Host:
    """A host, and an array by ssh."""

    def __init__(self, vm: Machine) -> None:
        self.vm, self.array = vm, Array(vm, {"mode": "own"}, by_ssh=True)
        vm.run(SOON, timeout=100)
        vm.write("/etc/auto.iscsi.san.d/san1.conf", SAN_FILE, mode=0o600)
        job.configure(vm, CONFIGURATION)
        arrows.prepare(vm)
        self.before = self.array.dump()

    def visit(self) -> str:
        """Read the snapshot's file; automount remembers a failure for a second."""
        return job.until(lambda: read(self.vm, PATH))

    def leases(self) -> list[dict[str, Any]]:
        done = self.vm.run("auto-iscsi san journal --json", check=False)
        leases: list[dict[str, Any]] = json.loads(done.stdout)["leases"]
        return leases

    def problems(self) -> list[str]:
        """Return the codes that `status` has for what is presented."""
        status = json.loads(self.vm.run("auto-iscsi status --json", check=False).stdout)
        return [each["code"] for each in status["problems"]]

    def is_clean(self) -> bool:
        """Tell whether nothing is presented, nor left here."""
        left = self.vm.run("find /etc/iscsi/nodes -type f; iscsiadm -m session", check=False)
        return self.leases() == [] and self.array.dump() == self.before and left.stdout == ""

    def reap(self) -> int:
        """Wait until nobody uses the snapshot, and run the reaper as the administrator."""
        assert job.expired(self.vm, KEY, 90)
        return self.vm.run("auto-iscsi reap", check=False, timeout=150).status

    def retry(self) -> None:
        """Let the time pass after which a revoke is tried again."""
        self.vm.run(f"{LONG_AGO} && auto-iscsi san journal --finish", timeout=100)


@pytest.fixture
def host(array_vm: Machine) -> Host:
    return Host(array_vm)


def test_ssh_to_the_array_hangs_and_is_gone(host: Host) -> None:
    vm = host.vm
    # It hangs when the visit has written its lease. The reason is in the log, and who waits waits
    # no longer than the SAN's timeout for each question.
    arrows.arm(vm, Arrow(MAP, "PRESENTING", after=True, instead="pkill -STOP -of sshd_config"))
    assert read(vm, PATH) == "" and arrows.has_come(vm)
    assert "(unreachable)" in job.last_message(vm)
    assert [lease["state"] for lease in host.leases()] == ["LOGGED_OUT"]
    assert "not-revoked" in host.problems() and host.array.dump() == host.before
    vm.run("pkill -CONT -of sshd_config")
    assert host.visit() == f"{FIRST}\n" and len(host.leases()) == 1
    # It is gone when the reaper has logged out.
    end = "kill $(pgrep -of sshd_config)"
    arrows.arm(vm, Arrow(REAPER, "LOGGED_OUT", after=True, instead=end))
    assert host.reap() == 1 and arrows.has_come(vm)
    assert "not-revoked" in host.problems() and host.array.dump() != host.before
    vm.run(SSHD)
    host.retry()
    assert host.is_clean()


@pytest.mark.long  # tests/tree/test_san.py shows the heart of it
def test_no_space_is_left_for_the_journal(host: Host) -> None:
    vm = host.vm
    vm.run(SMALL)
    for number in (1, 2, 3):  # when the visit is to begin, is presented, is to log in
        arrows.arm(vm, Arrow(MAP, "draft", nth=number, instead=FILL))
        assert read(vm, PATH) == "" and arrows.has_come(vm), number
        assert "no space left on device" in job.last_message(vm)
        assert len(host.leases()) == (number == 3), number
        if number == 3:  # left to a run that wants it; the administrator needs not wait
            vm.run(f"auto-iscsi san revoke san1 {KEY}", timeout=100)
        assert host.is_clean(), number
        vm.run("rm /var/lib/auto-iscsi/filler")
    assert host.visit() == f"{FIRST}\n"
    arrows.arm(vm, Arrow(REAPER, "draft", instead=FILL))
    assert host.reap() == 0 and arrows.has_come(vm)
    assert host.is_clean()


def test_the_array_is_rebooted_below_a_session(host: Host) -> None:
    vm = host.vm
    for ends_ledger in (False, True):
        assert host.visit() == f"{FIRST}\n"
        vm.run(REBOOT_OF_THE_ARRAY + (f"rm {LEDGER}" if ends_ledger else ""), timeout=100)
        assert host.reap() == 0 and host.is_clean(), ends_ledger
    # Who comes again before the session is ended has it presented again.
    assert host.visit() == f"{FIRST}\n" and job.expired(vm, KEY, 90)
    vm.run(REBOOT_OF_THE_ARRAY, timeout=100)
    assert host.visit() == f"{FIRST}\n"
    assert host.reap() == 0 and host.is_clean()
