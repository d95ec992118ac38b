"""LVM's metadata: is it read as LVM wrote it, and refused when it is anything else?"""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.volumes import lvm_metadata, lvm_text, lvm_volumes
from auto_iscsi.volumes.lvm_text import Malformed
from auto_iscsi.volumes.lvm_volumes import Segment, Stripe
from tests.unit.physical_volumes import AREA, AREA_SIZE, PVS, TEXT, crc, physical_volume


def read_label(disk: bytearray) -> lvm_metadata.PhysicalVolume | None:
    return lvm_metadata.read_label(lambda offset, size: bytes(disk[offset : offset + size]))


@pytest.mark.parametrize("offset", [512, AREA_SIZE - 300], ids=["in one piece", "around the end"])
def test_a_label_leads_to_the_text(offset: int) -> None:
    label = read_label(physical_volume(TEXT, offset))
    assert label == (PVS[0].replace("-", ""), TEXT)


def test_a_volume_group_is_read_as_lvm_wrote_it() -> None:
    group = lvm_volumes.parse(TEXT)
    first, second = (pv.replace("-", "") for pv in PVS)
    assert (group.name, group.seqno, group.pv_uuids) == ("vg0", 5, (first, second))
    root, striped, squeezed = group.volumes  # the spare is not for users
    assert root.segments == (
        Segment(0, 81920, (Stripe(first, 2048),), 0),
        Segment(81920, 16384, (Stripe(first, 2048 + 19 * 8192),), 0),
    )
    assert striped.segments == (
        Segment(0, 65536, (Stripe(first, 2048 + 15 * 8192), Stripe(second, 2048)), 128),
    )
    assert (squeezed.segments, squeezed.why) == ((), "its data is compressed by VDO")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("extent_count = 10", "extent_count = 50"),
        ("extent_count = 10", "extent_count = -1"),
        ("extent_count = 10", "extent_count = 99999999999999999999"),
        ('"pv0", 19', '"pv0", 48'),
        ('"pv0", 19', '"pv0", -1'),
        ('"pv0", 19', '"pv7", 0'),
        ('"pv0", 19', '"pv0"'),
        ("start_extent = 10", "start_extent = 9"),
        ("stripe_size = 128", "stripe_size = 0"),
        ("stripe_size = 128", "stripe_size = 100"),
        ("stripe_count = 2", "stripe_count = 3"),
        ("segment_count = 2", "segment_count = 3"),
        ("segment_count = 2", "segment_count = 0"),
        ("root {", "-root {"),
        ("root {", "ro/ot {"),
        ("root {", "r;0,1 {"),
        ("vg0 {", "../vg0 {"),
        ("seqno = 5", "seqno = five"),
        ("seqno = 5", "seqno 5"),
        ("logical_volumes {", "logical_volumes {\n{"),
        ("extent_size = 8192", "extent_size = 0"),
        ("extent_size = 8192", "extent_size = 8192\nextent_size = 1"),
    ],
)
def test_what_lvm_does_not_write_is_refused(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises(Malformed):
        lvm_volumes.parse(TEXT.replace(old, new, 1))


@pytest.mark.parametrize("place", [513, 520, 540, 560, 600, AREA + 1, AREA + 30, AREA + 600])
def test_a_byte_that_is_wrong_is_noticed(place: int) -> None:
    disk = physical_volume(TEXT)
    disk[place] ^= 0x55
    try:
        label = read_label(disk)
    except Malformed:
        return
    assert label is None  # no label at all


def is_inside(group: lvm_volumes.VolumeGroup) -> bool:
    """Tell whether each segment lies in the extents that TEXT gives its physical volumes."""
    ends = dict(zip((pv.replace("-", "") for pv in PVS), (2048 + 49 * 8192, 2048 + 24 * 8192)))
    return all(
        stripe.start >= 2048
        and stripe.start + segment.size // len(segment.stripes) <= ends[stripe.pv]
        for volume in group.volumes
        for segment in volume.segments
        for stripe in segment.stripes
    )


NUMBERS = st.one_of(st.integers(-2, 60), st.integers(-(1 << 70), 1 << 70)).map(str)
WORDS = st.sampled_from(["{", "}", "[", "]", "=", '"', "#", "\n", ",", "pv0", "segment1", '"pv1"'])


@given(st.data())
def test_no_text_is_mapped_outside_its_physical_volume(data: st.DataObject) -> None:
    words = TEXT.split(" ")
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(words) - 1))
        words[index] = data.draw(st.one_of(NUMBERS, WORDS, st.text(max_size=5)))
    text = " ".join(words)
    if any(f"{name} = {value}\n" not in text for name, value in (("pe_start", 2048),)):
        return
    if "pe_count = 49" not in text or "pe_count = 24" not in text or "8192" not in text:
        return
    try:
        group = lvm_volumes.parse(text)
    except Malformed:
        return
    assert is_inside(group)


@given(st.binary(max_size=300), st.integers(0, 2000), st.booleans())
def test_no_bytes_make_the_reader_fail_otherwise(noise: bytes, place: int, mended: bool) -> None:
    disk = physical_volume("vg0 {\n}\n")
    at = 512 + place % 512 if place < 1000 else AREA + place % 512
    disk[at : at + len(noise)] = noise
    del disk[1 << 20 :]
    if mended:  # as somebody does who wants to be believed
        disk[528:532] = struct.pack("<I", crc(bytes(disk[532:1024])))
        disk[AREA : AREA + 4] = struct.pack("<I", crc(bytes(disk[AREA + 4 : AREA + 512])))
    try:
        label = read_label(disk)
        if label:
            lvm_volumes.parse(label.text)
    except Malformed:
        pass


@pytest.mark.parametrize("piece", ["x", "\\x"])
def test_a_long_string_takes_little_memory(piece: str) -> None:
    """16 MiB of it took 2.3 GiB of root's memory, at any user's visit."""
    tracemalloc.start()
    try:
        assert lvm_text.parse(f'vg {{ a = "{piece * (1 << 20)}" }}')
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("written", "value"),
    [('"a\\"b"', 'a"b'), ('"a\\\\"', "a\\"), ('""', ""), ('"a}=[#"', "a}=[#")],
)
def test_a_string_ends_at_its_quote(written: str, value: str) -> None:
    assert lvm_text.parse(f"a = {written} b = 1") == {"a": value, "b": 1}


@pytest.mark.parametrize("text", ['a = "', 'a = "b', 'a = "b\\"', 'a = "b\\', '"a" = 1'])
def test_a_string_without_an_end_is_refused(text: str) -> None:
    with pytest.raises(lvm_text.Malformed):
        lvm_text.parse(text)


def test_the_checksum_is_that_of_zlib_with_another_start() -> None:
    assert crc(b"123456789") == zlib.crc32(b"123456789", 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
