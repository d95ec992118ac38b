"""The test bed itself: its SAN, initiator and automount behave like real ones."""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import CommandFailed, Machine
from tests.san.bed.san import San
from tests.san.shared import Shared

IQN = "iqn.2001-05.com.equallogic:0-8a0906-a8b1-vm-beta-2010-05-03-04:00:01.50612"


def test_commands_report_what_they_do_and_end_in_time(bare: Machine) -> None:
    result = bare.run("echo out; echo err >&2; exit 3", check=False)
    assert (result.status, result.stdout, result.stderr) == (3, "out\n", "err\n")
    with pytest.raises(CommandFailed, match="status 1"):
        bare.run("false")
    assert bare.run("cat", stdin=b"\0\xff").raw == b"\0\xff"
    assert len(bare.run("head -c 20000000 /dev/zero").raw) == 20_000_000
    assert bare.run("id -un", user="user").stdout == "user\n"
    # Commands run side by side. One that takes too long is killed, with its children.
    slow = bare.start("echo begun; sleep 300 & sleep 300", timeout=2)
    assert bare.run("echo meanwhile").stdout == "meanwhile\n"
    with pytest.raises(CommandFailed, match=r"not done after 2 s\nbegun"):
        slow.wait()
    assert bare.run("pgrep sleep", check=False).status == 1
    # A command is over when it ends, whatever daemon it leaves behind.
    assert bare.run("sleep 600 & echo done", timeout=60).stdout == "done\n"


def test_the_initiator_never_ran_and_is_reset_to_that_state(bare: Machine, san: San) -> None:
    assert bare.run("systemctl is-active iscsid", check=False).stdout == "inactive\n"
    assert "iscsi_tcp" not in bare.run("cat /proc/modules").stdout
    san.target(IQN)
    bare.discover()
    assert bare.run("systemctl is-active iscsid", check=False).stdout == "active\n"
    bare.cold()
    assert bare.run("systemctl is-active iscsid", check=False).stdout == "inactive\n"
    assert "iscsi_tcp" not in bare.run("cat /proc/modules").stdout
    bare.run(["iscsiadm", "-m", "node", "-T", IQN, "--login"])
    assert bare.sessions(IQN)[0].state == "LOGGED_IN"


def test_partitions_appear_with_their_filesystems(bare: Machine, san: San) -> None:
    parts = [
        san.fs("ext3", {"first": "1"}),
        san.fs("ext4", {"d/second": "2"}, label="two"),
        san.fs("xfs", {"third": "3"}),
        san.fs("btrfs", {"e/f/fourth": "4"}),
    ]
    san.target(IQN, {5: san.disk(parts, table="dos"), 6: san.disk(parts, table="gpt")})
    bare.discover()
    bare.run(["iscsiadm", "-m", "node", "-T", IQN, "--login"])
    bare.run("udevadm settle")
    (session,) = bare.sessions(IQN)
    assert (session.state, session.address, session.port) == ("LOGGED_IN", "127.0.0.1", 3260)
    for lun, table in ((5, "dos"), (6, "gpt")):
        disk = session.disks[lun]
        assert bare.run(f"lsblk -dnro PTTYPE /dev/{disk}").stdout == f"{table}\n"
        seen = bare.run(f"lsblk -nro FSTYPE,LABEL /dev/{disk}").stdout.split("\n")
        assert [line.split() for line in seen if line.strip()] == [
            ["ext3"],
            ["ext4", "two"],
            ["xfs"],
            ["btrfs"],
        ], table
        for number, file in enumerate(["first", "d/second", "third", "e/f/fourth"], 1):
            bare.run(f"mount -o ro /dev/{disk}{number} /mnt")
            assert bare.read(f"/mnt/{file}") == str(number).encode(), table
            bare.run("umount /mnt")
    assert san.sessions() == {IQN: 1}
    bare.run(f"sgdisk --verify /dev/{session.disks[6]} | grep 'No problems found'")


def test_the_original_mounts_a_snapshot_on_the_first_visit(bare: Machine, san: San) -> None:
    san.target(IQN, [san.disk([san.fs("ext3", {"etc/really_important_file": "text\n"})])])
    bare.discover()
    job.original(bare, "/etc/auto.iscsi")
    bare.automount("--timeout=60")
    seen = bare.run(["cat", f"/iscsiauto/{IQN}/etc/really_important_file"], user="user")
    assert seen.stdout == "text\n"
    (mount,) = bare.mounts(f"/iscsiauto/{IQN}")
    (session,) = bare.sessions(IQN)
    assert (mount.source, mount.fstype) == (f"/dev/{session.disks[0]}1", "ext3")
    assert "ro" in mount.options.split(",")


def login_once(bare: Machine) -> int:
    """Try to log in once, without retries; return iscsiadm's exit status."""
    for name, value in {
        "node.session.initial_login_retry_max": 1,
        "node.conn[0].timeo.login_timeout": 3,
    }.items():
        bare.run(
            ["iscsiadm", "-m", "node", "-T", IQN, "-o", "update", "-n", name, "-v", str(value)]
        )
    return bare.run(["iscsiadm", "-m", "node", "-T", IQN, "--login"], check=False).status


def test_logins_are_refused_with_a_status_until_the_secret_is_right(
    bare: Machine, san: San
) -> None:
    for host, answer, status in (("127.0.0.8", (2, 1), 24), ("127.0.0.9", (2, 3), 19)):
        portal = san.refusing(host, *answer, targets=[IQN])
        assert bare.discover(host) == f"{host}:3260,1 {IQN}\n"
        login = bare.run(["iscsiadm", "-m", "node", "-T", IQN, "--login"], check=False)
        assert login.status == status, (answer, login.stderr)
        assert portal.logins >= 1, answer
        assert bare.sessions() == [], answer
        bare.run(["iscsiadm", "-m", "node", "-T", IQN, "-o", "delete"])
    san.target(IQN, chap=("browse", "a-long-secret"), read_only=True)
    bare.discover()
    assert login_once(bare) == 24
    for name, value in {
        "authmethod": "CHAP",
        "username": "browse",
        "password": "a-long-secret",
    }.items():
        bare.run(
            [
                "iscsiadm",
                "-m",
                "node",
                "-T",
                IQN,
                "-o",
                "update",
                "-n",
                f"node.session.auth.{name}",
                "-v",
                value,
            ]
        )
    assert login_once(bare) == 0
    bare.run("udevadm settle")
    assert bare.run(f"blockdev --getro /dev/{bare.sessions()[0].disks[0]}").stdout == "1\n"


def test_what_is_cut_off_or_revoked_comes_back(bare: Machine, san: San) -> None:
    target = san.target(IQN, portals=["127.0.0.2", "[::1]:3261"])
    bare.discover("127.0.0.2")
    bare.run(["iscsiadm", "-m", "node", "-T", IQN, "-p", "[::1]:3261", "-o", "delete"])
    for way in (san.block, san.reject):
        way("127.0.0.2")
        assert login_once(bare) == 8, way.__name__
        san.unblock("127.0.0.2")
        assert login_once(bare) == 0, way.__name__
        if way == san.block:
            job.logout(bare, IQN)
    target.revoke()
    assert job.until(lambda: bare.sessions(IQN)[0].state == "FAILED", 10)
    assert target.sessions == 0
    target.delete()
    target.recreate()
    assert job.until(lambda: bare.sessions(IQN)[0].state == "LOGGED_IN", 20)
    assert target.sessions == 1


#: Prints what the next test would see of the last one: files, targets, units and rules.
STATE = r"""
find /run/auto-iscsi /var/lib/auto-iscsi /var/lib/iscsi /etc/iscsi /etc/auto.* /run/san/* \
    -printf '%p %m %U %s %l\n' 2>/dev/null | grep -v ' /run/auto-iscsi/.*lock' | sort
ls -d /sys/class/iscsi_session/* /sys/block/sd* /dev/disk/by-path/*iscsi* 2>/dev/null
ls -d /sys/kernel/config/target/iscsi/* /sys/kernel/config/target/core/*/disk* 2>/dev/null
cat /sys/kernel/config/target/iscsi/discovery_auth/enforce_discovery_auth
systemctl is-active autofs auto-iscsi.timer
nft list table inet bed 2>/dev/null | grep saddr
grep -E ' /(iscsiauto|snapshots)' /proc/mounts | sed 's/,fd=.*//'
ss -Hltn | sort
"""


def state(vm: Machine) -> set[str]:
    """Return the lines of STATE."""
    return set(vm.run(STATE, check=False).lines)


@pytest.mark.shared
def test_a_shared_machine_is_cleared_or_discarded(vm: Machine, san: San, shared: Shared) -> None:
    before = state(vm)
    san.target(job.BETA)
    san.target(job.ALPHA, portals=["127.0.0.2"])
    vm.discover()
    vm.automount()
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    san.discovery_chap(("browse", "a-long-secret"))
    san.block("127.0.0.2")
    san.refusing("127.0.0.3", 2, 3, targets=[f"{job.ALPHA}-refused"])
    job.configure(vm, "portals = 127.0.0.3\nidle = 0\n")
    job.refusal(vm, f"{job.ALPHA}-refused")
    assert state(vm) != before
    assert shared.take("the next test") is san and san.machine is vm
    assert state(vm) ^ before == set()
    assert job.messages(vm) == [] and san.targets == {}
    # A machine that is not clear, for something is mounted that was not.
    vm.run("mount -t tmpfs none /mnt")
    assert shared.take("another test").machine is not vm
