"""The wait for the end of a session."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

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
