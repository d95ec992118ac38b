"""Members of a stranger's md arrays: which one is shown, and what is said of the others?"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.config import schema
from auto_iscsi.disks.scsi_disks import Device
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import md_arrays, mountable
from tests.tree.tree import make_tree
from tests.unit.md_members import SECTORS, member, superblock

TARGET = "iqn.2001-05.com.example:server"
#: How the member that is chosen is named: its disk is nobody's here, so it is not mapped.
CHOSEN = "is not mapped: somebody else logged its disk in"


def notes(root: Path, *blocks: bytes, sectors: int = SECTORS) -> list[str]:
    """Expand a member with each of these superblocks, /lun0 and on, beside a filesystem."""
    filesystems = []
    for index, block in enumerate(blocks):
        node, number = f"sd{'bcd'[index]}", f"8:{16 * (index + 1)}"
        make_tree(root, {f"/sys/dev/block/{number}/size": f"{sectors}\n", "/dev/x": ""})
        (root / "dev" / node).write_bytes(member("1.2", block))
        device = Device(node, "", number, f"/sys/block/{node}")
        filesystems.append(
            mountable.Filesystem(f"/lun{index}", device, mountable.MD_MEMBER, ("ro",))
        )
    other = mountable.Filesystem("/lun9", Device("sdz", "", "8:9"), "ext4", ("ro",))
    settings = schema.resolve([], TARGET)._replace(fstype="auto", partition="all")
    layout = mountable.Mountable((*filesystems, other))
    result = md_arrays.expand(
        Host(str(root)), TARGET, layout, settings, time.monotonic() + 30, False
    )
    assert result.filesystems == (other,)
    return list(result.notes)


def test_one_member_is_enough(tmp_path: Path) -> None:
    assert notes(tmp_path, superblock(number=1)) == [f"lun0 is left out: sdb {CHOSEN}"]


def test_of_equal_members_the_first_in_the_array_is_shown(tmp_path: Path) -> None:
    assert notes(tmp_path, superblock(number=1), superblock()) == [
        "lun0 is the same md array as lun1, and is not shown twice",
        f"lun1 is left out: sdc {CHOSEN}",
    ]


def test_the_newest_member_is_shown_and_the_older_one_named(tmp_path: Path) -> None:
    newer = superblock(number=1, events=25, roles=(0xFFFE, 1))
    assert notes(tmp_path, superblock(), newer) == [
        "lun0 is left out: it is an older copy of the md array lun1 (event count 20, not 25)",
        f"lun1 is left out: sdc {CHOSEN}",
    ]


def test_an_old_member_is_not_shown_beside_one_that_is_being_rebuilt(tmp_path: Path) -> None:
    rebuilt = superblock(number=1, events=25, features=2)
    assert notes(tmp_path, superblock(), rebuilt) == [
        "lun1 is left out: sdc was being rebuilt",
        "lun0 is left out: sdb was removed from its md array before the snapshot was taken: its "
        "event count is 20, and that of another disk 25",
    ]
    # md counts once more between its members: that is no difference.
    rebuilt = superblock(number=1, events=21, features=2)
    assert notes(tmp_path, superblock(), rebuilt)[1] == f"lun0 is left out: sdb {CHOSEN}"


def test_members_that_do_not_agree_are_not_shown(tmp_path: Path) -> None:
    one, other = superblock(roles=(0, 0xFFFE)), superblock(number=1, roles=(0xFFFE, 1))
    (note,) = notes(tmp_path, one, other)
    assert "lun0 and lun1 disagree on the disks of their md array" in note


def test_two_copies_of_one_member_are_not_shown(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, superblock(), superblock(events=25))
    assert "lun0 and lun1 are the same disk of one md array" in note


def test_two_arrays_are_two(tmp_path: Path) -> None:
    lines = notes(tmp_path, superblock(), superblock(array=b"another array's "))
    assert lines == [f"lun0 is left out: sdb {CHOSEN}", f"lun1 is left out: sdc {CHOSEN}"]


def test_another_level_is_named(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, superblock(level=5))
    assert note.startswith("lun0 is left out: sdb is a member of a raid5 array")


def test_a_disk_that_is_smaller_than_its_superblock_says_is_refused(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, superblock(), sectors=1000)
    assert (
        note == "lun0 is left out: sdb is a member of an md array: its data lie outside the device"
    )


def test_the_refusal_is_the_members_when_nothing_else_is_there(tmp_path: Path) -> None:
    make_tree(tmp_path, {"/sys/dev/block/8:16/size": f"{SECTORS}\n", "/dev/x": ""})
    (tmp_path / "dev/sdb").write_bytes(member("1.2", superblock(level=6)))
    device = Device("sdb", "", "8:16", "/sys/block/sdb")
    layout = mountable.Mountable((mountable.Filesystem("", device, mountable.MD_MEMBER, ()),))
    settings = schema.resolve([], TARGET)._replace(fstype="auto", partition="auto")
    with pytest.raises(errors.NotMountable) as refused:
        md_arrays.expand(Host(str(tmp_path)), TARGET, layout, settings, time.monotonic() + 9, True)
    assert "sdb is a member of a raid6 array" in refused.value.reason
    assert "mdadm --assemble" in refused.value.hint
