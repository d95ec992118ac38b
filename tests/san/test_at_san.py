"""A visit has a snapshot presented at the SAN, and it is revoked when nobody uses it any more."""

from __future__ import annotations

import json

import pytest

from auto_iscsi.drivers.eqlx_output import NO_TAG
from tests.san import eqlx_group, job
from tests.san.at_san import CONFIGURATION, SAN_FILE, SOON, audited, read
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.lio_array import FIRST, SECOND, VOLUME, Array
from tests.san.reaping import all_ended


@pytest.mark.parametrize("mode", ["own", "shared"])
def test_a_visit_presents_and_idleness_revokes(array_vm: Machine, mode: str) -> None:
    vm, array = array_vm, Array(array_vm, {"mode": mode})
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
    # Who may enters it, and then it is there for everybody. automount remembers for a second that
    # somebody was refused.
    assert job.until(lambda: read(vm, first)) == f"{FIRST}\n"
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


def test_a_visit_at_an_equallogic_group(vm: Machine, san: San) -> None:
    group = eqlx_group.Group(vm, san)
    first, second, volume = eqlx_group.FIRST, eqlx_group.SECOND, eqlx_group.VOLUME
    iqn, key = f"{eqlx_group.PREFIX}-{first}", f"{volume}@{first}"
    vm.run(SOON, timeout=100)
    group.configure()
    job.configure(vm, CONFIGURATION)
    before = group.read()
    known = json.loads(vm.run("auto-iscsi list --json", timeout=200).stdout)
    states = {each["key"]: each["presented"] for each in known["snapshots"]}
    assert states == {key: False, f"{volume}@{second}": False}
    assert read(vm, f"{job.ROOT}/{key}/marker", user="nobody") == ""
    assert group.read() == before and group.offered() == []
    # Presented, logged in to and mounted: this snapshot alone, for this host alone, read-only.
    # automount remembers for a second that somebody was refused.
    assert job.until(lambda: read(vm, f"{job.ROOT}/{key}/marker")) == f"{first}\n"
    assert job.session(vm, iqn).state == "LOGGED_IN" and job.mount(vm, key)
    assert group.offered() == [iqn]
    assert group.admitted(iqn) == sorted([group.initiator, eqlx_group.OTHER])
    presented = group.read()["volumes"][volume]["snapshots"]
    assert {name: each["status"] for name, each in presented.items()} == {
        first: "online",
        second: "offline",
    }
    assert presented[first]["permission"] == "read-only"
    assert group.admitted(eqlx_group.LIVE) == [eqlx_group.OTHER]
    # Nobody uses it: all that was made is gone.
    assert job.expired(vm, key, 90)
    assert all_ended(vm, 120)
    vm.run("auto-iscsi reap", check=False, timeout=120)
    assert json.loads(vm.run("auto-iscsi san journal --json", check=False).stdout)["leases"] == []
    assert vm.run("find /etc/iscsi/nodes -type f", check=False).stdout == ""
    assert [len(audited(vm, event)) for event in ("present", "revoke")] == [1, 1]
    after = group.read()
    tagged = after["volumes"][volume]["snapshots"][first]
    assert tagged["description"] == NO_TAG  # a description cannot be made empty again
    tagged["description"] = ""
    assert after == before and group.offered() == []
    assert group.admitted(eqlx_group.LIVE) == [eqlx_group.OTHER]
    # The other host's record is the first one, from the beginning to the end.
    assert [line for line in group.typed() if " access delete " in line] == [
        f"volume select {volume} access delete 2"
    ]
