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
from auto_iscsi.volumes import content, mountable
from tests.tree.tree import Content, Link, make_tree
from tests.tree.tree import contents as files_below

from .ntfs_volumes import USED, ntfs, restart
from .superblocks import ext

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
    is_read: bool = True  #: False: libblkid gave up, at signatures of more than one filesystem


EXT4, XFS, ESP = On("ext4", label="root"), On("xfs", label="data"), On("vfat", part_type=EFI)
SWAP, LVM, EMPTY = On("swap", "other"), On("LVM2_member", "raid"), On()
LUKS, OLD, ISO = On("crypto_LUKS", "crypto"), On("ext3", label="old"), On("iso9660", label="cd")
TWO = On(is_read=False)


def machine(luns: dict[int, list[On]], sequence: bool = True) -> dict[str, Content]:
    """Return the files of a host whose session has disks: by LUN, what is on each disk.

    The first of each list is on the whole disk, the others are on its partitions. A partition's
    record has a copy of what the disk's says of its partition table, as udev makes it.
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
            if len(devices) > 1 and devices[0].is_read and devices[0].usage != "raid":
                lines.append("E:ID_PART_TABLE_TYPE=gpt")
            if part:
                files[f"{path}/partition"] = f"{part}"
                lines += [f"E:ID_PART_ENTRY_TYPE={on.part_type}"] if on.is_read else []
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
        ([ISO, EMPTY, ESP], "-ro,fstype=iso9660 :/dev/sdb"),
        ([ISO, ISO, On("hfsplus"), ESP], "-ro,fstype=iso9660 :/dev/sdb"),
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
        "hybrid-for-any-machine",
        "ntfs",
    ],
)
def test_the_only_filesystem_is_mounted(tmp_path: Path, devices: list[On], line: str) -> None:
    assert entry(tmp_path, {0: devices}) == line


@pytest.mark.parametrize("end", ["\u2028", "\u0085", "\x1e", "\x0c"])
def test_a_label_is_no_line_of_udevs_record(tmp_path: Path, end: str) -> None:
    """udev leaves any printable UTF-8 in a label: a btrfs was mounted as fstype=proc."""
    label = f"x{end}E:ID_FS_TYPE=proc{end}E:ID_FS_USAGE=filesystem"
    assert "fstype=btrfs " in entry(tmp_path, {0: [On("btrfs", label=label)]})


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


@pytest.mark.parametrize("fstype", ["auto", "ext3"])
@pytest.mark.parametrize("partition", ["auto", "all"])
@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        (
            [OLD, XFS],
            "ext3 on the whole disk, and partitions: disk: {} ext3 'old', 1: {} xfs 'data'",
        ),
        ([OLD, OLD], "ext3 on the whole disk, and partitions: disk: {} ext3 'old', 1: {} ext3"),
        (
            [OLD, EMPTY],
            "ext3 on the whole disk, and partitions: disk: {} ext3 'old', 1: {} nothing",
        ),
        ([OLD, LVM], "ext3 on the whole disk, and partitions: disk: {} ext3 'old', 1: {} LVM2_mem"),
        ([LVM, EXT4], "LVM2_member on the whole disk, and partitions: disk: {} LVM2_member, 1: {}"),
        (
            [ISO, EXT4],
            "iso9660 on the whole disk, and partitions: disk: {} iso9660 'cd', 1: {} ext",
        ),
        (
            [TWO, EXT4],
            "signatures of more than one filesystem on the whole disk, and partitions: d",
        ),
    ],
    ids=["other-type", "same-type", "nothing", "lvm", "lvm-disk", "no-hybrid", "two-signatures"],
)
def test_neither_an_old_filesystem_on_the_whole_disk_nor_a_partition_is_taken_by_itself(
    tmp_path: Path, devices: list[On], reason: str, partition: str, fstype: str
) -> None:
    text = AUTO.replace("partition = auto", f"partition = {partition}")
    refused = refusal(tmp_path, {0: devices}, text.replace("fstype = auto", f"fstype = {fstype}"))
    assert refused.code == "ambiguous"
    assert f"LUN 0 (sdb) has {reason.replace('{}', '8 MiB')}" in refused.reason
    assert "set" in refused.hint and "partition" in refused.hint
    assert ", ".join(steps(explained(tmp_path), "contents")) in refused.reason


@pytest.mark.parametrize(
    ("partition", "line"),
    [("none", "-nocheck,ro,fstype=auto :/dev/sdb"), ("1", "-ro,nouuid,fstype=xfs :/dev/sdb1")],
)
def test_between_the_whole_disk_and_a_partition_the_setting_decides(
    tmp_path: Path, partition: str, line: str
) -> None:
    text = AUTO.replace("partition = auto", f"partition = {partition}")
    assert entry(tmp_path, {0: [OLD, XFS]}, text) == line
    assert steps(explained(tmp_path), "contents") == [
        "disk: 8 MiB ext3 'old'",
        "1: 8 MiB xfs 'data'",
    ]


def test_of_all_luns_an_ambiguous_one_is_left_out(tmp_path: Path) -> None:
    text = AUTO.replace("partition = auto", "partition = all\nlun = all")
    assert entry(tmp_path, {0: [OLD, EXT4], 1: [EMPTY, EXT4]}, text) == (
        "/lun1/p1 -nocheck,ro,fstype=auto :/dev/sdc1"
    )
    (note,) = steps(explained(tmp_path), "note")
    assert note.startswith("lun0 is left out: LUN 0 (sdb) has ext3 on the whole disk, and part")


@pytest.mark.parametrize(
    ("devices", "partition", "node"),
    [
        ([EMPTY, TWO], "auto", "sdb1"),
        ([EMPTY, TWO], "1", "sdb1"),
        ([EMPTY, TWO], "all", "sdb1"),
        ([EMPTY, EXT4, TWO], "auto", "sdb2"),
        ([EMPTY, TWO, TWO], "auto", "sdb1 /dev/sdb2"),
        ([OLD, TWO], "1", "sdb1"),
        ([TWO, EXT4], "none", "sdb"),
    ],
)
def test_signatures_of_more_than_one_filesystem_are_named(
    tmp_path: Path, devices: list[On], partition: str, node: str
) -> None:
    text = AUTO.replace("partition = auto", f"partition = {partition}")
    refused = refusal(tmp_path, {0: devices}, text)
    assert refused.code == "ambiguous"
    assert "signatures of more than one filesystem" in refused.reason
    assert refused.hint == f"wipefs -n /dev/{node} shows them; set fstype and partition"


@pytest.mark.parametrize("partition", ["auto", "none"])
def test_a_disk_without_partitions_may_have_two_signatures(tmp_path: Path, partition: str) -> None:
    text = AUTO.replace("partition = auto", f"partition = {partition}")
    assert refusal(tmp_path, {0: [TWO]}, text).hint == (
        "if wipefs -n /dev/sdb shows signatures of more than one filesystem, "
        "set fstype and partition"
    )


@pytest.mark.parametrize(
    ("devices", "node"),
    [
        ([TWO], "sdb"),
        ([EMPTY, TWO], "sdb1"),
        ([EMPTY, ESP, TWO], "sdb2"),
        ([EMPTY, XFS, EMPTY], "sdb2"),
        ([EMPTY, EMPTY, On(part_type="0x5")], "sdb1"),
    ],
)
def test_a_given_type_is_enough_for_the_only_place_without_a_known_one(
    tmp_path: Path, devices: list[On], node: str
) -> None:
    text = AUTO.replace("fstype = auto", "fstype = ext4")
    assert entry(tmp_path, {0: devices}, text) == f"-nocheck,ro,fstype=ext4 :/dev/{node}"


@pytest.mark.parametrize("devices", [[EMPTY, TWO, TWO], [EMPTY, EXT4, TWO], [EMPTY, EMPTY, EMPTY]])
def test_a_given_type_is_not_enough_for_several_places(tmp_path: Path, devices: list[On]) -> None:
    refused = refusal(tmp_path, {0: devices}, AUTO.replace("fstype = auto", "fstype = ext4"))
    assert refused.code == "ambiguous"


def test_a_partition_does_not_have_the_partition_table_of_its_disk(tmp_path: Path) -> None:
    refused = refusal(tmp_path, {0: [EMPTY, EMPTY]})
    assert "no filesystem: 1: 8 MiB nothing known" in refused.reason


@pytest.mark.parametrize(
    ("devices", "note"),
    [
        ([EMPTY, EXT4, LVM], "partition 2 is an LVM physical volume and is left alone: "),
        (
            [EMPTY, ESP, EXT4, LUKS, On("bcache", "other")],
            "partition 3 is LUKS encrypted and is left alone; partition 4 is a bcache disk and "
            "is left alone: ",
        ),
    ],
)
@pytest.mark.parametrize("fstype", ["auto", "ext4"])
def test_the_log_tells_that_the_rest_of_the_disk_is_part_of_something_larger(
    tmp_path: Path, devices: list[On], note: str, fstype: str
) -> None:
    text = AUTO.replace("fstype = auto", f"fstype = {fstype}")
    assert entry(tmp_path, {0: devices}, text).startswith(f"-nocheck,ro,fstype={fstype} :")
    notes: list[str] = []
    lookup.lookup(Host(str(tmp_path)), TARGET, notes.append)
    assert notes == [f"{TARGET}: {note}/boot may be all that you see"]
    assert steps(explained(tmp_path), "note") == [f"{note}/boot may be all that you see"]


def test_nothing_is_noted_beside_swap_or_for_a_partition_that_was_set(tmp_path: Path) -> None:
    notes: list[str] = []
    entry(tmp_path, {0: [EMPTY, EXT4, SWAP]})
    lookup.lookup(Host(str(tmp_path)), TARGET, notes.append)
    entry(
        tmp_path / "1", {0: [EMPTY, EXT4, LVM]}, AUTO.replace("partition = auto", "partition = 1")
    )
    lookup.lookup(Host(str(tmp_path / "1")), TARGET, notes.append)
    assert notes == []


#: What is refused by its type alone: a member of an array is read first.
FOREIGN = set(content.FOREIGN) - {mountable.MD_MEMBER}


@pytest.mark.parametrize("fstype", sorted(FOREIGN))
@pytest.mark.parametrize("partition", ["auto", "1"])
def test_a_refusal_names_what_is_no_filesystem_and_what_it_needs(
    tmp_path: Path, fstype: str, partition: str
) -> None:
    usage = "filesystem" if fstype == "zfs_member" else "raid"  # so does libblkid
    text = AUTO.replace("partition = auto", f"partition = {partition}")
    refused = refusal(tmp_path, {0: [EMPTY, On(fstype, usage)]}, text)
    assert refused.code == "not-mountable"
    what, needed = content.FOREIGN[fstype]
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
    assert line.startswith(f"{TARGET}: lun5 is left out: LUN 5 (sdd) is swap space")
    assert "; lun0/p3 is left out: sdb3 is an LVM physical volume that cannot be read" in line
    assert line.count(TARGET) == 1


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
        words = {
            "replay": "cannot be replayed",
            "refuse": "journal = replay shows all",
            "auto": "somebody else logged its disk in",
        }
        assert words[rule] in refused.value.reason


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
        (b"", "somebody else logged it in or uses it"),
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


def test_a_partition_is_not_incomplete_because_the_btrfs_of_its_disk_is(tmp_path: Path) -> None:
    files = machine({0: [On("btrfs", label="old"), EXT4]})
    for name in ("/run/udev/data/b8:16", "/run/udev/data/b8:17"):
        record = files[name]
        assert isinstance(record, str)
        files[name] = f"{record}\nE:ID_BTRFS_READY=0"
    text = AUTO.replace("partition = auto", "partition = 1")
    make_tree(tmp_path, {**files, config_files.FILE: text})
    assert lookup.lookup(Host(str(tmp_path)), TARGET) == "-nocheck,ro,fstype=auto :/dev/sdb1"


def test_a_note_names_its_lun(tmp_path: Path) -> None:
    entry(tmp_path, {3: [EMPTY, EXT4, LVM]}, f"{AUTO}lun = all\n")
    (note,) = steps(explained(tmp_path), "note")
    assert note.startswith("lun3: partition 2 is an LVM physical volume and is left alone: ")


def test_the_only_array_beside_an_efi_partition_is_meant(tmp_path: Path) -> None:
    member = On("linux_raid_member", "raid")
    assert "sdb2 is a member of" in refusal(tmp_path / "1", {0: [EMPTY, ESP, member]}).reason
    line = entry(tmp_path / "2", {0: [EMPTY, ESP, member, member]})
    assert line == "-ro,fstype=vfat :/dev/sdb1"
    assert entry(tmp_path / "3", {0: [EMPTY, EXT4, member]}).endswith(":/dev/sdb1")


@pytest.mark.parametrize(
    ("on", "what"),
    [
        (On("zfs_member", label="tank"), "a member of ZFS pool tank and is left alone"),
        (On("VMFS"), "a VMFS datastore"),
        (On("ReFS"), "a ReFS"),
        (On(part_type="af9b60a0-1431-4f62-bc68-3311714a69ad"), "a Windows dynamic disk (LDM)"),
        (On(part_type="0x42"), "a Windows dynamic disk (LDM)"),
        (On(part_type="e75caf8f-f680-4cee-afa3-b001e56efc2d"), "(Storage Spaces)"),
    ],
)
def test_what_linux_cannot_show_is_named_beside_the_rest(tmp_path: Path, on: On, what: str) -> None:
    text = AUTO.replace("partition = auto", "partition = all")
    assert entry(tmp_path, {0: [EMPTY, EXT4, on]}, text) == "/p1 -nocheck,ro,fstype=auto :/dev/sdb1"
    notes: list[str] = []
    lookup.lookup(Host(str(tmp_path)), TARGET, notes.append)
    assert "p2 is left out: " in notes[0] and what in notes[0]
    assert what in refusal(tmp_path / "2", {0: [EMPTY, on]}).reason


def test_a_volume_that_begins_with_a_partition_of_a_dynamic_disk_is_shown(tmp_path: Path) -> None:
    on = On("ntfs", part_type="0x42")
    assert entry(tmp_path, {0: [EMPTY, on]}) == "-ro,fstype=ntfs3 :/dev/sdb1"


def test_an_ntfs_is_mounted_by_ntfs_3g_where_the_kernel_has_none(tmp_path: Path) -> None:
    kernel: dict[str, Content] = {
        "/proc/filesystems": "nodev\tproc\n\text4\n\tfuseblk\n",
        "/proc/sys/kernel/osrelease": "6.1",
        "/lib/modules/6.1/modules.alias": "alias fs-xfs xfs\n",
    }
    luns = {0: [EMPTY, On("ntfs")]}
    helper: dict[str, Content] = {"/sbin/mount.ntfs-3g": ""}
    text = f"{AUTO}journal = replay\n"
    line = entry(tmp_path / "1", luns, text, **kernel, **helper)
    assert line == "-ro,fstype=ntfs-3g :/dev/sdb1"
    make_tree(tmp_path / "2", {**machine(luns), config_files.FILE: text, **kernel})
    with pytest.raises(errors.NotMountable) as refused:
        lookup.lookup(Host(str(tmp_path / "2")), TARGET)
    assert "this kernel has no ntfs3" in refused.value.reason
    assert refused.value.hint == "install ntfs-3g"


def test_an_ntfs_that_was_in_use_is_mounted_and_said_to_be_incomplete(tmp_path: Path) -> None:
    luns, image = {0: [EMPTY, On("ntfs")]}, ntfs(restart(1, *USED))
    make_tree(tmp_path, {**machine(luns), config_files.FILE: AUTO})
    (tmp_path / "dev/sdb1").write_bytes(image)
    notes: list[str] = []
    line = lookup.lookup(Host(str(tmp_path)), TARGET, notes.append)
    assert line == "-ro,fstype=ntfs3 :/dev/sdb1"
    assert "the NTFS on sdb1 was in use when the snapshot was taken" in notes[0]
    (tmp_path / config_files.FILE[1:]).write_text(f"{AUTO}journal = refuse\n")
    with pytest.raises(errors.DirtyJournal) as refused:
        lookup.lookup(Host(str(tmp_path)), TARGET)
    assert "Linux does not replay its log" in refused.value.reason


@pytest.mark.parametrize(
    ("devices", "is_maybe"),
    [
        ([EXT4], False),
        ([EMPTY, EXT4], False),
        ([EMPTY, ESP, XFS], False),
        ([EMPTY, SWAP, EXT4], False),
        ([EMPTY, EXT4, XFS], True),
        ([EMPTY, EXT4, LVM], True),
        ([EMPTY, LVM], True),
        ([LVM], True),
    ],
)
def test_auto_asks_whether_it_is_a_system_only_where_it_had_no_clear_answer(
    tmp_path: Path, devices: list[On], is_maybe: bool
) -> None:
    make_tree(tmp_path, {**machine({0: devices}), config_files.FILE: AUTO})
    host = Host(str(tmp_path))
    settings = table.resolve(config_files.load(host), TARGET)
    up = sessions.find_all(host, TARGET)
    content = available.find(host, up, settings)
    assert content and content.is_maybe_system == is_maybe
    for other in (settings._replace(fstype="ext4"), settings._replace(lun="all")):
        try:
            other_content = available.find(host, up, other)
        except errors.Failure:
            continue
        assert other_content and not other_content.is_maybe_system


def test_without_a_root_system_is_refused_and_says_why(tmp_path: Path) -> None:
    text = AUTO.replace("partition = auto", "partition = system")
    refused = refusal(tmp_path, {0: [EMPTY, ESP, EXT4, XFS]}, text)
    assert refused.code == "not-mountable"
    assert refused.reason.startswith(f"{TARGET}: no root of a system: ")


@pytest.mark.parametrize("partition", ["auto", "system"])
def test_whether_there_is_a_system_is_not_known_without_a_journal_that_cannot_be_replayed(
    tmp_path: Path, partition: str
) -> None:
    """Otherwise `auto` showed what else is there, such as /boot, and did not say why."""
    text = AUTO.replace("partition = auto", f"partition = {partition}")
    luns = {0: [EMPTY, EXT4, EXT4]}
    make_tree(tmp_path, {**machine(luns), config_files.FILE: f"{text}journal = refuse\n"})
    (tmp_path / "dev/sdb1").write_bytes(ext(0x4))
    (tmp_path / "dev/sdb2").write_bytes(ext(0))
    with pytest.raises(errors.DirtyJournal) as refused:
        lookup.lookup(Host(str(tmp_path)), TARGET)
    assert "p1 is left out: " in refused.value.reason
