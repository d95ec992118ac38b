"""The selection of filesystems, by a database of udev that is laid out below a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from auto_iscsi import errors
from auto_iscsi.admin import explain, output
from auto_iscsi.config import config_files
from auto_iscsi.config import schema as table
from auto_iscsi.iscsi import claims, sessions
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
    """What is on a device, as udev records it."""

    fstype: str = ""
    usage: str = "filesystem"
    label: str = ""
    part_type: str = "0fc63daf-8483-4772-8e79-3d69d8477de4"


EXT4, XFS, ESP = On("ext4", label="root"), On("xfs", label="data"), On("vfat", part_type=EFI)
SWAP, LVM, EMPTY = On("swap", "other"), On("LVM2_member", "raid"), On()


def machine(luns: dict[int, list[On]], sequence: bool = True) -> dict[str, Content]:
    """Return the files of a host whose session has disks: by LUN, what is on each disk.

    The first of each list is on the whole disk, the others are on its partitions.
    """
    files: dict[str, Content] = {
        f"{SESSION}/targetname": TARGET,
        f"{SESSION}/state": "LOGGED_IN",
        f"{SESSION}/tpgt": "1",
        "/sys/class/iscsi_connection/connection7:0/persistent_address": "10.0.0.1",
        "/sys/class/iscsi_connection/connection7:0/persistent_port": "3260",
        "/run": None,
    }
    for index, (lun, devices) in enumerate(luns.items()):
        name, unit = f"sd{'bcdefgh'[index]}", f"{SESSION}/device/target3:0:0/3:0:0:{lun}"
        disk = f"{unit}/block/{name}"
        files |= {f"{unit}/type": "0", f"{disk}/diskseq": f"{40 + index}", f"{disk}/ro": "1"}
        for part, on in enumerate(devices):
            node, path = (f"{name}{part}", f"{disk}/{name}{part}") if part else (name, disk)
            link = f"disk/by-path/ip-10.0.0.1:3260-iscsi-{TARGET}-lun-{lun}"
            link += f"-part{part}" if part else ""
            number = f"8:{16 * (index + 1) + part}"
            lines = [f"S:{link}"]
            if sequence and not part:
                lines.append(f"S:disk/by-diskseq/{40 + index}")
            if on.fstype:
                lines += [
                    f"E:ID_FS_TYPE={on.fstype}",
                    f"E:ID_FS_USAGE={on.usage}",
                    f"E:ID_FS_LABEL_ENC={on.label}",
                ]
            if part:
                lines.append(f"E:ID_PART_ENTRY_TYPE={on.part_type}")
                files[f"{path}/partition"] = f"{part}"
            elif len(devices) > 1:
                lines.append("E:ID_PART_TABLE_TYPE=gpt")
            files |= {
                f"{path}/dev": number,
                f"{path}/size": "16384",
                f"/run/udev/data/b{number}": "\n".join(lines),
                f"/dev/{link}": Link(f"../../{node}"),
                f"/dev/{node}": "",
            }
    return files


def explained(root: Path) -> dict[str, Any]:
    """Return what `explain` reports of the target, as it writes it with --json."""
    data: dict[str, Any] = explain.report(Host(str(root)), TARGET, output.Paint(False)).data
    return data


def steps(data: dict[str, Any], name: str) -> list[str]:
    """Return the texts of the steps of one name in a report."""
    return [step["says"] for step in data["steps"] if step["step"] == name]


def entry(root: Path, luns: dict[int, list[On]], text: str = AUTO, **more: Content) -> str:
    """Return the entry that a lookup prints, and that `explain` announces before."""
    make_tree(root, {**machine(luns), config_files.FILE: text, **more})
    announced = explained(root)["entry"]
    line = lookup.lookup(Host(str(root)), TARGET)
    assert announced == line
    return line


def refusal(root: Path, luns: dict[int, list[On]], text: str = AUTO) -> errors.Failure:
    """Return the failure of a lookup, which `explain` announces before and changes nothing for."""
    make_tree(root, {**machine(luns), config_files.FILE: text})
    before = files_below(root)
    announced = explained(root)["refused"]["reason"]
    assert files_below(root) == before
    with pytest.raises(errors.Failure) as refused:
        lookup.lookup(Host(str(root)), TARGET)
    assert announced == refused.value.reason
    failure: errors.Failure = refused.value
    return failure


@pytest.mark.parametrize(
    ("devices", "line"),
    [
        ([EXT4], "-nocheck,ro,fstype=auto :/dev/sdb"),
        ([XFS], "-ro,nouuid,fstype=xfs :/dev/sdb"),
        ([EMPTY, EXT4], "-nocheck,ro,fstype=auto :/dev/sdb1"),
        ([EMPTY, ESP, XFS], "-ro,nouuid,fstype=xfs :/dev/sdb2"),
        ([EMPTY, ESP], "-ro,fstype=vfat :/dev/sdb1"),
        ([EMPTY, SWAP, EXT4], "-nocheck,ro,fstype=auto :/dev/sdb2"),
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
def test_the_only_filesystem_is_mounted(tmp_path: Path, devices: list[On], line: str) -> None:
    assert entry(tmp_path, {0: devices}) == line


def test_explain_names_what_the_only_filesystem_is_beside(tmp_path: Path) -> None:
    make_tree(tmp_path, {**machine({0: [EMPTY, ESP, XFS]}), config_files.FILE: AUTO})
    assert steps(explained(tmp_path), "selected") == [
        "sdb2: partition = auto: the only filesystem besides 1 (EFI system partition)"
    ]


def test_a_refusal_lists_the_filesystems_to_choose_from(tmp_path: Path) -> None:
    refused = refusal(tmp_path, {0: [EMPTY, ESP, EXT4, XFS]})
    assert refused.code == "ambiguous"
    listed = "1: 8 MiB vfat (EFI system partition), 2: 8 MiB ext4 'root', 3: 8 MiB xfs 'data'"
    assert refused.reason == (f"{TARGET}: LUN 0 (sdb) has more than one filesystem: {listed}")
    assert steps(explained(tmp_path), "contents") == listed.split(", ")


@pytest.mark.parametrize("fstype", selection.FOREIGN)
@pytest.mark.parametrize("partition", ["auto", "1"])
def test_a_refusal_names_what_is_no_filesystem_and_what_it_needs(
    tmp_path: Path, fstype: str, partition: str
) -> None:
    usage = "filesystem" if fstype == "zfs_member" else "raid"  # so does libblkid
    text = AUTO.replace("partition = auto", f"partition = {partition}")
    refused = refusal(tmp_path, {0: [EMPTY, On(fstype, usage)]}, text)
    assert refused.code == "not-mountable"
    what, needed = selection.FOREIGN[fstype]
    assert what in refused.reason and needed in refused.hint and "partition 1" in refused.reason


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        ([EMPTY], "LUN 0 (sdb) has no filesystem: disk: 8 MiB nothing known"),
        ([EMPTY, EMPTY, EMPTY], "no filesystem: 1: 8 MiB nothing known, 2: 8 MiB nothing known"),
        ([EMPTY, SWAP, LVM], "no filesystem: 1: 8 MiB swap, 2: 8 MiB LVM2_member"),
    ],
)
def test_a_disk_without_a_filesystem(tmp_path: Path, devices: list[On], reason: str) -> None:
    assert reason in refusal(tmp_path, {0: devices}).reason


def test_all_filesystems_are_below_the_key_except_the_refused_ones(tmp_path: Path) -> None:
    text = AUTO.replace("partition = auto", "partition = all\nlun = all")
    luns = {0: [EMPTY, ESP, EXT4, LVM, EMPTY], 3: [XFS], 5: [SWAP]}
    assert entry(tmp_path, luns, text) == (
        "/lun0/p1 -ro,fstype=vfat :/dev/sdb1 /lun0/p2 -nocheck,ro,fstype=auto :/dev/sdb2 "
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
    assert entry(tmp_path / "2", {0: [EXT4]}, text).startswith("-nocheck,ro,fstype=auto :/dev/sdb")
    text = AUTO.replace("partition = auto", "partition = 2\nlun = all")
    line = entry(tmp_path / "3", {0: [EMPTY, ESP, EXT4], 1: [EMPTY, ESP, XFS]}, text)
    assert line == (
        "/lun0 -nocheck,ro,fstype=auto :/dev/sdb2 /lun1 -ro,nouuid,fstype=xfs :/dev/sdc2"
    )


def test_the_key_is_refused_when_all_its_filesystems_are(tmp_path: Path) -> None:
    text = AUTO.replace("partition = auto", "partition = all")
    assert "LVM" in refusal(tmp_path, {0: [EMPTY, SWAP, LVM]}, text).reason


def test_a_location_that_is_a_link_is_quoted(tmp_path: Path) -> None:
    text = AUTO.replace("device = kernel\n", "").replace("partition = auto", "partition = all")
    link = f"/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-{TARGET}-lun-0-part"
    assert entry(tmp_path, {0: [EMPTY, EXT4, XFS]}, text) == (
        f'/p1 -nocheck,ro,fstype=auto ":{link}1" /p2 -ro,nouuid,fstype=xfs ":{link}2"'
    )


@pytest.mark.parametrize(
    ("fstype", "line"),
    [
        ("ext4", "-nocheck,ro,fstype=ext4 :/dev/sdb2"),
        ("ext3", "-nocheck,ro,fstype=ext3 :/dev/sdb2"),
        ("vfat", "-nocheck,ro,fstype=vfat :/dev/sdb1"),
    ],
)
def test_a_given_type_selects_the_partition_and_keeps_all_options(
    tmp_path: Path, fstype: str, line: str
) -> None:
    text = AUTO.replace("fstype = auto", f"fstype = {fstype}")
    assert entry(tmp_path, {0: [EMPTY, ESP, EXT4, XFS]}, text) == line


@pytest.mark.parametrize(
    ("fstype", "on", "said"),
    [("ext4", EXT4, "auto"), ("ext3", EXT4, "ext3"), ("ext4", EMPTY, "ext4"), ("xfs", XFS, "xfs")],
    ids=["found", "another", "ambiguous", "no-ext"],
)
def test_on_a_disk_that_we_make_read_only_automount_runs_no_fsck_unless_the_type_is_unsure(
    tmp_path: Path, fstype: str, on: On, said: str
) -> None:
    text = AUTO.replace("auto", fstype, 1).replace("partition = auto", "partition = 1")
    line = entry(tmp_path / "1", {0: [EMPTY, on]}, f"{text}journal = refuse\n")
    assert f",fstype={said} :" in line
    # As long as `journal` says nothing, all is as the shell script had it.
    assert f",fstype={fstype} :" in entry(tmp_path / "2", {0: [EMPTY, on]}, text)


@pytest.mark.parametrize(
    "late",
    [
        {"/run/udev/data/b8:16": "E:ID_PART_TABLE_TYPE=gpt"},
        {"/run/udev/data/b8:17": "E:ID_FS_TYPE=ext4"},
        {f"{SESSION}/device/target3:0:0/3:0:0:0/block/sdb/diskseq": "99"},
    ],
    ids=["disk", "partition", "another-disk's"],
)
def test_nothing_is_selected_before_udev_has_finished(
    tmp_path: Path, late: dict[str, Content]
) -> None:
    make_tree(tmp_path, {**machine({0: [EMPTY, EXT4]}), config_files.FILE: AUTO, **late})
    host = Host(str(tmp_path))
    settings = table.resolve(config_files.load(host), TARGET)
    assert available.find(host, sessions.find_all(host, TARGET), settings) is None


def test_without_sequence_numbers_udev_has_finished_when_its_queue_is_empty(tmp_path: Path) -> None:
    make_tree(
        tmp_path,
        {**machine({0: [EXT4]}, sequence=False), config_files.FILE: AUTO, "/run/udev/queue": ""},
    )
    host = Host(str(tmp_path))
    settings = table.resolve(config_files.load(host), TARGET)
    assert available.find(host, sessions.find_all(host, TARGET), settings) is None
    (tmp_path / "run/udev/queue").unlink()
    assert available.find(host, sessions.find_all(host, TARGET), settings) is not None


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("refuse", None),
        ("auto", None),
        ("skip", "-nocheck,ro,noload,fstype=auto :/dev/sdb"),
        ("replay", None),
    ],
)
def test_a_dirty_journal_on_a_disk_that_cannot_be_written(
    tmp_path: Path, rule: str, line: str | None
) -> None:
    text = f"{AUTO}journal = {rule}\n"
    make_tree(tmp_path, {**machine({0: [EXT4]}), config_files.FILE: text})
    (tmp_path / "dev/sdb").write_bytes(ext(0x4))
    host, notes = Host(str(tmp_path)), list[str]()
    announced = explained(tmp_path)
    assert steps(announced, "contents") == ["disk: 8 MiB ext4 'root', journal dirty"]
    if line:
        assert lookup.lookup(host, TARGET, notes.append) == line == announced["entry"]
        assert notes == [
            f"{TARGET}: sdb is mounted without its journal: the newest files can be missing"
        ]
    else:
        with pytest.raises(errors.DirtyJournal) as refused:
            lookup.lookup(host, TARGET)
        assert announced["refused"]["code"] == "dirty-journal"
        word = "cannot be replayed" if rule == "replay" else "journal = replay shows all"
        assert word in refused.value.reason


def test_a_disk_that_cannot_be_made_read_only_is_not_mounted(tmp_path: Path) -> None:
    disk = f"{SESSION}/device/target3:0:0/3:0:0:0/block/sdb"
    make_tree(tmp_path, {**machine({0: [EXT4]}), config_files.FILE: AUTO, f"{disk}/ro": "0"})
    host = Host(str(tmp_path))
    (session,) = sessions.find_all(host, TARGET)
    claims.write(host, TARGET, claims.Claim(opened=((session.sid, session.inode),)))
    with pytest.raises(errors.NotPermitted, match="sdb cannot be made read-only"):
        lookup.lookup(host, TARGET)


@pytest.mark.parametrize(
    ("journal", "said"),
    [
        (ext(0), "-nocheck,ro,fstype=auto :/dev/sdb"),
        (ext(0x4), "was in use when the snapshot was taken"),
        (b"", "another login or user has it"),
    ],
    ids=["clean", "dirty", "unknown"],
)
def test_a_disk_of_somebody_elses_session_is_left_as_it_is(
    tmp_path: Path, journal: bytes, said: str
) -> None:
    disk = f"{SESSION}/device/target3:0:0/3:0:0:0/block/sdb"
    make_tree(tmp_path, {**machine({0: [EXT4]}), config_files.FILE: AUTO, f"{disk}/ro": "0"})
    (tmp_path / "dev/sdb").write_bytes(journal)
    host = Host(str(tmp_path))
    if journal == ext(0):
        assert lookup.lookup(host, TARGET) == said
    else:
        with pytest.raises(errors.DirtyJournal, match=said):
            lookup.lookup(host, TARGET)
    assert host.read(f"{disk}/ro") == "0"
    assert not (tmp_path / f"run/auto-iscsi/disks/{TARGET}").exists()


def test_a_label_cannot_control_a_terminal(tmp_path: Path) -> None:
    label = "a\\x20b\\x1b\\xc3\\xa9"
    make_tree(tmp_path, {**machine({0: [On("ext4", label=label)]}), config_files.FILE: AUTO})
    report = explain.report(Host(str(tmp_path)), TARGET, output.Paint(False))
    assert steps(report.data, "contents") == ["disk: 8 MiB ext4 'a b?é'"]
    assert "\x1b" not in "\n".join(report.lines)
