"""The wait for the end of a session, and what a target's name leads to."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from auto_iscsi.iscsi import sessions
from auto_iscsi.machine.host import Host
from tests.tree import kernel

TARGET = "iqn.2001-05.com.example:vm"
PATIENCE = 30.0  # seconds


def opened(root: Path) -> sessions.Session:
    sid = kernel.open_session(str(root), TARGET, "10.0.0.1", 3260, 1, "LOGGED_IN")
    session = sessions.read(Host(str(root)), sid)
    assert session
    return session


def test_the_wait_ends_when_the_folder_is_gone(tmp_path: Path) -> None:
    session = opened(tmp_path)
    closing = threading.Timer(0.1, kernel.close_session, (str(tmp_path), session.sid))
    closing.start()
    try:
        assert sessions.wait_until_gone(Host(str(tmp_path)), session, time.monotonic() + PATIENCE)
        assert not os.path.exists(tmp_path / session.path.lstrip("/"))
    finally:
        closing.join()


def test_a_session_without_its_connection_is_not_gone_yet(tmp_path: Path) -> None:
    # Its disks can still be there.
    session, host = opened(tmp_path), Host(str(tmp_path))
    os.unlink(tmp_path / f"{sessions.CONNECTIONS}/connection{session.sid}:0".lstrip("/"))
    assert sessions.read(host, session.sid) is None
    assert not sessions.wait_until_gone(host, session, time.monotonic() + 0.1)


def test_a_newer_session_of_the_same_number_is_another_one(tmp_path: Path) -> None:
    session, host = opened(tmp_path), Host(str(tmp_path))
    folder = tmp_path / session.path.lstrip("/")
    folder.rename(folder.with_name("kept"))  # or its inode could be used again
    os.mkdir(folder)
    assert sessions.wait_until_gone(host, session, time.monotonic())


#: A session with a disk, in a mount namespace of its own; udev's program is asked about the disk.
UDEV = r"""
mount -t tmpfs none /run
mount -t tmpfs none /sys/class
disk="/run/fake/session7/target7:0:0/7:0:0:0/block/sdq"
mkdir -p "$disk" /run/auto-iscsi/claims /run/elsewhere /sys/class/block
mkdir -p /sys/class/iscsi_session/session7
ln -s "$disk" /sys/class/block/sdq
printf '%s\n' "$2" >/sys/class/iscsi_session/session7/targetname
echo 'opened 7:1' >"/run/auto-iscsi/claims/$2"
exec "$1" sdq
"""


@pytest.mark.parametrize(("name", "status"), [("iqn.2001-05.com.x:y", 0), ("../../elsewhere/y", 1)])
def test_udev_looks_for_a_claim_among_the_claims_only(name: str, status: int) -> None:
    program = Path(__file__).parents[2] / "tools/udev-has-claim"
    command = ["unshare", "--mount", "sh", "-ec", UDEV, "sh", str(program), name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
