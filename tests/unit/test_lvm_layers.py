"""What a logical volume is made of: which devices show it, and which volumes are refused?"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.volumes import lvm_layers, lvm_volumes
from auto_iscsi.volumes.lvm_layers import CannotBeShown, PoolPlan, ThinPlan
from auto_iscsi.volumes.lvm_text import Malformed
from auto_iscsi.volumes.lvm_volumes import Segment, Stripe
from tests.unit.logical_volumes import MIB, TEXT, leg_record, pool_record
from tests.unit.physical_volumes import PVS

FIRST, SECOND = (pv.replace("-", "") for pv in PVS)
RECORDS = {
    Stripe(FIRST, 2048): pool_record(),
    Stripe(FIRST, 2048 + 36 * MIB): leg_record(0),
    Stripe(SECOND, 2048): leg_record(1),
}


def plan(
    name: str,
    text: str = TEXT,
    records: dict[Stripe, bytes] = RECORDS,
    present: tuple[str, ...] = (FIRST, SECOND),
) -> lvm_layers.Plan:
    group = lvm_volumes.parse(text)
    usable = frozenset(present) - set(group.missing)
    layers = lvm_layers.Layers(group, usable, records.get)
    (volume,) = (each for each in group.volumes if each.name == name)
    return layers.plan(volume)


def linear(size: int, pv: str, first: int) -> tuple[Segment, ...]:
    return (Segment(0, size * MIB, (Stripe(pv, 2048 + first * MIB),), 0),)


def refusal(name: str, text: str = TEXT, **given: object) -> str:
    with pytest.raises(CannotBeShown) as refused:
        plan(name, text, **given)  # type: ignore[arg-type]
    return str(refused.value)


def test_only_what_users_see_is_offered() -> None:
    names = [volume.name for volume in lvm_volumes.parse(TEXT).volumes]
    assert names == ["thin", "snap", "twice", "through", "back", "old", "store", "five"]


def test_thin_volumes_lie_on_their_pool() -> None:
    pool = PoolPlan(
        "pool",
        "pool_tmeta",
        "pool_tdata",
        linear(4, FIRST, 0),
        linear(32, FIRST, 4),
        512 * 128,
        128,
    )
    assert plan("thin") == ThinPlan(pool, 64 * MIB, 1)
    assert plan("snap") == ThinPlan(pool, 64 * MIB, 2)


def test_a_raid1_is_shown_by_its_first_leg_and_a_cache_by_its_origin() -> None:
    assert plan("twice") == linear(16, FIRST, 37)
    assert plan("through") == linear(16, FIRST, 53)
    assert plan("old") == linear(8, FIRST, 85)


def test_a_pool_can_lie_on_raid1() -> None:
    text = TEXT.replace('pool = "pool_tdata"', 'pool = "twice"').replace(
        "extent_count = 32", "extent_count = 16"
    )
    shown = plan("thin", text, {**RECORDS, Stripe(FIRST, 2048): pool_record(blocks=256)})
    assert isinstance(shown, ThinPlan) and shown.pool.data == linear(16, FIRST, 37)


def test_a_missing_disk_leaves_the_other_leg_and_what_is_whole() -> None:
    records = {Stripe(SECOND, 2048): leg_record(1)}
    assert plan("twice", records=records, present=(SECOND,)) == linear(16, SECOND, 1)
    assert "are missing" in refusal("thin", present=(SECOND,))
    assert "are missing" in refusal("old", present=(SECOND,))
    # LVM calls a disk missing that came back with old data.
    old = TEXT.replace(f'id = "{PVS[0]}"', f'id = "{PVS[0]}"\nflags = ["MISSING"]')
    assert plan("twice", old, records) == linear(16, SECOND, 1)
    assert "are missing" in refusal("old", old)


FIRST_RECORD, SECOND_RECORD = Stripe(FIRST, 2048 + 36 * MIB), Stripe(SECOND, 2048)


@pytest.mark.parametrize(
    "first",
    [
        leg_record(0, recovered=2048),  # it is being rebuilt
        leg_record(0, events=5),  # it was away
        leg_record(1),  # it is another leg's
        bytes(512),  # it is new
    ],
)
def test_a_leg_that_is_not_in_step_is_passed_over(first: bytes) -> None:
    records = {FIRST_RECORD: first, SECOND_RECORD: leg_record(1)}
    assert plan("twice", records=records) == linear(16, SECOND, 1)


def test_a_leg_that_another_one_calls_failed_is_passed_over() -> None:
    records = {FIRST_RECORD: leg_record(0, events=8), SECOND_RECORD: leg_record(1, failed=1)}
    assert plan("twice", records=records) == linear(16, SECOND, 1)
    rebuilt = TEXT.replace(
        'twice_rimage_0 {\nid = "Sox32I-xDtK-Jm3x-mydU-nCse-qKeS-abcdef"\nstatus = [',
        'twice_rimage_0 {\nstatus = ["REBUILD", ',
    )
    assert rebuilt != TEXT and plan("twice", rebuilt) == linear(16, SECOND, 1)


def test_before_the_first_copy_is_done_only_the_first_leg_has_all() -> None:
    records = {
        FIRST_RECORD: leg_record(0, resynced=2048),
        SECOND_RECORD: leg_record(1, resynced=2048),
    }
    assert plan("twice", records=records) == linear(16, FIRST, 37)
    assert "not in step" in refusal("twice", records=records, present=(SECOND,))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("back", "the mode of its cache is 'writeback'"),
        ("store", "it is a snapshot of 'old'"),
        ("five", "of raid, only raid1"),
    ],
)
def test_what_cannot_be_shown_is_named(name: str, why: str) -> None:
    assert why in refusal(name)


@pytest.mark.parametrize(
    ("name", "old", "new", "why"),
    [
        ("through", '"writethrough"', '"writeback"', "writeback"),
        ("through", 'cache_mode = "writethrough"\n', "", "unknown"),
        ("through", 'type = "cache"', 'cleaner = 1\ntype = "cache"', "emptied"),
        ("through", 'policy = "smq"', 'policy = "cleaner"', "emptied"),
        ("through", 'type = "cache"', 'type = "writecache"', "writecache"),
        ("through", 'type = "cache"', 'type = "cache+NEW"', "'cache+NEW'"),
        ("snap", 'origin = "thin"', 'external_origin = "old"', "outside its pool"),
        ("old", 'cow_store = "store"', 'merging_store = "store"', "merged into it"),
        ("thin", 'metadata = "pool_tmeta"', 'metadata = "thin"', "made of other"),
        ("thin", "chunk_size = 128\ndis", "chunk_size = 100\ndis", "chunk_size is 100"),
        ("thin", "device_id = 1", "device_id = 16777216", "device_id is 16777216"),
        ("thin", "device_id = 1", 'device_id = "1; 0 8 linear"', "device_id is '1; 0 8"),
        ("thin", 'metadata = "pool_tmeta"', 'metadata = "pool"', "made of other"),
        ("thin", 'pool = "pool_tdata"', 'pool = "snapshot0"', "no volume"),
        ("thin", 'thin_pool = "pool"', 'thin_pool = "thin"', "no thin pool"),
        ("through", 'origin = "through_corig"', 'origin = "through"', "cached"),
        ("through", 'origin = "through_corig"', 'origin = "old"', "another size"),
        ("twice", "twice_rimage_", "twice", "made of other"),
    ],
)
def test_what_is_made_of_something_else_is_refused(name: str, old: str, new: str, why: str) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new)
    if new == "twice":
        text = re.sub(r'"twice[01]"', '"twice"', text)
    assert why in refusal(name, text)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (pool_record(flags=1), "needs a check"),
        (pool_record(transaction_id=4), "transaction 4"),
        (pool_record(chunk=256), "another size"),
        (pool_record(meta=1025), "another size"),
        (pool_record(blocks=0), "another size"),
        (pool_record(blocks=513), "larger than the volume"),
        (bytes(512), "no superblock"),
        (b"", "cannot be read"),
    ],
)
def test_a_pool_that_the_kernel_would_have_to_change_is_refused(record: bytes, why: str) -> None:
    assert why in refusal("thin", records={Stripe(FIRST, 2048): record})


def segments(shown: lvm_layers.Plan) -> list[Segment]:
    if isinstance(shown, ThinPlan):
        return segments(shown.pool)
    return [*shown.metadata, *shown.data] if isinstance(shown, PoolPlan) else list(shown)


NAMES = re.findall(r"^(\w+) \{$", TEXT, re.M)
WORDS = st.one_of(
    st.sampled_from(NAMES).map(lambda name: f'"{name}"'),
    st.sampled_from(["{", "}", "[", "]", "=", '"raid1"', '"thin"', '"cache"', '"thin-pool"']),
    st.integers(-2, 100).map(str),
    st.integers(-(1 << 70), 1 << 70).map(str),
    st.text(max_size=4),
)


@given(st.data())
def test_no_text_makes_layers_without_end_or_outside_the_disks(data: st.DataObject) -> None:
    words = TEXT.split(" ")
    starts = [index for index, word in enumerate(words) if word == "="]
    for _ in range(data.draw(st.integers(1, 6))):
        index = data.draw(st.sampled_from(starts)) + 1
        rest = words[index].partition("\n")
        words[index] = data.draw(WORDS) + rest[1] + rest[2]
    text = " ".join(words)
    if "pe_start = 2048\npe_count = 99" not in text or "pe_start = 2048\npe_count = 60" not in text:
        return
    try:
        group = lvm_volumes.parse(text)
    except Malformed:
        return
    if f"extent_size = {MIB}\n" not in text:
        return
    ends = {FIRST: 2048 + 99 * MIB, SECOND: 2048 + 60 * MIB}
    layers = lvm_layers.Layers(group, frozenset(ends), RECORDS.get)
    for volume in group.volumes:
        try:
            shown = layers.plan(volume)
        except CannotBeShown:
            continue
        for segment in segments(shown):
            each = segment.size // len(segment.stripes)
            assert all(
                stripe.start >= 2048 and stripe.start + each <= ends[stripe.pv]
                for stripe in segment.stripes
            )


@given(st.binary(max_size=600), st.integers(0, 400))
def test_no_record_makes_a_reader_fail(noise: bytes, place: int) -> None:
    for good in (pool_record(), leg_record(0)):
        record = (good[:place] + noise + good[place + len(noise) :])[:512]
        records = {**RECORDS, Stripe(FIRST, 2048): record, FIRST_RECORD: record}
        for name in ("thin", "twice"):
            try:
                shown = plan(name, records=records)
            except CannotBeShown:
                continue
            if isinstance(shown, ThinPlan):
                assert 0 < shown.pool.sectors <= 32 * MIB
