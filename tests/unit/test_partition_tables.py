"""Partition tables: are they read as the kernel reads them, and is nothing believed of them?"""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.volumes import partition_tables
from auto_iscsi.volumes.partition_tables import Malformed, Partition
from tests.unit.partitioned import gpt, mbr, put, put_gpt

PARTS = {1: (40, 99), 3: (1000, 1999), 128: (100, 999)}
READ = [Partition(1, 40, 60), Partition(3, 1000, 1000), Partition(128, 100, 900)]
#: Two primary partitions, and an extended one with two logical ones.
CHAIN = {
    0: mbr([(0x83, 64, 100), (0xEF, 200, 100), (0x05, 1000, 3000)]),
    1000: mbr([(0x8E, 8, 500), (0x05, 1000, 900)]),
    2000: mbr([(0x83, 16, 800)]),
}
CHAIN_READ = [
    Partition(1, 64, 100),
    Partition(2, 200, 100),
    Partition(5, 1008, 500),
    Partition(6, 2016, 800),
]


def read(disk: bytes | bytearray, block: int = 512) -> list[Partition]:
    """Read a disk's table; fail when that looks outside the disk, or never ends."""
    looks = 0

    def part(offset: int, size: int) -> bytes:
        nonlocal looks
        looks += 1
        assert offset >= 0 and size >= 0 and offset + size <= len(disk) and looks < 1000
        return bytes(disk[offset : offset + size])

    return partition_tables.read(part, len(disk), block)


def chain(sectors: dict[int, bytes], block: int = 512, blocks: int = 4096) -> bytearray:
    disk = bytearray(blocks * block)
    for at, sector in sectors.items():
        put(disk, block, at, sector)
    return disk


@pytest.mark.parametrize("block", [512, 4096])
def test_a_gpt_is_read_in_the_disks_own_blocks(block: int) -> None:
    scale = block // 512
    expected = [Partition(n, start * scale, size * scale) for n, start, size in READ]
    assert read(gpt(PARTS, block=block), block) == expected


@pytest.mark.parametrize(
    "broken",
    [(512, 8), (512 + 16, 4), (512 + 24, 1), (512 + 72, 1), (1024, 16), (1024 + 33, 1)],
    ids=["magic", "checksum", "own block", "place", "type", "first block"],
)
def test_the_second_gpt_stands_in_for_the_first(broken: tuple[int, int]) -> None:
    disk, (at, size) = gpt(PARTS), broken
    disk[at : at + size] = bytes(byte ^ 0x55 for byte in disk[at : at + size])
    assert read(disk) == READ


def test_the_first_gpt_needs_no_second_one() -> None:
    assert read(gpt(PARTS)[: -33 * 512] + bytes(33 * 512)) == READ


def test_without_either_gpt_the_disk_has_no_table() -> None:
    disk = gpt(PARTS)
    disk[512:1024] = disk[-512:] = bytes(512)
    with pytest.raises(Malformed):
        read(disk)


@pytest.mark.parametrize("protective", [mbr([(0xEE, 2, 10)]), bytes(512)], ids=["moved", "none"])
def test_a_gpt_without_its_protective_mbr_is_none(protective: bytes) -> None:
    # The kernel does not read it, either: it can be left over from an earlier use of the disk.
    disk = gpt(PARTS)
    put(disk, 512, 0, protective)
    with pytest.raises(Malformed):
        read(disk)
    put(disk, 512, 0, mbr([(0x83, 64, 100)]))
    assert read(disk) == [Partition(1, 64, 100)]


@pytest.mark.parametrize("count", [0, 4097, 1 << 31])
def test_a_gpt_with_too_many_entries_is_refused(count: int) -> None:
    disk = gpt({})
    for at, where in ((1, 2), (4095, 4000)):
        put_gpt(disk, 512, at, 1, where, bytes(16384), (34, 4000), count)
    with pytest.raises(Malformed):
        read(disk)


def test_logical_partitions_are_numbered_as_the_kernel_numbers_them() -> None:
    assert read(chain(CHAIN)) == CHAIN_READ
    expected = [Partition(n, start * 8, size * 8) for n, start, size in CHAIN_READ]
    assert read(chain(CHAIN, 4096), 4096) == expected


@pytest.mark.parametrize(
    "sector",
    [
        mbr([(0x83, 16, 800), (0x05, 0, 900)]),  # to the first link
        mbr([(0x83, 16, 800), (0x05, 1000, 900)]),  # to itself
        mbr([(0x83, 16, 800), (0x05, 3000, 90)]),  # out of the extended partition
        mbr([(0x83, 16, 800), (0x05, 0xFFFFFFFF, 90)]),
    ],
    ids=["to the first link", "to itself", "out", "far out"],
)
def test_a_chain_that_leads_back_or_out_is_refused(sector: bytes) -> None:
    with pytest.raises(Malformed):
        read(chain({**CHAIN, 2000: sector}))


def test_a_chain_that_ends_with_rubbish_shows_what_comes_before() -> None:
    assert read(chain({**CHAIN, 2000: bytes(512)})) == CHAIN_READ[:3]


def test_a_logical_partition_outside_keeps_its_number_and_is_left_out() -> None:
    assert read(chain({**CHAIN, 1000: mbr([(0x8E, 8, 5000), (0x05, 1000, 900)])})) == [
        *CHAIN_READ[:2],
        CHAIN_READ[3],
    ]


@pytest.mark.parametrize(
    ("parts", "left"),
    [
        ({1: (40, 99), 2: (99, 200), 3: (300, 400)}, [3]),
        ({1: (40, 900), 2: (50, 60), 3: (70, 80), 4: (901, 902)}, [4]),
        ({1: (40, 99), 2: (40, 99)}, []),
        ({1: (40, 4095), 2: (4095, 1 << 63), 3: (4096, 5000), 4: (50, 49)}, [1]),
        ({1: (0, 10), 2: (40, 41)}, [2]),
    ],
)
def test_what_overlaps_or_is_not_on_the_disk_is_left_out(
    parts: dict[int, tuple[int, int]], left: list[int]
) -> None:
    assert [each.number for each in read(gpt(parts))] == left


def test_a_boot_sector_is_no_table() -> None:
    sector = bytearray(mbr([(0x83, 64, 100)]))
    sector[446] = 0x20
    with pytest.raises(Malformed):
        read(chain({0: bytes(sector)}))


def assert_sound(disk: bytes | bytearray, block: int) -> None:
    """Read a table of any kind; whatever it shows is on the disk, and overlaps nothing."""
    try:
        shown = read(disk, block)
    except Malformed:
        return
    assert len({each.number for each in shown}) == len(shown)
    end = 0
    for each in sorted(shown, key=lambda each: each.start):
        assert 1 <= each.number <= 255 and each.size >= 1
        assert each.start >= max(end, block // 512)
        end = each.start + each.size
    assert end * 512 <= len(disk)


ANY = st.one_of(st.integers(0, 80), st.sampled_from([0, 1, 39, 40, 63, 1 << 31, (1 << 32) - 1]))
ENTRY = st.tuples(st.sampled_from([0, 0x05, 0x0F, 0x83, 0x8E, 0xEE]), ANY, ANY)


@given(
    st.dictionaries(st.integers(0, 63), st.lists(ENTRY, max_size=4).map(mbr), max_size=12),
    st.sampled_from([512, 4096]),
)
def test_no_mbr_leads_outside_or_never_ends(sectors: dict[int, bytes], block: int) -> None:
    assert_sound(chain(sectors, block, 64), block)


@given(
    st.dictionaries(st.integers(1, 32), st.tuples(ANY, ANY), max_size=8),
    st.one_of(st.just(2), st.just(2), ANY, st.just((1 << 64) - 1)),
    st.sampled_from([32, 32, 32, 31, 33, 1 << 31]),
    st.sampled_from([128, 128, 64, 256]),
    st.one_of(st.just((34, 60)), st.tuples(ANY, ANY)),
    st.sampled_from([512, 4096]),
)
def test_no_gpt_leads_outside(
    parts: dict[int, tuple[int, int]],
    where: int,
    count: int,
    size: int,
    usable: tuple[int, int],
    block: int,
) -> None:
    # Its checksums are right: whoever writes such a table makes them so.
    disk = bytearray(64 * block)
    put(disk, block, 0, mbr([(0xEE, 1, 63)]))
    entries = bytearray(32 * 128)
    for number, (first, last) in parts.items():
        struct.pack_into("<B31xQQ", entries, (number - 1) * 128, 1, first, last)
    put_gpt(disk, block, 1, 63, where if where < 60 else 2, bytes(entries), usable, count, size)
    disk = disk[: 64 * block]
    if where >= 60:
        struct.pack_into("<Q", disk, block + 72, where)
        header = disk[block : block + 16] + bytes(4) + disk[block + 20 : block + 92]
        struct.pack_into("<I", disk, block + 16, zlib.crc32(header))
    assert_sound(disk, block)


@given(st.binary(max_size=2048), st.integers(0, 8191), st.sampled_from([512, 4096]))
def test_no_bytes_at_all_do_harm(data: bytes, at: int, block: int) -> None:
    disk = gpt({1: (40, 50)}, blocks=128, block=block)
    disk[at : at + len(data)] = data
    assert_sound(disk[: 128 * block], block)
    assert_sound(data, block)
