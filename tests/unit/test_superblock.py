"""Is the journal of a filesystem dirty, by its superblock and its log?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.volumes import superblock
from tests.unit.superblocks import BLOCKS, START, btrfs, ext, record, xfs


def is_dirty(family: str, image: bytes) -> bool | None:
    return superblock.is_dirty(family, lambda at, size: image[at : at + size])


UNMOUNT = record(1, 1, 1, 0x20)
WORK = record(1, 5, 3, 0x01)


def test_an_ext_filesystem_is_dirty_by_its_recovery_flag() -> None:
    assert is_dirty("ext", ext(0x2C2)) is False
    assert is_dirty("ext", ext(0x2C2 | 0x4)) is True


def test_a_btrfs_is_dirty_by_its_log_tree() -> None:
    assert is_dirty("btrfs", btrfs(0)) is False
    assert is_dirty("btrfs", btrfs(30 << 20)) is True


@pytest.mark.parametrize(
    ("image", "dirty"),
    [
        (xfs(UNMOUNT), False),
        (xfs([*WORK, *UNMOUNT]), False),
        (xfs([*UNMOUNT, *WORK]), True),
        (xfs(WORK), True),
        (xfs([*record(3, 5, 2, 1), *record(3, 1, 1, 0x20)], before=2), False),
        (xfs([*record(3, 1, 1, 0x20), *record(3, 5, 2, 1)], before=2), True),
        # A log buffer of 256 KiB has eight header blocks.
        (xfs([*WORK, *record(1, 1, 1, 0x20, buffer=256 << 10)]), False),
        # An unmount record counts only when its record holds nothing else.
        (xfs([*UNMOUNT, *record(1, 1, 2, 0x20)]), True),
    ],
    ids=["made", "unmounted", "used-again", "used", "cycle-3", "cycle-3-used", "large", "two"],
)
def test_an_xfs_is_clean_if_its_log_ends_with_an_unmount_record(image: bytes, dirty: bool) -> None:
    assert is_dirty("xfs", image) is dirty


def test_an_xfs_log_that_is_full_to_its_last_block() -> None:
    fill = BLOCKS - len(UNMOUNT)
    assert is_dirty("xfs", xfs([*record(2, fill - 1, 3, 1), *record(2, 1, 1, 0x20)])) is False
    assert is_dirty("xfs", xfs(record(2, BLOCKS - 1, 3, 1))) is True


def test_an_xfs_whose_log_is_on_another_device_is_unknown() -> None:
    assert is_dirty("xfs", xfs(UNMOUNT, start=0)) is None


@pytest.mark.parametrize("family", ["ext", "btrfs", "xfs", "vfat", "ntfs3", "zfs_member"])
@given(image=st.binary(max_size=2048))
def test_another_format_or_a_short_image_is_unknown(family: str, image: bytes) -> None:
    assert is_dirty(family, image) is None


@given(st.data())
def test_the_search_in_a_log_ends_and_stays_within_the_log(data: st.DataObject) -> None:
    log = [data.draw(st.binary(min_size=16, max_size=16)).ljust(512, b"\0") for _ in range(4)]
    image = xfs(log * (BLOCKS // 4))
    reads = []

    def read(at: int, size: int) -> bytes:
        reads.append(at)
        assert at == 0 or START * 4096 <= at <= START * 4096 + BLOCKS * 512
        return image[at : at + size]

    superblock.is_dirty("xfs", read)
    assert len(reads) < BLOCKS + 30
