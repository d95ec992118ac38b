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

    diff = ["auto-iscsi", "diff", "vm-beta@2010-05-03:/etc/passwd"]
    two = ["auto-iscsi", "diff", "vm-beta:/etc/passwd", "@2010-05-03", "@latest"]
    changed = vm.run(two, check=False, timeout=200)
    assert changed.status == 1 and changed.lines[-2:] == ["-old", "+newest"]
    assert vm.run([*diff, "@2010-05-04"], timeout=200).stdout == ""

    refused = vm.run(["auto-iscsi", "cat", "vm-beta@2010-05-02:/etc/passwd"], check=False)
    assert refused.status == 1 and "there are 2010-05-05 04:00:01" in refused.stderr
    gone = vm.run(["auto-iscsi", "cat", "vm-beta@2010-05-04:/etc/shadow"], check=False, timeout=120)
    assert gone.status == 1 and "/etc/shadow: no such file" in gone.stderr


def test_a_file_and_a_directory_are_restored_here_and_on_another_host(
    vm: Machine, san: San
) -> None:
    for target, text in zip(DAYS, ("old\n", "older\n", "newest\n")):
        san.target(target, [san.disk([san.fs("ext3", {"etc/passwd": text, "etc/deep/x": "x\n"})])])
    vm.discover()
    vm.automount("--timeout=30 --negative-timeout=1")
    job.configure(vm, "timezone = UTC\nudev_timeout = 50s\n")

    def restore(*arguments: str, check: bool = True) -> str:
        result = vm.run(["auto-iscsi", "restore", *arguments], check=check, timeout=200)
        assert check or result.status == 1
        return result.stdout + result.stderr

    monday = "vm-beta@2010-05-03:"
    vm.run("mkdir /root/there")
    assert "restored 1 file" in restore(f"{monday}/etc/passwd", "/root/there")
    assert vm.read("/root/there/passwd") == b"old\n"
    kept = restore("vm-beta:/etc/passwd", "/root/there", check=False)
    assert "not overwritten: passwd" in kept and vm.read("/root/there/passwd") == b"old\n"
    assert "would restore passwd" in restore(
        "vm-beta:/etc/passwd", "/root/there", "-n", "--overwrite"
    )
    assert vm.read("/root/there/passwd") == b"old\n"
    assert "before-restore" in restore("vm-beta:/etc/passwd", "/root/there", "--overwrite")
    assert vm.read("/root/there/passwd") == b"newest\n"
    assert vm.run("cat /root/there/passwd.before-restore-*").stdout == "old\n"
    # The other host is this one, through its sshd.
    vm.run(
        "mkdir -p /run/sshd /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519"
        " && cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys && /usr/sbin/sshd"
        " && ssh-keyscan 127.0.0.1 >/root/.ssh/known_hosts 2>/dev/null",
        timeout=100,
    )
    assert "restored 2 files" in restore(f"{monday}/etc", "127.0.0.1:/root/old-etc")
    assert vm.read("/root/old-etc/deep/x") == b"x\n"
    assert "no place" in restore(f"{monday}/etc", "127.0.0.1:", check=False)
    assert vm.sessions() == []


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
