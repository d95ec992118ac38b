"""Understand the description of a volume group: its logical volumes, and what each is made of.

The words are those of LVM2's lib/format_text/export.c and of the directories below lib (striped,
raid, mirror, thin, cache_segtype, snapshot). What is read here becomes device-mapper tables that
the kernel gets from root, so every number is checked: a segment names only extents that its
physical volume has.
"""

from __future__ import annotations

from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.volumes import lvm_text
from auto_iscsi.volumes.lvm_text import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Union

_MOST_SECTORS = 1 << 54  # of a logical volume: 8 EiB, the kernel's limit
_MOST_LEGS = 64
_LAST_DEVICE_ID = (1 << 24) - 1  # Linux drivers/md/dm-thin.c, MAX_DEV_ID
_LEAST_CHUNK, _MOST_CHUNK = 128, 1 << 21  # sectors: dm-thin.c, DATA_DEV_BLOCK_SIZE_MIN, _MAX
_MOST_TRANSACTIONS = (1 << 64) - 1
#: Flags of a segment's type (`cache+CACHE_USES_CACHEVOL`) that change nothing for us.
_FLAGS = ("CACHE_USES_CACHEVOL", "METADATA_FORMAT", "CROP_METADATA")
#: Modes of a cache in which its origin has all data (Linux device-mapper/cache.rst).
_COMPLETE_MODES = ("writethrough", "passthrough")
_POOLS = ("thin-pool", "cache-pool", "vdo-pool")  # hold other volumes, and no files themselves
_REASONS = {
    "writecache": "its writecache can hold data that the volume lacks",
    "vdo": "its data is compressed by VDO",
    "integrity": "it has dm-integrity checksums",
    "error": "a part of it was lost before the snapshot was taken",
}


class Stripe(NamedTuple):
    """Where a part of a logical volume lies."""

    pv: str  #: the UUID of the physical volume
    start: int  #: sectors from the start of the physical volume


class Segment(NamedTuple):
    """A part of a logical volume that is mapped in one way."""

    start: int  #: sectors from the start of the logical volume
    size: int  #: sectors
    stripes: tuple[Stripe, ...]  #: one: linear
    stripe_size: int  #: sectors; 0 for one stripe


class Legs(NamedTuple):
    """A mirror, by the names of the volumes that each hold all of it."""

    images: tuple[str, ...]
    records: tuple[str, ...]  #: by leg, the volume with the state of raid1; empty for type mirror


class Pool(NamedTuple):
    """A thin pool, by the names of the volumes that it lies on."""

    metadata: str
    data: str
    chunk: int  #: sectors
    transaction_id: int


class Thin(NamedTuple):
    """A volume or snapshot in a thin pool."""

    pool: str  #: the name
    device_id: int


class Cached(NamedTuple):
    """A volume with a cache that holds nothing else than what the volume holds."""

    origin: str


if TYPE_CHECKING:
    MadeOf = Union[None, Legs, Pool, Thin, Cached]


class LogicalVolume(NamedTuple):
    """A logical volume."""

    name: str
    segments: tuple[Segment, ...]  #: empty: it cannot be shown, or is made of other volumes
    why: str = ""  #: why it cannot be shown
    sectors: int = 0  #: its size
    made_of: MadeOf = None
    is_rebuilt: bool = False  #: it is a leg that does not have all data yet


class VolumeGroup(NamedTuple):
    """A volume group, as its metadata describes it."""

    name: str
    uuid: str
    seqno: int  #: grows with each change
    pv_uuids: tuple[str, ...]
    volumes: tuple[LogicalVolume, ...]  #: those that users see
    hidden: tuple[LogicalVolume, ...] = ()  #: those that others are made of
    missing: tuple[str, ...] = ()  #: UUIDs of physical volumes whose data is old, by the metadata


class _Extents(NamedTuple):
    """A physical volume as the text describes it."""

    uuid: str
    start: int  #: sectors
    extents: int
    is_missing: bool


class _NotShown(Exception):
    """A logical volume cannot be shown; the text says why."""


def parse(text: str) -> VolumeGroup:
    """Return the volume group that a text describes; raise Malformed."""
    groups = {key: value for key, value in lvm_text.parse(text).items() if isinstance(value, dict)}
    if len(groups) != 1:
        raise Malformed("not one volume group")
    ((name, group),) = groups.items()
    extent = lvm_text.number(group, "extent_size", 1, 1 << 32)
    pvs = {
        key: _Extents(
            lvm_text.uuid(pv),
            lvm_text.number(pv, "pe_start", 0, 1 << 60),
            lvm_text.number(pv, "pe_count", 0, 1 << 40),
            "MISSING" in lvm_text.words(pv, "flags") + lvm_text.words(pv, "status"),
        )
        for key, pv in lvm_text.sections(group, "physical_volumes").items()
    }
    sections = lvm_text.sections(group, "logical_volumes")
    stores = _snapshot_stores(sections)
    shown, hidden = [], []
    for key, section in sections.items():
        if _first_type(section) == "snapshot":  # not a volume: it ties an origin to a store
            continue
        is_visible = "VISIBLE" in lvm_text.words(section, "status")
        if key in stores:
            shown.append(LogicalVolume(lvm_text.valid_name(key), (), stores[key]))
        elif is_visible and _first_type(section) not in _POOLS:
            shown.append(_volume(key, section, extent, pvs, sections))
        else:
            hidden.append(_hidden_volume(key, section, extent, pvs, sections))
    return VolumeGroup(
        lvm_text.valid_name(name),
        lvm_text.uuid(group),
        lvm_text.number(group, "seqno", 0, 1 << 32),
        tuple(pv.uuid for pv in pvs.values()),
        tuple(shown),
        tuple(hidden),
        tuple(pv.uuid for pv in pvs.values() if pv.is_missing),
    )


def _first_type(section: dict[str, Any]) -> str:
    """Return the type of a volume's first segment without its flags, "" where it has none."""
    first = section.get("segment1")
    kind = first.get("type") if isinstance(first, dict) else None
    return kind.partition("+")[0] if isinstance(kind, str) else ""


def _snapshot_stores(sections: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return, by name, why a volume is not shown because of snapshots that are not thin.

    A volume with such a snapshot's changes has nothing else in it. In the text it is not VISIBLE,
    though lvs(8) lists it (LVM2 lib/metadata/snapshot_manip.c). The origin has all data, unless a
    snapshot is being merged into it.
    """
    stores = {}
    for section in sections.values():
        if _first_type(section) != "snapshot":
            continue
        segment = section["segment1"]
        origin, store = segment.get("origin"), segment.get("cow_store")
        if isinstance(store, str):
            stores[store] = f"it is a snapshot of {lvm_text.printable(origin)}, and not thin"
        elif isinstance(origin, str):
            stores[origin] = "a snapshot is being merged into it"
            merged = segment.get("merging_store")
            if isinstance(merged, str):
                stores[merged] = f"it is being merged into {lvm_text.printable(origin)}"
    return stores


def _hidden_volume(
    name: str,
    section: dict[str, Any],
    extent: int,
    pvs: dict[str, _Extents],
    sections: dict[str, dict[str, Any]],
) -> LogicalVolume:
    """Return a volume that others can be made of. What is wrong with it matters only to those."""
    try:
        volume = _volume(name, section, extent, pvs, sections)
    except Malformed as error:
        return LogicalVolume(lvm_text.valid_name(name), (), str(error))
    # LVM2 lib/format_text/flags.c
    return volume._replace(is_rebuilt="REBUILD" in lvm_text.words(section, "status"))


def _volume(
    name: str,
    volume: dict[str, Any],
    extent: int,
    pvs: dict[str, _Extents],
    sections: dict[str, dict[str, Any]],
) -> LogicalVolume:
    """Return a logical volume; raise Malformed when it is outside its physical volumes."""
    lvm_text.valid_name(name)
    segments = []
    at = 0
    count = lvm_text.number(volume, "segment_count", 0, 1 << 20)
    for number in range(1, count + 1):
        section = volume.get(f"segment{number}")
        if not isinstance(section, dict):
            raise Malformed(f"{name} lacks a segment")
        start = lvm_text.number(section, "start_extent", 0, 1 << 40) * extent
        size = lvm_text.number(section, "extent_count", 1, 1 << 40) * extent
        if start != at or at + size > _MOST_SECTORS:
            raise Malformed(f"{name} has a gap or is too large")
        at += size
        try:
            if section.get("type") != "striped":
                if count > 1:
                    raise _NotShown(f"a part of it is of type {_type(section)}")
                return LogicalVolume(name, (), "", size, _made_of(section, sections))
            stripes = tuple(_stripes(name, section, size, extent, pvs, sections))
        except _NotShown as reason:
            return LogicalVolume(name, (), str(reason))
        segments.append(Segment(start, size, stripes, _stripe_size(name, section, size, stripes)))
    if not segments:
        raise Malformed(f"{name} has no segment")
    return LogicalVolume(name, tuple(segments), "", at)


def _stripe_size(name: str, section: dict[str, Any], size: int, stripes: tuple[Stripe, ...]) -> int:
    if len(stripes) == 1:  # LVM calls linear the striped type with one stripe
        return 0
    stripe_size = lvm_text.number(section, "stripe_size", 1, 1 << 32)
    if size % len(stripes) or (size // len(stripes)) % stripe_size:
        raise Malformed(f"{name} does not divide into its stripes")
    return stripe_size


def _stripes(
    name: str,
    section: dict[str, Any],
    size: int,
    extent: int,
    pvs: dict[str, _Extents],
    sections: dict[str, dict[str, Any]],
) -> Iterator[Stripe]:
    """Yield where the stripes of a segment of `size` sectors lie."""
    places = section.get("stripes")
    count = lvm_text.number(section, "stripe_count", 1, 128)
    if not isinstance(places, list) or len(places) != 2 * count:
        raise Malformed(f"{name} does not say where its stripes are")
    for key, first in zip(places[::2], places[1::2]):
        if isinstance(key, str) and key in sections and key not in pvs:
            raise _NotShown(f"a part of it lies on another volume, {key}: pvmove does that")
        if not isinstance(key, str) or key not in pvs or not isinstance(first, int) or first < 0:
            raise Malformed(f"{name} lies on an unknown physical volume")
        pv = pvs[key]
        extents = size // count // extent
        if size % (count * extent) or first + extents > pv.extents:
            raise Malformed(f"{name} lies outside its physical volume")
        yield Stripe(pv.uuid, pv.start + first * extent)


def _type(section: dict[str, Any]) -> str:
    return lvm_text.printable(section.get("type"))


def _made_of(section: dict[str, Any], sections: dict[str, dict[str, Any]]) -> MadeOf:
    """Return what a segment that is not striped is made of; raise _NotShown."""
    try:
        return _read_kind(section, sections)
    except Malformed as error:
        raise _NotShown(f"its metadata is wrong: {error}") from error


def _read_kind(section: dict[str, Any], sections: dict[str, dict[str, Any]]) -> MadeOf:
    written = section.get("type")
    kind, *flags = written.split("+") if isinstance(written, str) else [""]
    if set(flags) - set(_FLAGS):
        kind = ""
    if kind == "raid1":
        return _raid1(section, sections)
    if kind == "mirror":
        names = _references(section, "mirrors", sections, 2)
        return Legs(names, ())
    if kind == "thin-pool":
        chunk = lvm_text.number(section, "chunk_size", _LEAST_CHUNK, _MOST_CHUNK)
        if chunk % _LEAST_CHUNK:
            raise Malformed(f"chunk_size is {chunk}")
        transaction_id = lvm_text.number(section, "transaction_id", 0, _MOST_TRANSACTIONS)
        metadata = _reference(section, "metadata", sections)
        return Pool(metadata, _reference(section, "pool", sections), chunk, transaction_id)
    if kind == "thin":
        if "external_origin" in section:
            raise _NotShown("it is a thin snapshot of a volume outside its pool")
        device_id = lvm_text.number(section, "device_id", 0, _LAST_DEVICE_ID)
        return Thin(_reference(section, "thin_pool", sections), device_id)
    if kind == "cache":
        return _cached(section, sections)
    if kind.startswith("raid"):
        raise _NotShown(f"its type is {_type(section)}; of raid, only raid1 is shown")
    raise _NotShown(_REASONS.get(kind) or f"its type is {_type(section)}")


def _raid1(section: dict[str, Any], sections: dict[str, dict[str, Any]]) -> Legs:
    if "data_offset" in section:
        raise _NotShown("it is being reshaped")
    key = "device_count" if "device_count" in section else "stripe_count"  # as LVM2 of 2011
    count = lvm_text.number(section, key, 1, _MOST_LEGS)
    names = _references(section, "raids", sections, 1)
    if len(names) != 2 * count:  # of record and image
        raise Malformed("raids is no list of pairs")
    return Legs(names[1::2], names[::2])


def _cached(section: dict[str, Any], sections: dict[str, dict[str, Any]]) -> Cached:
    """Return the origin of a cache; raise _NotShown where it does not have all data.

    A cache pool has the mode in its own segment, a volume that serves as cache in this one.
    """
    pool = sections[_reference(section, "cache_pool", sections)].get("segment1")
    places = [section, pool] if isinstance(pool, dict) else [section]
    modes = [place["cache_mode"] for place in places if "cache_mode" in place]
    if not modes or any(mode not in _COMPLETE_MODES for mode in modes):
        mode = lvm_text.printable(modes[0]) if modes else "unknown"
        raise _NotShown(f"the mode of its cache is {mode}: it can hold data that the volume lacks")
    if section.get("cleaner") or any(place.get("policy") == "cleaner" for place in places):
        raise _NotShown("its cache was being emptied: it can hold data that the volume lacks")
    return Cached(_reference(section, "origin", sections))


def _reference(section: dict[str, Any], key: str, sections: dict[str, dict[str, Any]]) -> str:
    name = section.get(key)
    if not isinstance(name, str) or name not in sections:
        raise Malformed(f"{key} is {lvm_text.printable(name)}")
    return name


def _references(
    section: dict[str, Any], key: str, sections: dict[str, dict[str, Any]], step: int
) -> tuple[str, ...]:
    """Return every `step`th member of a list, all of them names of logical volumes."""
    names = section.get(key)
    if not isinstance(names, list) or not 1 <= len(names) <= 2 * _MOST_LEGS:
        raise Malformed(f"{key} is {lvm_text.printable(names)}")
    names = names[::step]
    if not all(isinstance(name, str) and name in sections for name in names):
        raise Malformed(f"{key} names an unknown volume")
    return tuple(names)
