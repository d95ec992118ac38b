"""The mount options that a filesystem gets when its type was found on the disk."""

from __future__ import annotations

import pytest

from auto_iscsi import errors
from auto_iscsi.volumes import mount_options

ALL = ("nocheck", "ro", "nosuid", "uid=1000", "norecovery", "noload", "context=x:y:z:s0")


@pytest.mark.parametrize(
    ("fstype", "options"),
    [
        ("ext2", "nocheck ro nosuid norecovery noload context=x:y:z:s0"),
        ("ext4", "nocheck ro nosuid norecovery noload context=x:y:z:s0"),
        ("xfs", "ro nosuid norecovery context=x:y:z:s0 nouuid"),
        ("btrfs", "ro nosuid norecovery context=x:y:z:s0"),
        ("vfat", "ro nosuid uid=1000 context=x:y:z:s0"),
        ("ntfs3", "ro nosuid uid=1000 context=x:y:z:s0"),
        ("ntfs-3g", "ro nosuid uid=1000 context=x:y:z:s0"),
        ("exfat", "ro nosuid uid=1000 context=x:y:z:s0"),
        ("iso9660", "ro nosuid uid=1000 context=x:y:z:s0"),
        ("squashfs", "ro nosuid context=x:y:z:s0"),
        ("f2fs", "ro nosuid context=x:y:z:s0"),
    ],
)
def test_an_option_that_only_other_types_accept_is_left_out(fstype: str, options: str) -> None:
    assert " ".join(mount_options.for_type(fstype, ALL)) == options


def test_an_option_that_no_table_names_is_passed_to_every_type() -> None:
    for fstype in ("ext4", "xfs", "vfat", "f2fs"):
        assert mount_options.for_type(fstype, ("ro", "made_up=1"))[:2] == ("ro", "made_up=1")


def test_xfs_gets_nouuid_only_once() -> None:
    assert mount_options.for_type("xfs", ("nouuid", "ro")) == ("nouuid", "ro")


@pytest.mark.parametrize(
    ("options", "read_only"),
    [
        ("ro nosuid", "ro nosuid"),
        ("nosuid", "ro nosuid"),
        ("rw nosuid", "ro nosuid"),
        ("", "ro"),
        ("rw ro", "ro"),
    ],
)
def test_a_read_only_mount_has_ro_so_that_automounts_fsck_repairs_nothing(
    options: str, read_only: str
) -> None:
    assert mount_options.read_only(options.split()) == tuple(read_only.split())


def test_each_type_with_a_journal_has_an_option_to_mount_without_it() -> None:
    for fstype, option in (
        ("ext3", "noload"),
        ("ext4", "noload"),
        ("xfs", "norecovery"),
        ("btrfs", "rescue=nologreplay"),
    ):
        assert mount_options.without_journal(fstype, ("ro",)) == ("ro", option)
        assert mount_options.without_journal(fstype, ("ro", option)) == ("ro", option)
    with pytest.raises(errors.Failure):
        mount_options.without_journal("jfs", ("ro",))
