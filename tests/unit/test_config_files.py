"""The files of the configuration: which are read, in which order, and what a broken one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from auto_iscsi import errors, wording
from auto_iscsi.config import config_files, schema
from auto_iscsi.machine.host import Host
from tests.tree.tree import Content, make_tree

TARGET = "iqn.2001-05.com.example:a"
FILE = "/etc/auto.iscsi.conf"


def resolve(root: Path, files: dict[str, Content], target: str = TARGET) -> schema.Settings:
    """Return the settings of a target when these are the files below /etc."""
    make_tree(root / "etc", files)
    return schema.resolve(config_files.load(Host(str(root))), target)


def refused(root: Path, files: dict[str, Content]) -> str:
    """Return the line with which every target is refused."""
    lines = set()
    for name in (TARGET, "eui.02004567a425678d"):
        with pytest.raises(errors.BadConfiguration) as failure:
            resolve(root, files, name)
        lines.add(wording.one_line(str(failure.value)))
    assert len(lines) == 1
    return lines.pop()


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    assert resolve(tmp_path, {}) == schema.resolve([], TARGET)


def test_drop_ins_come_after_the_file_in_the_order_of_their_names(tmp_path: Path) -> None:
    files: dict[str, Content] = {
        "auto.iscsi.conf": "fstype = ext4\nlun = 1\npartition = 1",
        "auto.iscsi.conf.d/10-b.conf": "lun = 3\npartition = 3",
        "auto.iscsi.conf.d/10-a.conf": "lun = 2\npartition = 2",
        "auto.iscsi.conf.d/9.conf": "partition = 9",
    }
    settings = resolve(tmp_path, files)
    assert (settings.fstype, settings.lun, settings.partition) == ("ext4", 3, 9)


def test_a_drop_in_without_the_file_is_read(tmp_path: Path) -> None:
    assert resolve(tmp_path, {"auto.iscsi.conf.d/a.conf": "fstype = xfs"}).fstype == "xfs"


def test_only_names_that_end_in_conf_are_drop_ins(tmp_path: Path) -> None:
    names = ("a.conf~", "a.conf.dpkg-old", "a.conf.rpmsave", "README", "conf", ".a.conf.swp")
    assert resolve(tmp_path, {f"auto.iscsi.conf.d/{n}": "fstype = xfs" for n in names}).fstype == (
        "ext3"
    )


def test_sections_with_the_same_pattern_in_two_files_are_two_sections(tmp_path: Path) -> None:
    files: dict[str, Content] = {
        "auto.iscsi.conf": "[*]\nfstype = xfs\nlun = 1",
        "auto.iscsi.conf.d/a.conf": "lun = 2\n[*]\nfstype = ext4",
    }
    settings = resolve(tmp_path, files)
    assert (settings.fstype, settings.lun) == ("ext4", 2)


@pytest.mark.parametrize(
    "data",
    [
        b"fstype = xfs\r\n[*]\r\nlun = 1\r\n",
        b"\xef\xbb\xbffstype = xfs\n[*]\nlun = 1\n",
        b"\xef\xbb\xbf[*]\nfstype = xfs\nlun = 1\n",
        b"fstype = xfs\n[*]\nlun = 1",
        b"# caf\xc3\xa9\nfstype = xfs # caf\xc3\xa9\n[*]\nlun = 1\n",
        b"\n\n  fstype=xfs\n\t[ * ]  # all\n\tlun  =\t'1'\n\n",
    ],
    ids=["CRLF", "BOM", "BOM before a section", "no line end", "UTF-8", "white space"],
)
def test_a_file_may_come_from_any_editor(tmp_path: Path, data: bytes) -> None:
    settings = resolve(tmp_path, {"auto.iscsi.conf": data})
    assert (settings.fstype, settings.lun) == ("xfs", 1)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[*\nfstype = xfs\n", f"{FILE}:1: "),
        ("fstype = xfs\n[*]\nfstype\n", f"{FILE}:3: "),
        ("fstype = xfs\n\nfstype = ext4\n", f"{FILE}:3: "),
        ("[*]\nlun = 1\n[*]\nlun = 2\n", f"{FILE}:3: "),
        ("options = 'ro\n", f"{FILE}:1: "),
        ("# comment\n[*]]\n", f"{FILE}:2: "),
        ("[*]\n[[*]]\nlun = 2\n", f"{FILE}:2: "),
        ("[[*]]\nlun = 2\n", f"{FILE}:1: "),
        ("lun = '''1\n", f"{FILE}:"),
        ("\0", f"{FILE}:1: "),
        ("\x1b[31m = 1 = [", f"{FILE}:1: "),
        (b"fstype = xfs\n# caf\xe9\n", f"{FILE}:2: not UTF-8"),
        ("fstype = xfs\n".encode("utf-16"), f"{FILE}:1: not UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\xff\xfe", f"{FILE}:1: "),
    ],
    ids=ascii,
)
def test_a_file_that_cannot_be_parsed_refuses_every_target_and_says_where(
    tmp_path: Path, text: Content, line: str
) -> None:
    refusal = refused(tmp_path, {"auto.iscsi.conf": text})
    assert refusal.startswith(line), refusal


def test_a_drop_in_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    files: dict[str, Content] = {
        "auto.iscsi.conf": "lun = 1\n",
        "auto.iscsi.conf.d/a.conf": "\n[*\n",
    }
    assert refused(tmp_path, files).startswith("/etc/auto.iscsi.conf.d/a.conf:2: ")


def test_a_wrong_value_is_found_in_the_section_and_the_file_where_it_stands(tmp_path: Path) -> None:
    files: dict[str, Content] = {
        "auto.iscsi.conf": 'lun = 1\n["*:[a-c]"]\nlun = 2\n',
        "auto.iscsi.conf.d/b.conf": (
            "# lun = x\nlun = 1\n[iqn.*]  # these\n\n   'lun'  = x\n[*:b]\nlun = y\n"
        ),
    }
    with pytest.raises(errors.BadConfiguration, match=r"^/etc/auto.iscsi.conf.d/b.conf:5: lun: "):
        resolve(tmp_path, files)


def test_what_shells_and_python_would_expand_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(errors.BadConfiguration, match=r"%\(fstype\)s|expected"):
        resolve(tmp_path, {"auto.iscsi.conf": "fstype = %(lun)s"})


def test_a_file_that_cannot_be_read_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    make_tree(tmp_path, {"/etc/auto.iscsi.conf/x": "a folder instead of a file"})
    with pytest.raises(errors.Failure, match=r"^/etc/auto\.iscsi\.conf: "):
        config_files.load(Host(str(tmp_path)))
