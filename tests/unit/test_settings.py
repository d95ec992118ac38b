"""The settings of a target: defaults, sections as globs, and the values of every setting."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from auto_iscsi import errors, wording
from auto_iscsi.config import config_files, schema
from auto_iscsi.machine.host import Host
from auto_iscsi.portals import Portal
from tests.tree.tree import make_tree

TARGET = "iqn.2001-05.com.equallogic:0-8a0906-vm-beta-2010-05-03"
SHIPPED = Path(__file__).parents[2] / "etc/auto.iscsi.conf"


def resolve(root: Path, text: str, target: str = TARGET) -> schema.Settings:
    """Return the settings of a target when this is the configuration."""
    make_tree(root, {"/etc/auto.iscsi.conf": text})
    return schema.resolve(config_files.load(Host(str(root))), target)


def refused(root: Path, text: str, target: str = TARGET) -> str:
    """Return the line with which a target is refused."""
    with pytest.raises(errors.BadConfiguration) as failure:
        resolve(root, text, target)
    return wording.one_line(str(failure.value))


def test_the_defaults_are_what_the_original_did(tmp_path: Path) -> None:
    assert schema.resolve([], TARGET) == schema.Settings(
        enabled=True,
        options=("nocheck", "ro"),
        fstype="ext3",
        journal="auto",
        overlay_dir="/var/tmp",
        overlay_keep_free=10,
        luks_key_file="",
        partition=1,
        lun=0,
        with_=(),
        portals=(),
        chap_user="",
        chap_secret_file="",
        chap_mutual_user="",
        chap_mutual_secret_file="",
        chap_discovery="auto",
        paths="one",
        login_timeout=10,
        udev_timeout=10,
        lookup_timeout=60,
        replacement_timeout=30,
        attempts=120,
        device="by-path",
        idle=900,
        reap="own",
        lease=90,
        snapshot_name=(),
        timezone="local",
        link_format="%Y-%m-%d_%H:%M:%S",
    )


def test_the_shipped_file_changes_nothing_and_what_it_says_in_comments_is_the_default(
    tmp_path: Path,
) -> None:
    shipped = SHIPPED.read_text()
    assert resolve(tmp_path / "as-it-is", shipped) == schema.resolve([], TARGET)
    names = re.findall(r"^#(\w+) =.*$", shipped, re.MULTILINE)
    assert set(names) == set(schema.TABLE)
    uncommented = re.sub(r"^#(\w+ =)", r"\1", shipped, flags=re.MULTILINE)
    assert resolve(tmp_path / "said", uncommented) == schema.resolve([], TARGET)


CHAP = "chap_user = browse\nchap_secret_file = /s"
VALID = [
    ("enabled", "yes", True),
    ("enabled", "no", False),
    ("enabled", "No", False),
    ("enabled", "false", False),
    ("enabled", "on", True),
    ("options", "ro", ("ro",)),
    ("options", "ro, nosuid,nodev", ("ro", "nosuid", "nodev")),
    ("options", "ro,", ("ro",)),
    ("options", "", ()),
    ("options", "context=system_u:object_r:x_t:s0", ("context=system_u:object_r:x_t:s0",)),
    ("options", "rescue=nologreplay, uid=1000", ("rescue=nologreplay", "uid=1000")),
    ("fstype", "xfs", "xfs"),
    ("fstype", "fuse.ntfs-3g", "fuse.ntfs-3g"),
    ("fstype", "auto", "auto"),
    ("journal", "overlay", "overlay"),
    ("journal", "replay", "replay"),
    ("journal", "skip", "skip"),
    ("journal", "refuse", "refuse"),
    ("overlay_dir", "/srv/overlays", "/srv/overlays"),
    ("overlay_keep_free", "0", 0),
    ("partition", "1", 1),
    ("partition", "255", 255),
    ("partition", "none", 0),
    ("partition", "auto", "auto"),
    ("partition", "ALL", "all"),
    ("lun", "0", 0),
    ("lun", "16383", 16383),
    ("lun", "all", "all"),
    ("with", "", ()),
    ("with", "iqn.2001-05.com.Example:*, *data[0-9]", ("iqn.2001-05.com.example:*", "*data[0-9]")),
    ("portals", "", ()),
    ("portals", "10.0.0.1", (Portal("10.0.0.1"),)),
    ("portals", "10.0.0.1, [fd00::1]:860", (Portal("10.0.0.1"), Portal("fd00::1", 860))),
    ("chap_user", "", ""),
    ("chap_user", "a b\nchap_secret_file = /s", "a b"),
    ("luks_key_file", "/etc/key", "/etc/key"),
    ("chap_secret_file", '"/a, b"\nchap_user = browse', "/a, b"),
    ("chap_mutual_user", "array\nchap_mutual_secret_file = /t\n" + CHAP, "array"),
    ("chap_mutual_secret_file", "/t\nchap_mutual_user = array\n" + CHAP, "/t"),
    ("chap_discovery", "auto", "auto"),
    ("paths", "all", "all"),
    ("login_timeout", "15", 15),
    ("udev_timeout", "15s", 15),
    ("lookup_timeout", "2m", 120),
    ("replacement_timeout", "1h", 3600),
    ("replacement_timeout", "10 s", 10),
    ("attempts", "4", 4),
    ("device", "kernel", "kernel"),
    ("device", "by-path", "by-path"),
    ("idle", "0", 0),
    ("idle", "1h", 3600),
    ("reap", "own", "own"),
    ("reap", "any", "any"),
    ("reap", "never", "never"),
    ("lease", "1", 1),
    ("snapshot_name", "*:{volume}-{date:%Y-%m-%d}", ("*:{volume}-{date:%Y-%m-%d}",)),
    ("timezone", "Europe/Vienna", "Europe/Vienna"),
    ("link_format", "@GMT-%Y.%m.%d-%H.%M.%S", "@GMT-%Y.%m.%d-%H.%M.%S"),
]


@pytest.mark.parametrize(("name", "text", "value"), VALID)
def test_a_setting_takes(tmp_path: Path, name: str, text: str, value: Any) -> None:
    assert getattr(resolve(tmp_path, f"{name} = {text}"), schema.field(name)) == value


def test_every_setting_has_a_value_here_that_it_takes() -> None:
    assert {name for name, _, _ in VALID} == set(schema.TABLE)
    assert set(schema.Settings._fields) == {schema.field(name) for name in schema.TABLE}


INVALID = [
    ("enabled", "maybe", "yes or no"),
    ("enabled", "", "yes or no"),
    ("enabled", "yes, no", "not a list"),
    ("options", '"ro, nosuid"', "'ro, nosuid'"),
    ("options", "ro nosuid", "no spaces"),
    ("options", "-ro", "'-ro'"),
    ("options", '"ro :/dev/sda1"', "no spaces"),
    ("options", "'ro\"'", "quotes"),
    ("options", "ro$HOME", "ro$HOME"),
    ("options", "ro&", "ro&"),
    ("options", "ro\\", "not a mount option"),
    ("options", "ro, fstype=xfs", "setting of its own"),
    ("fstype", "", "filesystem type"),
    ("fstype", "ext3 :/dev/sda1", "filesystem type"),
    ("fstype", "ext3, xfs", "not a list"),
    ("fstype", "EXT3", "filesystem type"),
    ("journal", "", "expected auto, overlay, refuse"),
    ("journal", "ignore", "skip or replay"),
    ("overlay_dir", "tmp", "begins with /"),
    ("overlay_dir", "", "begins with /"),
    ("overlay_keep_free", "100", "0 to 99"),
    ("partition", "0", "1 to 255"),
    ("partition", "256", "1 to 255"),
    ("partition", "-1", "1 to 255"),
    ("partition", "one", "1 to 255"),
    ("partition", "1, 2", "not a list"),
    ("partition", "every", "none, auto, all or system"),
    ("lun", "auto", "0 to 16383 or all"),
    ("lun", "-1", "0 to 16383"),
    ("lun", "16384", "0 to 16383"),
    ("lun", "\u0661", "0 to 16383"),
    ("portals", "san.example.com", "numeric address"),
    ("portals", "10.0.0.1, fd00::1", "brackets"),
    ("portals", "10.0.0.1:99999", "1 to 65535"),
    ("chap_user", "caf\u00e9", "ASCII"),
    ("chap_user", "a, b", "not a list"),
    ("chap_user", "x" * 256, "at most 255"),
    ("chap_user", "browse", "it needs chap_secret_file"),
    ("luks_key_file", "key", "begins with /"),
    ("chap_secret_file", "secret", "begins with /"),
    ("chap_secret_file", "/", "begins with /"),
    ("chap_secret_file", "/s", "it needs chap_user"),
    ("chap_mutual_user", "array", "it needs chap_mutual_secret_file"),
    ("chap_mutual_user", "array\nchap_mutual_secret_file = /t", "it needs chap_user"),
    ("chap_mutual_secret_file", "/t", "it needs chap_mutual_user"),
    ("chap_discovery", "both", "auto or mutual"),
    ("paths", "2", "one or all"),
    ("chap_discovery", "mutual", "it needs chap_mutual_user"),
    ("login_timeout", "0", "above 0"),
    ("login_timeout", "0s", "above 0"),
    ("login_timeout", "-1", "expected a time"),
    ("udev_timeout", "soon", "expected a time"),
    ("udev_timeout", "1.5s", "expected a time"),
    ("lookup_timeout", "1d", "expected a time"),
    ("lookup_timeout", "", "expected a time"),
    ("replacement_timeout", "10ss", "expected a time"),
    ("attempts", "3", "4 to 100000"),
    ("device", "sda", "by-path or kernel"),
    ("device", "", "by-path or kernel"),
    ("idle", "-1", "expected a time"),
    ("reap", "no", "own, any or never"),
    ("lease", "0", "above 0"),
    ("with", "a b", "no pattern"),
    ("with", "../x", "no pattern"),
    ("snapshot_name", "{volume}", "once"),
    ("timezone", "Nowhere", "time zone"),
    ("link_format", "%Y/%m/%d", "letters, digits"),
    ("link_format", ".%Y-%m-%d", "letters, digits"),
    ("link_format", "%H:%M", "name a day"),
    ("link_format", "%Y-%m-%d %H", "letters, digits"),
    ("link_format", "%Y-%m-%d-%s", "%s is not one of"),
    ("link_format", "%Y-%m-%", "ends with %"),
]


@pytest.mark.parametrize(("name", "text", "why"), INVALID)
def test_a_setting_refuses(tmp_path: Path, name: str, text: str, why: str) -> None:
    line = refused(tmp_path, f"# a comment\n{name} = {text}\n")
    assert line.startswith(f"/etc/auto.iscsi.conf:2: {name}: ") and why in line


def test_every_setting_has_a_value_here_that_it_refuses() -> None:
    assert {name for name, _, _ in INVALID} == set(schema.TABLE)


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*", True),
        (TARGET, True),
        (TARGET.upper(), True),
        ("iqn.2001-05.com.equallogic:*", True),
        ("*-vm-beta-*", True),
        ("*-vm-beta", False),
        ("vm-beta", False),
        ("iqn.2001-05.com.equallogic:", False),
        ("iqn.2001-05.com.equallogic:0-8a0906-vm-bet?-2010-05-03", True),
        ("iqn.2001-05.com.equallogic:0-8a0906-vm-beta-2010-05-0?0", False),
        ('"iqn.*-2010-05-0[1-5]"', True),
        ('"iqn.*-2010-05-0[4-5]"', False),
        ("iqn-2001-05*", False),
        ("iqn.2001-05.com.equallogi", False),
    ],
)
def test_a_section_holds_for_the_targets_whose_whole_name_its_pattern_matches(
    tmp_path: Path, pattern: str, matches: bool
) -> None:
    chosen = resolve(tmp_path, f"fstype = ext4\n[{pattern}]\nfstype = xfs\n")
    assert chosen.fstype == ("xfs" if matches else "ext4")


def test_a_later_section_overrides_an_earlier_one_setting_by_setting(tmp_path: Path) -> None:
    chosen = resolve(
        tmp_path,
        """
        partition = 2
        lun = 1
        [*-vm-beta-*]
            partition = 3
            fstype = xfs
        [iqn.2001-05.com.equallogic:*]
            fstype = ext4
        [*-vm-gamma-*]
            lun = 9
        """,
    )
    assert (chosen.partition, chosen.lun, chosen.fstype) == (3, 1, "ext4")


def test_a_list_is_overridden_as_a_whole(tmp_path: Path) -> None:
    assert resolve(tmp_path, "options = ro, nosuid\n[*]\noptions = rw").options == ("rw",)


def test_a_wrong_value_refuses_the_targets_that_its_section_matches_and_no_others(
    tmp_path: Path,
) -> None:
    text = "[*-vm-beta-*]\n    fstype = xfs\n    partition = first\n"
    assert "auto.iscsi.conf:3: partition" in refused(tmp_path / "its", text)
    assert resolve(tmp_path / "other", text, "iqn.2001-05.com.equallogic:vm-gamma").partition == 1


def test_a_wrong_value_is_not_hidden_by_a_later_one(tmp_path: Path) -> None:
    assert ":1: partition" in refused(tmp_path, "partition = first\n[*]\npartition = 1\n")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("option", "options"),
        ("Options", "options"),
        ("fs_type", "fstype"),
        ("partitions", "partition"),
        ("portal", "portals"),
        ("login-timeout", "login_timeout"),
        ("udevtimeout", "udev_timeout"),
    ],
)
def test_an_unknown_setting_names_the_nearest_known_one(
    tmp_path: Path, name: str, nearest: str
) -> None:
    line = refused(tmp_path, f"enabled = yes\n{name} = 1")
    assert line.startswith(f"/etc/auto.iscsi.conf:2: {name}: no such setting")
    assert f"did you mean {nearest}?" in line


def test_an_unknown_setting_that_resembles_none_gets_no_suggestion(tmp_path: Path) -> None:
    line = refused(tmp_path, "zzz = 1")
    assert "no such setting" in line and "did you mean" not in line


def test_an_unknown_setting_refuses_the_targets_that_its_section_matches_and_no_others(
    tmp_path: Path,
) -> None:
    text = "[*-vm-gamma]\nfstyp = xfs"
    assert resolve(tmp_path / "other", text).fstype == "ext3"
    assert "did you mean fstype?" in refused(tmp_path / "its", text, "iqn.2001-05.com.x:a-vm-gamma")
