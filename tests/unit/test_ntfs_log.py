"""Does an NTFS have changes in its log, by its own records?"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.volumes import superblock

CLUSTER, RECORD = 4096, 1024
TABLE, LOG = 4, 16  # clusters
USED, CLEAN = (0, 0), (0xFFFF, 0)


def is_dirty(image: bytes | bytearray) -> bool | None:
    return superblock.is_dirty("ntfs3", lambda at, size: bytes(image[at : at + size]))


def protected(block: bytearray, at: int) -> bytes:
    """Return a record with an update sequence at an offset (ntfs_fix_pre_write)."""
    struct.pack_into("<HH", block, 4, at, len(block) // 512 + 1)
    struct.pack_into("<H", block, at, 7)
    for index in range(1, len(block) // 512 + 1):
        end = index * 512
        block[at + 2 * index : at + 2 * index + 2] = block[end - 2 : end]
        struct.pack_into("<H", block, end - 2, 7)
    return bytes(block)


def restart(number: int, client: int, flags: int) -> bytes:
    """Return a restart page of the log."""
    page = bytearray(4096)
    page[:4] = b"RSTR"
    struct.pack_into("<IIH", page, 16, 4096, 4096, 0x30)
    struct.pack_into("<QHHHH", page, 0x30, number, 1, 0xFFFF, client, flags)
    return protected(page, 0x1E)


def ntfs(*pages: bytes, name: int = 0) -> bytearray:
    """Return an NTFS with these pages at the start of its log."""
    image = bytearray((LOG + 4) * CLUSTER)
    image[3:11] = b"NTFS    "
    struct.pack_into("<HB", image, 11, 512, CLUSTER // 512)
    struct.pack_into("<Q", image, 48, TABLE)
    image[64] = 256 - 10  # 1 << 10 bytes
    record = bytearray(RECORD)
    record[:4] = b"FILE"
    struct.pack_into("<H", record, 20, 56)
    struct.pack_into("<II", record, 56, 0x10, 24)
    struct.pack_into("<IIBB", record, 80, 0x80, 72, 1, name)
    struct.pack_into("<H", record, 80 + 32, 64)
    record[144:147] = bytes([0x11, 4, LOG])
    struct.pack_into("<I", record, 152, 0xFFFFFFFF)
    place = TABLE * CLUSTER + 2 * RECORD
    image[place : place + RECORD] = protected(record, 48)
    log = b"".join(pages).ljust(4 * CLUSTER, b"\xff")
    image[LOG * CLUSTER :] = log
    return image


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

    try:
        superblock.is_dirty("ntfs3", read)
    except (ValueError, ArithmeticError):  # is_node_dirty() takes them
        pass
    assert len(reads) <= 4
