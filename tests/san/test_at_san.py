"""A visit has a snapshot presented at the SAN, and it is revoked when nobody uses it any more."""

from __future__ import annotations

import json

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.lio_array import FIRST, SECOND, VOLUME, Array
from tests.san.reaping import all_ended

SAN_FILE = """\
driver = lio
run_as = root
volumes = {volume}
present = yes
allow = root, user
[options]
vg = vg0
portals = 127.0.0.1
mode = {mode}
"""
CONFIGURATION = """\
options = nocheck, ro
fstype = auto
partition = auto
udev_timeout = 50s
lookup_timeout = 2m
idle = 0
lease = 1s
"""
#: The package's master lines, but a mount that nobody uses goes soon.
SOON = """
sed -i 's/--timeout=[0-9]*/--timeout=3/' /etc/auto.master.d/iscsi.autofs
systemctl restart autofs
"""


def read(vm: Machine, path: str, user: str = "user") -> str:
    return vm.run(["cat", path], user=user, cwd="/", check=False, timeout=200).stdout


def audited(vm: Machine, event: str) -> list[str]:
    """Return the lines about what was presented, or revoked."""
    lines = vm.journal("-t", "auto-iscsi", "SYSLOG_FACILITY=10").splitlines()
    return [line for line in lines if line.startswith(f"{event} san=")]


@pytest.mark.parametrize("mode", ["own", "shared"])
def test_a_visit_presents_and_idleness_revokes(vm: Machine, mode: str) -> None:
    array = Array(vm, {"mode": mode})
    vm.run(SOON, timeout=100)
    vm.write("/etc/auto.iscsi.san.d/san1.conf", SAN_FILE.format(volume=VOLUME, mode=mode))
    job.configure(vm, CONFIGURATION)
    before = array.dump()
    known = json.loads(vm.run("auto-iscsi list --json", timeout=200).stdout)
    states = {each["key"]: each["presented"] for each in known["snapshots"]}
    assert states == {f"{VOLUME}@{FIRST}": False, f"{VOLUME}@{SECOND}": False}
    names = vm.run(["ls", f"/snapshots/{VOLUME}"], user="user", timeout=100).lines
    assert len(names) == 3 and "latest" in names
    assert vm.run(f"find /snapshots/{VOLUME} -type l", user="user").stdout.count("\n") == 3
    # Who may not present is refused, and nothing has changed at the SAN.
    first = f"{job.ROOT}/{VOLUME}@{FIRST}/marker"
    assert read(vm, first, user="nobody") == ""
    assert "user nobody" in job.last_message(vm) and "may not present" in job.last_message(vm)
    assert array.dump() == before and audited(vm, "present") == []
    # Who may enters it, and then it is there for everybody.
    assert read(vm, first) == f"{FIRST}\n"
    assert read(vm, first, user="nobody") == f"{FIRST}\n"
    assert read(vm, f"/snapshots/{VOLUME}/latest/marker") == f"{SECOND}\n"
    assert [line.split(" lease=")[0] for line in audited(vm, "present")] == [
        f"present san=san1 volume={VOLUME} snapshot={name}" for name in (FIRST, SECOND)
    ]
    assert "user=user" in audited(vm, "present")[0]
    # Nobody uses them: all that was made is gone.
    for name in (FIRST, SECOND):
        assert job.expired(vm, f"{VOLUME}@{name}", 90)
    assert all_ended(vm, 120)
    vm.run("auto-iscsi reap", check=False, timeout=120)
    assert json.loads(vm.run("auto-iscsi san journal --json", check=False).stdout)["leases"] == []
    assert array.dump() == before and len(audited(vm, "revoke")) == 2
    assert vm.run("find /etc/iscsi/nodes -type f", check=False).stdout == ""
    # One command brings a file back, and leaves nothing presented.
    shown = vm.run(["auto-iscsi", "cat", f"{VOLUME}@{FIRST}:/marker"], timeout=300)
    assert shown.stdout == f"{FIRST}\n"
    assert array.dump() == before
    assert vm.read("/run/live/marker") == b"live\n"
