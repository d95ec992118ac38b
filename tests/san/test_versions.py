"""list, versions and cat: a file as it was, by volume and day, without a session left behind."""

from __future__ import annotations

import json

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

STEM = "iqn.2001-05.com.example:vm-beta-2010-05-0"
DAYS = [f"{STEM}{day}-04:00:01" for day in (3, 4, 5)]


def test_the_versions_of_a_file_over_the_snapshots(vm: Machine, san: San) -> None:
    for target, text in zip(DAYS, ("old\n", "old\n", "newest\n")):
        files = {"etc/passwd": text, "etc/link": "", "marker": target}
        disk = san.disk([san.fs("ext3", files)])
        san.target(target, [disk])
    vm.discover()
    vm.automount("--timeout=30 --negative-timeout=1")
    job.configure(vm, "timezone = UTC\nudev_timeout = 50s\n")
    listed = json.loads(vm.run("auto-iscsi list vm-beta --json").stdout)["snapshots"]
    assert [each["target"] for each in listed] == DAYS[::-1]
    assert vm.sessions() == []

    versions = ["auto-iscsi", "versions", "vm-beta:/etc/passwd", "--hash", "--json"]
    report = json.loads(vm.run(versions, timeout=300).stdout)
    assert [each["snapshots"] for each in report["versions"]] == [[DAYS[2]], DAYS[1::-1]]
    assert (report["missing"], report["failed"]) == ([], [])
    assert vm.sessions() == []
    assert not [mount for mount in vm.mounts("/iscsiauto/") if mount.fstype != "autofs"]

    # One that is in use stays, and so does its session.
    user = vm.start(f"cd /iscsiauto/{DAYS[0]} && sleep 1000")
    assert job.until(lambda: bool(vm.sessions(DAYS[0])))
    cat = ["auto-iscsi", "cat", "vm-beta@2010-05-03:/etc/passwd"]
    assert vm.run(cat, timeout=120).stdout == "old\n"
    assert vm.run(["auto-iscsi", "cat", "vm-beta:/etc/passwd"], timeout=120).stdout == "newest\n"
    assert [session.target for session in vm.sessions()] == [DAYS[0]]
    user.kill()

    refused = vm.run(["auto-iscsi", "cat", "vm-beta@2010-05-02:/etc/passwd"], check=False)
    assert refused.status == 1 and "there are 2010-05-05 04:00:01" in refused.stderr
    gone = vm.run(["auto-iscsi", "cat", "vm-beta@2010-05-04:/etc/shadow"], check=False, timeout=120)
    assert gone.status == 1 and "/etc/shadow: no such file" in gone.stderr


def test_a_link_does_not_lead_out_of_the_snapshot(vm: Machine, san: San) -> None:
    disk = san.disk([san.fs("ext3", {"etc/passwd": "inside\n"})])
    vm.run(
        f"device=$(losetup --show -P -f {disk.path}); udevadm settle; mount ${{device}}p1 /mnt;"
        " ln -s /etc/passwd /mnt/absolute; ln -s ../../../etc/passwd /mnt/etc/relative;"
        " ln -s loop /mnt/loop; mkfifo /mnt/fifo; umount /mnt; losetup -d $device"
    )
    san.target(DAYS[0], [disk])
    vm.discover()
    vm.automount("--timeout=30 --negative-timeout=1")
    job.configure(vm, "timezone = UTC\nudev_timeout = 50s\n")
    for path in ("/absolute", "/etc/relative"):
        shown = vm.run(["auto-iscsi", "cat", f"vm-beta:{path}"], timeout=120).stdout
        assert shown == "inside\n"
    for path, why in (("/loop", "too many levels"), ("/fifo", "neither a file nor a directory")):
        refused = vm.run(["auto-iscsi", "cat", f"vm-beta:{path}"], check=False, timeout=120)
        assert refused.status == 1 and why in refused.stderr
