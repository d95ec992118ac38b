"""md's superblocks: are they read as md writes them, and refused when they are anything else?"""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.volumes import md_superblock
from auto_iscsi.volumes.md_superblock import Malformed
from tests.unit.md_members import (
    OFFSETS,
    PLACES,
    SECTORS,
    SIZE,
    member,
    old_superblock,
    summed,
    superblock,
)


def read(disk: bytearray, sectors: int = SECTORS) -> md_superblock.Member | None:
    return md_superblock.read_member(lambda at, size: bytes(disk[at : at + size]), sectors)


def why(block: bytes, version: str = "1.2") -> str:
    found = read(member(version, block))
    assert found
    return found.why


@pytest.mark.parametrize("version", PLACES)
def test_each_version_is_read_where_it_lies(version: str) -> None:
    found = read(member(version))
    assert found and found.why == ""
    assert (found.version, found.level_name, found.events) == (version, "raid1", 20)
    assert (found.role, found.offset, found.size) == (0, OFFSETS[version], SIZE)
    assert found.roles[:2] == (0, 1)


def test_what_has_no_superblock_is_no_member() -> None:
    assert read(bytearray(SECTORS * 512)) is None
    assert read(bytearray(0), 0) is None
    assert read(member("1.1"), SECTORS) is not None
    moved = member("1.2")
    moved[:] = moved[512:] + moved[:512]
    assert read(moved) is None
    # The end of the device is elsewhere: the superblock there is that of another one.
    assert read(member("1.0") + bytearray(1 << 20), SECTORS + 2048) is None


@pytest.mark.parametrize("level", [-1, 0, 4, 5, 6, 10])
@pytest.mark.parametrize("version", ["0.90", "1.2"])
def test_other_levels_are_named(level: int, version: str) -> None:
    block = old_superblock(level=level) if version == "0.90" else superblock(level=level)
    name = "linear" if level == -1 else f"raid{level}"
    assert f"a member of a {name} array" in why(block, version)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (superblock(features=2), "was being rebuilt"),
        (superblock(features=4), "was being reshaped"),
        (superblock(features=64), "was being reshaped"),
        (superblock(features=0x10000), "features that are unknown here (0x10000)"),
        (superblock(features=512, roles=(0xFFFD, 1)), "the journal of an array"),
        (superblock(roles=(0xFFFE, 1)), "a failed disk"),
        (superblock(roles=(0xFFFF, 1)), "a spare disk"),
        (superblock(number=7), "a spare disk"),
    ],
)
def test_a_disk_that_does_not_have_all_data_is_named(block: bytes, reason: str) -> None:
    assert reason in why(block)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (old_superblock(states=(1, 6)), "a failed disk"),
        (old_superblock(states=(8, 6)), "a failed disk"),
        (old_superblock(states=(2, 6)), "a spare disk of its array, or was being rebuilt"),
        (old_superblock(states=(0, 6)), "a spare disk"),
        (old_superblock(minor=91), "was being reshaped"),
    ],
)
def test_a_disk_of_the_old_version_that_does_not_have_all_data_is_named(
    block: bytes, reason: str
) -> None:
    assert reason in why(block, "0.90")


def test_bad_blocks_make_a_member_useless_and_an_empty_list_of_them_does_not() -> None:
    disk = member("1.2", superblock(features=8, bad=(1, 16)))
    disk[24 * 512 : 25 * 512] = b"\xff" * 512
    found = read(disk)
    assert found and found.why == ""
    disk[24 * 512 : 24 * 512 + 8] = struct.pack("<Q", 100 << 10 | 8)
    found = read(disk)
    assert found and "bad blocks" in found.why


@pytest.mark.parametrize(
    "disk",
    [
        member("1.2", superblock(offset=SECTORS - SIZE + 1)),
        member("1.2", superblock(offset=(1 << 64) - SIZE)),
        member("1.2", superblock(offset=8)),
        member("1.2", superblock(size=SIZE, room=SIZE - 1)),
        member("1.2", superblock(size=0)),
        member("1.0", superblock("1.0", size=PLACES["1.0"] + 1)),
        member("0.90", old_superblock(size=PLACES["0.90"] + 2)),
        member("0.90", old_superblock(number=27)),
        member("1.2", superblock(features=8, bad=(9, 16))),
        member("1.2", superblock(features=8, bad=(1, -9))),
        member("1.2", superblock(features=8, bad=(1, 1 << 30))),
        member("1.2", superblock(roles=(0,) * 1921)),
    ],
)
def test_what_lies_outside_the_device_is_refused(disk: bytearray) -> None:
    with pytest.raises(Malformed):
        read(disk)


def test_superblocks_of_two_versions_are_refused() -> None:
    disk = member("1.2")
    disk[PLACES["0.90"] * 512 : PLACES["0.90"] * 512 + 4096] = old_superblock()
    with pytest.raises(Malformed, match=r"the versions 0\.90 and 1\.2"):
        read(disk)


@pytest.mark.parametrize("version", PLACES)
@pytest.mark.parametrize("place", [8, 20, 80, 130, 140, 155, 200])
def test_a_byte_that_is_wrong_is_noticed(version: str, place: int) -> None:
    disk = member(version)
    disk[PLACES[version] * 512 + place] ^= 0x55
    with contextlib.suppress(Malformed):
        assert read(disk) is None  # its place is not its own


@given(
    st.sampled_from(sorted(PLACES)),
    st.lists(st.tuples(st.integers(0, 1023), st.integers(0, (1 << 32) - 1)), max_size=8),
    st.integers(0, SECTORS),
    st.booleans(),
)
def test_no_superblock_leads_outside_the_device(
    version: str, changes: list[tuple[int, int]], sectors: int, short: bool
) -> None:
    block = bytearray(old_superblock() if version == "0.90" else superblock(version))
    for index, value in changes:
        struct.pack_into("<I", block, index * 4 % (len(block) - 3), value)
    place = 152 if version == "0.90" else 216
    disk = member(version, summed(bytes(block), place))  # as one does who wants to be believed
    size = sectors if short else SECTORS
    asked = []

    def read_inside(at: int, count: int) -> bytes:
        asked.append((at, count))
        assert at >= 0 and count <= 8192
        return bytes(disk[: size * 512][at : at + count])

    try:
        found = md_superblock.read_member(read_inside, size)
    except Malformed:
        return
    if found and not found.why:
        assert found.offset >= 0 and found.size > 0
        assert found.offset + found.size <= size
    assert len(asked) < 12


@given(st.sampled_from(sorted(PLACES.values())), st.binary(max_size=5000))
def test_no_bytes_make_the_reader_fail_otherwise(place: int, noise: bytes) -> None:
    disk = bytearray(SECTORS * 512)
    disk[place * 512 : place * 512 + len(noise)] = noise
    with contextlib.suppress(Malformed):
        read(disk)
