"""Which mount options does a type get that was found on a disk?"""

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
        ("iso9660", "ro nosuid uid=1000 context=x:y:z:s0"),
        ("squashfs", "ro nosuid context=x:y:z:s0"),
        ("f2fs", "ro nosuid context=x:y:z:s0"),
    ],
)
def test_what_belongs_to_other_types_is_left_out(fstype: str, options: str) -> None:
    assert " ".join(mount_options.fitting(fstype, ALL)) == options


def test_nouuid_is_there_once() -> None:
    assert mount_options.fitting("xfs", ("nouuid", "ro")) == ("nouuid", "ro")


@pytest.mark.parametrize(
    ("given", "fit"),
    [
        ("ro nosuid", "ro nosuid"),
        ("nosuid", "ro nosuid"),
        ("rw nosuid", "ro nosuid"),
        ("", "ro"),
        ("rw ro", "ro"),
    ],
)
def test_ro_is_there_literally_or_automounts_fsck_would_write(given: str, fit: str) -> None:
    assert mount_options.read_only(given.split()) == tuple(fit.split())


def test_each_type_with_a_journal_has_its_word_for_going_without() -> None:
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
