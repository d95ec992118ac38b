"""Deleting a disk from the kernel: what is written where, and for how long a lookup waits."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.disks import identity
from auto_iscsi.machine.host import Host

TARGET = "iqn.2001-05.com.example:a"
DEVICE = "/sys/class/iscsi_session/session1/device/target2:0:0/2:0:0:0"


def make(root: Path) -> Path:
    """Make a disk sdb; return the path of its `delete` attribute in sysfs."""
    (root / "dev").mkdir()
    delete = root / DEVICE.lstrip("/") / "delete"
    delete.parent.mkdir(parents=True)
    delete.write_text("")
    return delete


def test_a_disk_that_can_be_opened_is_deleted(tmp_path: Path) -> None:
    delete = make(tmp_path)
    (tmp_path / "dev/sdb").write_text("")
    host = Host(str(tmp_path))
    identity.delete_disk(host, TARGET, f"{DEVICE}/block/sdb", time.monotonic() + 5)
    assert delete.read_text() == "1"


def test_a_disk_whose_open_hangs_delays_nobody_beyond_the_deadline(tmp_path: Path) -> None:
    delete = make(tmp_path)
    os.mkfifo(tmp_path / "dev/sdb")  # nobody writes to it: open(2) does not return
    with pytest.raises(errors.NoAnswer, match="the disk does not answer"):
        identity.delete_disk(
            Host(str(tmp_path)), TARGET, f"{DEVICE}/block/sdb", time.monotonic() + 0.5
        )
    assert delete.read_text() == ""


def test_a_disk_that_the_kernel_does_not_delete_is_reported(tmp_path: Path) -> None:
    make(tmp_path).unlink()
    with pytest.raises(
        errors.WrongDisk, match="another volume than it was: No such file"
    ) as raised:
        identity.delete_disk(
            Host(str(tmp_path)), TARGET, f"{DEVICE}/block/sdb", time.monotonic() + 5
        )
    assert "--logout" in raised.value.hint
