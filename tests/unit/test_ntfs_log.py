"""Does an NTFS have changes in its log, by its own records?"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.volumes import superblock
from tests.unit.ntfs_volumes import CLEAN, CLUSTER, LOG, RECORD, TABLE, USED, ntfs, restart


def is_dirty(image: bytes | bytearray) -> bool | None:
    return superblock.is_dirty("ntfs3", lambda at, size: bytes(image[at : at + size]))


@pytest.mark.parametrize(
    ("pages", "dirty"),
    [
        ([], False),
        ([restart(1, *USED)], True),
        ([restart(1, *CLEAN)], False),
        ([restart(1, 0, 2)], False),
        ([restart(1, *CLEAN), restart(2, *USED)], True),
        ([restart(2, *CLEAN), restart(1, *USED)], False),
    ],
    ids=["empty", "used", "no-client", "flag", "second-is-newer", "second-is-older"],
)
def test_an_ntfs_is_dirty_if_its_log_has_a_client(pages: list[bytes], dirty: bool) -> None:
    assert is_dirty(ntfs(*pages)) is dirty


def test_a_log_that_cannot_be_found_is_unknown() -> None:
    assert is_dirty(ntfs(restart(1, *USED), name=1)) is None
    torn = ntfs(restart(1, *USED))
    torn[TABLE * CLUSTER + 2 * RECORD + 510] ^= 1
    assert is_dirty(torn) is None


def test_what_mkntfs_made_is_clean(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    try:
        subprocess.run(["mkntfs", "-q", "-F", "-f", image], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("mkntfs (ntfs-3g) is not installed")
    assert is_dirty(image.read_bytes()) is False


@given(
    st.lists(st.tuples(st.integers(0, (LOG + 2) * CLUSTER), st.binary(max_size=8)), max_size=9),
    st.booleans(),
)
def test_no_bytes_make_the_reader_fail(changes: list[tuple[int, bytes]], boot: bool) -> None:
    image = ntfs(restart(1, *USED))
    for place, noise in changes:
        at = place % 90 if boot else place
        image[at : at + len(noise)] = noise
    reads = []

    def read(at: int, size: int) -> bytes:
        reads.append(at)
        assert size <= 1 << 16
        if at < 0:
            raise ValueError(at)
        return bytes(image[at : at + size])

    with contextlib.suppress(ValueError, ArithmeticError):  # is_node_dirty() takes them
        superblock.is_dirty("ntfs3", read)
    assert len(reads) <= 4
