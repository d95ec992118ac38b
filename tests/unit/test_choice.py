"""Which filesystem is meant: by what udev's database says, read as files below a directory."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from auto_iscsi import errors
from auto_iscsi.admin import explain, output
from auto_iscsi.config import config_files
from auto_iscsi.config import schema as table
from auto_iscsi.disks import udev_db
from auto_iscsi.iscsi import sessions
from auto_iscsi.machine.host import Host
from auto_iscsi.map import available, lookup
from auto_iscsi.volumes import selection
from tests.tree.tree import Content, Link, make_tree
from tests.tree.tree import contents as files_below

from .test_superblock import ext

TARGET = "iqn.2001-05.com.example:vm-beta"
SESSION = "/sys/class/iscsi_session/session7"
AUTO = "fstype = auto\npartition = auto\noptions = nocheck, ro\ndevice = kernel\n"
EFI = "c12a7328-f81f-11d2-ba4b-00c04fc93ec9"


class On(NamedTuple):
    """What is on a device, as udev has it."""

    fstype: str = ""
    usage: str = "filesystem"
    label: str = ""
    kind: str = "0fc63daf-8483-4772-8e79-3d69d8477de4"


EXT4, XFS, ESP = On("ext4", label="root"), On("xfs", label="data"), On("vfat", kind=EFI)
SWAP, LVM, EMPTY = On("swap", "other"), On("LVM2_member", "raid"), On()


def machine(luns: dict[int, list[On]], sequence: bool = True) -> dict[str, Content]:
    """Return a host whose session has these disks: what is on each, and on its partitions."""
    files: dict[str, Content] = {
        f"{SESSION}/targetname": TARGET,
        f"{SESSION}/state": "LOGGED_IN",
        f"{SESSION}/tpgt": "1",
        "/sys/class/iscsi_connection/connection7:0/persistent_address": "10.0.0.1",
        "/sys/class/iscsi_connection/connection7:0/persistent_port": "3260",
        "/run": None,
    }
    for index, (lun, there) in enumerate(luns.items()):
        name, unit = f"sd{'bcdefgh'[index]}", f"{SESSION}/device/target3:0:0/3:0:0:{lun}"
        disk = f"{unit}/block/{name}"
        files |= {f"{unit}/type": "0", f"{disk}/diskseq": f"{40 + index}", f"{disk}/ro": "1"}
        for part, on in enumerate(there):
            node, path = (f"{name}{part}", f"{disk}/{name}{part}") if part else (name, disk)
            link = f"disk/by-path/ip-10.0.0.1:3260-iscsi-{TARGET}-lun-{lun}"
            link += f"-part{part}" if part else ""
            number = f"8:{16 * (index + 1) + part}"
            known = [f"S:{link}"]
            if sequence and not part:
                known.append(f"S:disk/by-diskseq/{40 + index}")
            if on.fstype:
                known += [
                    f"E:ID_FS_TYPE={on.fstype}",
                    f"E:ID_FS_USAGE={on.usage}",
                    f"E:ID_FS_LABEL_ENC={on.label}",
                ]
            if part:
                known.append(f"E:ID_PART_ENTRY_TYPE={on.kind}")
                files[f"{path}/partition"] = f"{part}"
            elif len(there) > 1:
                known.append("E:ID_PART_TABLE_TYPE=gpt")
            files |= {
                f"{path}/dev": number,
                f"{path}/size": "16384",
                f"/run/udev/data/b{number}": "\n".join(known),
                f"/dev/{link}": Link(f"../../{node}"),
                f"/dev/{node}": "",
            }
    return files


def entry(root: Path, there: dict[int, list[On]], text: str = AUTO, **more: Content) -> str:
    """Return the entry that a lookup prints; `explain` has to know it before."""
    make_tree(root, {**machine(there), config_files.FILE: text, **more})
    told = explain.report(Host(str(root)), TARGET, output.Paint(False))
    said = lookup.lookup(Host(str(root)), TARGET)
    assert told.data["entry"] == said
    return said


def refusal(root: Path, there: dict[int, list[On]], text: str = AUTO) -> errors.Failure:
    make_tree(root, {**machine(there), config_files.FILE: text})
    before = files_below(root)
    told = explain.report(Host(str(root)), TARGET, output.Paint(False))
    assert files_below(root) == before
    with pytest.raises(errors.Failure) as refused:
        lookup.lookup(Host(str(root)), TARGET)
    assert told.data["refused"]["reason"] == refused.value.reason
    failure: errors.Failure = refused.value
    return failure


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ([EXT4], "-nocheck,ro,fstype=ext4 :/dev/sdb"),
        ([XFS], "-ro,nouuid,fstype=xfs :/dev/sdb"),
        ([EMPTY, EXT4], "-nocheck,ro,fstype=ext4 :/dev/sdb1"),
        ([EMPTY, ESP, XFS], "-ro,nouuid,fstype=xfs :/dev/sdb2"),
        ([EMPTY, ESP], "-ro,fstype=vfat :/dev/sdb1"),
        ([EMPTY, SWAP, EXT4], "-nocheck,ro,fstype=ext4 :/dev/sdb2"),
        ([On("iso9660"), EMPTY, ESP], "-ro,fstype=iso9660 :/dev/sdb"),
        ([On("ntfs")], "-ro,fstype=ntfs3 :/dev/sdb"),
    ],
    ids=[
        "disk",
        "xfs-disk",
        "partition",
        "beside-efi",
        "efi-alone",
        "beside-swap",
        "hybrid",
        "ntfs",
    ],
)
def test_the_one_that_is_meant(tmp_path: Path, there: list[On], said: str) -> None:
    assert entry(tmp_path, {0: there}) == said


def test_two_are_listed_in_the_refusal(tmp_path: Path) -> None:
    refused = refusal(tmp_path, {0: [EMPTY, ESP, EXT4, XFS]})
    assert refused.code == "ambiguous"
    listed = "1: 8 MiB vfat (EFI system partition), 2: 8 MiB ext4 'root', 3: 8 MiB xfs 'data'"
    assert refused.reason == (f"{TARGET}: LUN 0 (sdb) has more than one filesystem: {listed}")
    told = explain.report(Host(str(tmp_path)), TARGET, output.Paint(False))
    assert [s["says"] for s in told.data["steps"] if s["step"] == "contents"] == listed.split(", ")


@pytest.mark.parametrize("fstype", selection.FOREIGN)
@pytest.mark.parametrize("partition", ["auto", "1"])
def test_what_is_no_filesystem_is_named_with_what_would_be_needed(
    tmp_path: Path, fstype: str, partition: str
) -> None:
    usage = "filesystem" if fstype == "zfs_member" else "raid"  # libblkid has it so
    text = AUTO.replace("partition = auto", f"partition = {partition}")
    refused = refusal(tmp_path, {0: [EMPTY, On(fstype, usage)]}, text)
    assert refused.code == "not-mountable"
    what, needed = selection.FOREIGN[fstype]
    assert what in refused.reason and needed in refused.hint and "partition 1" in refused.reason


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ([EMPTY], "LUN 0 (sdb) has no filesystem: disk: 8 MiB nothing known"),
        ([EMPTY, EMPTY, EMPTY], "no filesystem: 1: 8 MiB nothing known, 2: 8 MiB nothing known"),
        ([EMPTY, SWAP, LVM], "no filesystem: 1: 8 MiB swap, 2: 8 MiB LVM2_member"),
    ],
)
def test_nothing_to_mount(tmp_path: Path, there: list[On], why: str) -> None:
    assert why in refusal(tmp_path, {0: there}).reason


def test_all_are_places_below_the_key_and_what_is_refused_is_left_out(tmp_path: Path) -> None:
    text = AUTO.replace("partition = auto", "partition = all\nlun = all")
    luns = {0: [EMPTY, ESP, EXT4, LVM, EMPTY], 3: [XFS], 5: [SWAP]}
    assert entry(tmp_path, luns, text) == (
        "/lun0/p1 -ro,fstype=vfat :/dev/sdb1 /lun0/p2 -nocheck,ro,fstype=ext4 :/dev/sdb2 "
        "/lun3 -ro,nouuid,fstype=xfs :/dev/sdc"
    )
    notes: list[str] = []
    lookup.lookup(Host(str(tmp_path)), TARGET, notes.append)
    (line,) = notes
    assert line.startswith(f"{TARGET}: lun0/p3 is left out: LUN 0 (sdb) partition 3 is an LVM ")
    assert "; lun5 is left out: LUN 5 (sdd) is swap space" in line and line.count(TARGET) == 1


def test_all_of_one_lun_and_one_partition_of_all_luns(tmp_path: Path) -> None:
    text = AUTO.replace("partition = auto", "partition = all")
    assert entry(tmp_path / "1", {0: [EMPTY, EXT4]}, text).startswith("/p1 -nocheck,ro")
    assert entry(tmp_path / "2", {0: [EXT4]}, text).startswith("-nocheck,ro,fstype=ext4 :/dev/sdb")
    text = AUTO.replace("partition = auto", "partition = 2\nlun = all")
    said = entry(tmp_path / "3", {0: [EMPTY, ESP, EXT4], 1: [EMPTY, ESP, XFS]}, text)
    assert said == (
        "/lun0 -nocheck,ro,fstype=ext4 :/dev/sdb2 /lun1 -ro,nouuid,fstype=xfs :/dev/sdc2"
    )


def test_when_all_are_refused_the_key_is(tmp_path: Path) -> None:
    text = AUTO.replace("partition = auto", "partition = all")
    assert "LVM" in refusal(tmp_path, {0: [EMPTY, SWAP, LVM]}, text).reason


def test_with_links_the_whole_location_is_quoted(tmp_path: Path) -> None:
    text = AUTO.replace("device = kernel\n", "").replace("partition = auto", "partition = all")
    link = f"/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-{TARGET}-lun-0-part"
    assert entry(tmp_path, {0: [EMPTY, EXT4, XFS]}, text) == (
        f'/p1 -nocheck,ro,fstype=ext4 ":{link}1" /p2 -ro,nouuid,fstype=xfs ":{link}2"'
    )


@pytest.mark.parametrize(
    ("fstype", "said"),
    [
        ("ext4", "-nocheck,ro,fstype=ext4 :/dev/sdb2"),
        ("ext3", "-nocheck,ro,fstype=ext3 :/dev/sdb2"),
        ("vfat", "-nocheck,ro,fstype=vfat :/dev/sdb1"),
    ],
)
def test_a_type_that_is_given_says_which_is_meant_and_keeps_its_options(
    tmp_path: Path, fstype: str, said: str
) -> None:
    text = AUTO.replace("fstype = auto", f"fstype = {fstype}")
    assert entry(tmp_path, {0: [EMPTY, ESP, EXT4, XFS]}, text) == said


@pytest.mark.parametrize(
    "late",
    [
        {"/run/udev/data/b8:16": "E:ID_PART_TABLE_TYPE=gpt"},
        {"/run/udev/data/b8:17": "E:ID_FS_TYPE=ext4"},
        {f"{SESSION}/device/target3:0:0/3:0:0:0/block/sdb/diskseq": "99"},
    ],
    ids=["disk", "partition", "another-disk's"],
)
def test_nothing_is_chosen_before_udev_is_through(tmp_path: Path, late: dict[str, Content]) -> None:
    make_tree(tmp_path, {**machine({0: [EMPTY, EXT4]}), config_files.FILE: AUTO, **late})
    host = Host(str(tmp_path))
    wanted = table.resolve(config_files.load(host), TARGET)
    assert available.find(host, sessions.find_all(host, TARGET), wanted) is None


def test_without_sequence_numbers_udevs_queue_says_when_it_is_through(tmp_path: Path) -> None:
    make_tree(
        tmp_path,
        {**machine({0: [EXT4]}, sequence=False), config_files.FILE: AUTO, "/run/udev/queue": ""},
    )
    host = Host(str(tmp_path))
    wanted = table.resolve(config_files.load(host), TARGET)
    assert available.find(host, sessions.find_all(host, TARGET), wanted) is None
    (tmp_path / "run/udev/queue").unlink()
    assert available.find(host, sessions.find_all(host, TARGET), wanted) is not None


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("refuse", None),
        ("auto", None),
        ("skip", "-nocheck,ro,noload,fstype=ext4 :/dev/sdb"),
        ("replay", None),
    ],
)
def test_a_dirty_journal_on_a_disk_that_cannot_be_written(
    tmp_path: Path, rule: str, said: str | None
) -> None:
    text = f"{AUTO}journal = {rule}\n"
    make_tree(tmp_path, {**machine({0: [EXT4]}), config_files.FILE: text})
    (tmp_path / "dev/sdb").write_bytes(ext(0x4))
    host, notes = Host(str(tmp_path)), list[str]()
    told = explain.report(host, TARGET, output.Paint(False))
    on_it = [step["says"] for step in told.data["steps"] if step["step"] == "contents"]
    assert on_it == ["disk: 8 MiB ext4 'root', journal dirty"]
    if said:
        assert lookup.lookup(host, TARGET, notes.append) == said == told.data["entry"]
        assert notes == [
            f"{TARGET}: sdb is mounted without its journal: the newest files can be missing"
        ]
    else:
        with pytest.raises(errors.DirtyJournal) as refused:
            lookup.lookup(host, TARGET)
        assert told.data["refused"]["code"] == "dirty-journal"
        word = "cannot be replayed" if rule == "replay" else "journal = replay shows all"
        assert word in refused.value.reason


def test_a_disk_that_cannot_be_made_read_only_is_not_mounted(tmp_path: Path) -> None:
    disk = f"{SESSION}/device/target3:0:0/3:0:0:0/block/sdb"
    make_tree(tmp_path, {**machine({0: [EXT4]}), config_files.FILE: AUTO, f"{disk}/ro": "0"})
    with pytest.raises(errors.NotPermitted, match="sdb cannot be made read-only"):
        lookup.lookup(Host(str(tmp_path)), TARGET)


def test_a_label_is_as_it_was_written_and_breaks_no_terminal(tmp_path: Path) -> None:
    make_tree(tmp_path, machine({0: [On("ext4", label="a\\x20b\\x1b\\xc3\\xa9")]}))
    known = udev_db.read(Host(str(tmp_path)), "8:16")
    assert known is not None and known.label == "a b?é"
    make_tree(tmp_path, {config_files.FILE: AUTO})
    report = explain.report(Host(str(tmp_path)), TARGET, output.Paint(False))
    assert "\x1b" not in "\n".join(report.lines)
