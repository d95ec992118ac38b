"""The test bed itself: its SAN, initiator and automount behave like real ones."""

from __future__ import annotations

import time

import pytest

from tests.san import job
from tests.san.bed.machine import CommandFailed, Machine
from tests.san.bed.san import San

IQN = "iqn.2001-05.com.equallogic:0-8a0906-a8b1-vm-beta-2010-05-03-04:00:01.50612"


def test_a_state_is_resumed_before_the_initiator_ever_ran(bare: Machine) -> None:
    assert bare.run("systemctl is-active iscsid", check=False).stdout == "inactive\n"
    assert "iscsi_tcp" not in bare.run("cat /proc/modules").stdout
    assert bare.run("id -un", user="user").stdout == "user\n"


def test_commands_report_status_and_streams_apart(bare: Machine) -> None:
    result = bare.run("echo out; echo err >&2; exit 3", check=False)
    assert (result.status, result.stdout, result.stderr) == (3, "out\n", "err\n")
    with pytest.raises(CommandFailed, match="status 1"):
        bare.run("false")
    assert bare.run("cat", stdin=b"\0\xff").raw == b"\0\xff"
    assert len(bare.run("head -c 20000000 /dev/zero").raw) == 20_000_000


def test_commands_run_side_by_side_and_are_killed_in_time(bare: Machine) -> None:
    slow = bare.start("echo begun; sleep 300 & sleep 300", timeout=2)
    assert bare.run("echo meanwhile").stdout == "meanwhile\n"
    with pytest.raises(CommandFailed, match=r"not done after 2 s\nbegun"):
        slow.wait()
    assert bare.run("pgrep sleep", check=False).status == 1


def test_a_command_does_not_wait_for_a_daemon_that_it_leaves_behind(bare: Machine) -> None:
    assert bare.run("sleep 600 & echo done", timeout=60).stdout == "done\n"


def test_the_initiator_is_reset_to_its_state_before_its_first_use(bare: Machine, san: San) -> None:
    san.target(IQN)
    bare.discover()
    assert bare.run("systemctl is-active iscsid", check=False).stdout == "active\n"
    bare.cold()
    assert bare.run("systemctl is-active iscsid", check=False).stdout == "inactive\n"
    assert "iscsi_tcp" not in bare.run("cat /proc/modules").stdout
    bare.run(["iscsiadm", "-m", "node", "-T", IQN, "--login"])
    assert bare.sessions(IQN)[0].state == "LOGGED_IN"


@pytest.mark.parametrize("table", ["dos", "gpt"])
def test_partitions_appear_with_their_filesystems(bare: Machine, san: San, table: str) -> None:
    parts = [
        san.fs("ext3", {"first": "1"}),
        san.fs("ext4", {"d/second": "2"}, label="two"),
        san.fs("xfs", {"third": "3"}),
        san.fs("btrfs", {"e/f/fourth": "4"}),
    ]
    san.target(IQN, {5: san.disk(parts, table=table)})
    bare.discover()
    bare.run(["iscsiadm", "-m", "node", "-T", IQN, "--login"])
    bare.run("udevadm settle")
    (session,) = bare.sessions(IQN)
    assert (session.state, session.address, session.port) == ("LOGGED_IN", "127.0.0.1", 3260)
    disk = session.disks[5]
    seen = bare.run(f"lsblk -nro FSTYPE,LABEL /dev/{disk}").stdout.split("\n")
    assert [line.split() for line in seen if line.strip()] == [
        ["ext3"],
        ["ext4", "two"],
        ["xfs"],
        ["btrfs"],
    ]
    for number, file in enumerate(["first", "d/second", "third", "e/f/fourth"], 1):
        bare.run(f"mount -o ro /dev/{disk}{number} /mnt")
        assert bare.read(f"/mnt/{file}") == str(number).encode()
        bare.run("umount /mnt")
    assert san.sessions() == {IQN: 1}
    if table == "gpt":
        bare.run(f"sgdisk --verify /dev/{disk} | grep 'No problems found'")


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


@pytest.mark.parametrize(("answer", "status"), [((2, 1), 24), ((2, 3), 19)])
def test_a_portal_refuses_with_a_status(
    bare: Machine, san: San, answer: tuple[int, int], status: int
) -> None:
    portal = san.refusing("127.0.0.9", *answer, targets=[IQN])
    assert bare.discover("127.0.0.9") == f"127.0.0.9:3260,1 {IQN}\n"
    login = bare.run(["iscsiadm", "-m", "node", "-T", IQN, "--login"], check=False)
    assert login.status == status, login.stderr
    assert portal.logins >= 1
    assert bare.sessions() == []


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


@pytest.mark.parametrize("way", ["block", "reject"])
def test_a_portal_is_cut_off_and_comes_back(bare: Machine, san: San, way: str) -> None:
    san.target(IQN, portals=["127.0.0.2", "[::1]:3261"])
    bare.discover("127.0.0.2")
    bare.run(["iscsiadm", "-m", "node", "-T", IQN, "-p", "[::1]:3261", "-o", "delete"])
    getattr(san, way)("127.0.0.2")
    assert login_once(bare) == 8
    san.unblock("127.0.0.2")
    assert login_once(bare) == 0


def test_a_snapshot_is_revoked_and_presented_again(bare: Machine, san: San) -> None:
    target = san.target(IQN)
    bare.discover()
    assert login_once(bare) == 0
    target.revoke()
    for _ in range(50):
        if bare.sessions(IQN)[0].state == "FAILED":
            break
        time.sleep(0.2)
    assert bare.sessions(IQN)[0].state == "FAILED"
    assert target.sessions == 0
    target.delete()
    target.recreate()
    for _ in range(100):
        if bare.sessions(IQN)[0].state == "LOGGED_IN":
            break
        time.sleep(0.2)
    assert target.sessions == 1


def test_with_chap_only_an_initiator_with_the_secret_is_admitted(bare: Machine, san: San) -> None:
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
