"""The identity of a disk: what makes it another volume, and what is remembered of it."""

from __future__ import annotations

from pathlib import Path

from auto_iscsi.disks import identity
from auto_iscsi.disks.identity import Examination, Remembered
from auto_iscsi.machine.host import Host
from tests.tree.tree import contents, make_tree

TARGET = "iqn.2001-05.com.example:vm-beta"
OLD, NEW = b"\1\3\0\2aa", b"\1\3\0\2bb"
FIRST = Remembered(OLD.hex())


def test_a_disk_is_the_same_as_long_as_nothing_contradicts() -> None:
    assert Examination("", None, None, Remembered()).is_same  # no identity, or no answer
    assert Examination("d", OLD, OLD, Remembered()).is_same
    assert Examination("d", OLD, OLD, FIRST).is_same


def test_a_disk_is_another_volume_than_the_kernel_found_or_than_it_was_at_first() -> None:
    assert not Examination("d", NEW, OLD, Remembered()).is_same
    assert not Examination("d", NEW, NEW, FIRST).is_same  # the kernel was made to look again


def test_without_an_answer_a_disk_is_not_confirmed() -> None:
    assert not Examination("d", None, OLD, FIRST).is_confirmed
    assert not Examination("d", NEW, OLD, FIRST).is_confirmed
    assert Examination("d", OLD, OLD, FIRST).is_confirmed


def test_the_first_identity_is_remembered_and_never_replaced(tmp_path: Path) -> None:
    make_tree(tmp_path, {"/run": None})
    host = Host(str(tmp_path))
    identity.write(host, TARGET, {"other": Remembered(set_read_only=True)})
    identity.remember(host, TARGET, Examination("d", OLD, OLD, Remembered()))
    expected = {"other": Remembered(set_read_only=True), "d": FIRST}
    assert identity.read(host, TARGET) == expected
    for answer, kernels in ((NEW, OLD), (NEW, NEW), (None, OLD)):
        identity.remember(host, TARGET, Examination("d", answer, kernels, FIRST))
    assert identity.read(host, TARGET) == expected


def test_a_disk_without_an_identity_is_the_same_and_leaves_no_trace(tmp_path: Path) -> None:
    disk = "/sys/class/iscsi_session/session1/device/target3:0:0/3:0:0:0/block/sdb"
    make_tree(tmp_path, {f"{disk}/dev": "8:16", "/run": None})
    before = contents(tmp_path)
    assert identity.examine(Host(str(tmp_path)), TARGET, disk).is_same
    assert not identity.is_lost(Host(str(tmp_path)), TARGET, disk)
    assert contents(tmp_path) == before
