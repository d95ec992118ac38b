"""After the lookup: a mount that fails, a check, a name that is too long, a mount that is dead."""

from __future__ import annotations

import json
from typing import Any

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

AUTO = "options = nocheck, ro\nfstype = auto\npartition = auto\n"
PATIENT = "udev_timeout = 50s\n"
PLACE = f"{job.ROOT}/{job.BETA}"
SAID = f"{job.BETA}: the last mount of it failed or did not last; the kernel said: EXT4-fs (sda): "

#: Have every fsck of an ext filesystem leave a line.
LOG_FSCK = r"""
for name in e2fsck fsck fsck.ext2 fsck.ext3 fsck.ext4; do
    cp -L /usr/sbin/$name /usr/sbin/$name.real
    rm /usr/sbin/$name
    printf '#!/bin/sh\necho "$0 $*" >>/run/fsck.log\nexec "$0.real" "$@"\n' >/usr/sbin/$name
    chmod +x /usr/sbin/$name
done
"""


def status(vm: Machine, expected: int) -> dict[str, Any]:
    """Return what status says of the one target."""
    said = vm.run(["auto-iscsi", "status", "--json"], check=False)
    assert said.status == expected, said
    (row,) = json.loads(said.stdout)["sessions"]
    return dict(row)


def checks(vm: Machine) -> list[str]:
    """Return the fsck processes that ran so far."""
    return vm.run("cat /run/fsck.log", check=False).lines


def test_a_mount_that_fails_and_one_that_outlives_its_session(vm: Machine, san: San) -> None:
    disk = san.disk(whole=san.fs("ext4", {"marker": "here\n"}))
    vm.run(LOG_FSCK)
    vm.run(["tune2fs", "-c", "1", "-C", "5", disk.path])  # a check of the whole of it is due
    vm.run(["dd", f"if={disk.path}", "of=/run/intact", "bs=4096", "count=1"])
    vm.run(["debugfs", "-w", "-R", "feature FEATURE_I30", disk.path])  # no kernel knows it
    san.target(job.BETA, [disk])
    vm.discover()
    job.configure(vm, AUTO + PATIENT)

    # The mount fails, and the next visit says so.
    assert job.visit(vm, job.BETA, check=False).status == 1
    assert job.messages(vm) == []
    vm.run("sleep 4")
    assert SAID in job.refusal(vm, job.BETA)
    vm.run(["dd", "if=/run/intact", f"of={disk.path}", "bs=4096", "conv=notrunc"])
    assert job.visit(vm, job.BETA).stdout == "here\n"
    told = job.messages(vm)
    assert len(told) == 2 and "unsupported optional features" in told[1]

    # What was mounted is no failure, however it ended.
    vm.run("systemctl kill -s USR1 autofs")
    assert job.expired(vm, job.BETA)
    assert job.visit(vm, job.BETA).stdout == "here\n"
    vm.run(["umount", PLACE])
    assert job.visit(vm, job.BETA).stdout == "here\n"
    assert job.messages(vm) == told

    # Nothing was checked: neither now nor for hours.
    mounted = job.mount(vm, job.BETA)
    assert mounted and mounted.fstype == "ext4" and "ro" in mounted.options.split(",")
    assert checks(vm) == []

    # The session goes, the mount stays.
    assert status(vm, 0)["problems"] == []
    vm.run(["iscsiadm", "-m", "session", "-r", str(job.session(vm, job.BETA).number), "--logout"])
    assert job.until(lambda: vm.sessions() == [])
    row = status(vm, 1)
    assert (row["session"], row["mounted"], row["problems"]) == (None, [PLACE], ["lost-in-use"])
    assert "umount /iscsiauto/KEY" in vm.run(["auto-iscsi", "explain", "lost-in-use"]).stdout
    print(vm.run(["auto-iscsi", "status"], check=False).stdout)
    vm.run(["umount", PLACE])
    assert job.visit(vm, job.BETA).stdout == "here\n"
    assert status(vm, 0)["problems"] == []
    assert job.messages(vm) == told

    # With a type of one's own automount checks, as ever.
    job.configure(vm, f"fstype = ext4\npartition = none\n{PATIENT}")
    vm.run(["umount", PLACE])
    job.visit(vm, job.BETA, check=False)
    assert checks(vm)


def test_names_that_are_too_long_for_a_link(vm: Machine, san: San) -> None:
    names = [f"{job.ARRAY}-".ljust(length, "x") for length in (199, 200, 216, 223)]
    for name in names:
        san.target(name)
    vm.discover()
    for settings in (PATIENT, AUTO + PATIENT):
        job.configure(vm, settings)
        for name in names:
            assert job.visit(vm, name).stdout == f"{name}\n"
        print(vm.run("ls /dev/disk/by-path; findmnt -nlo SOURCE,TARGET -t ext3").stdout)
        for name in names:
            vm.run(["umount", f"{job.ROOT}/{name}"])
    entries = [vm.run(["auto-iscsi", "lookup", name]).stdout for name in names]
    assert ["/by-path/" in entry for entry in entries] == [True, False, False, False]
    assert job.messages(vm) == []
