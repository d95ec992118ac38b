"""Work out which devices show a logical volume: what it is made of, down to physical volumes.

A thin volume lies on a pool, a pool on two volumes, each of which can be cached or a raid1, and a
raid1 is shown by one of its legs. Each of these steps leads to a kind of volume that comes later in
this list. So there is always an end, whatever a stranger's metadata says.
"""

from __future__ import annotations

from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.volumes import dm_raid, thin_pool
from auto_iscsi.volumes.lvm_volumes import (
    Cached,
    Legs,
    LogicalVolume,
    Pool,
    Segment,
    Stripe,
    Thin,
    VolumeGroup,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Union

_ON_OTHER_LUNS = "map the other LUNs to this host too, and set lun = all"


class CannotBeShown(Exception):
    """A logical volume cannot be shown; the first argument says why, the second what to do."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.hint = hint


class PoolPlan(NamedTuple):
    """A thin pool: three devices."""

    name: str
    metadata_name: str
    data_name: str
    metadata: tuple[Segment, ...]
    data: tuple[Segment, ...]
    sectors: int  #: what the pool uses of its data
    chunk: int  #: sectors


class ThinPlan(NamedTuple):
    """A volume of a thin pool: one more device."""

    pool: PoolPlan
    sectors: int
    device_id: int


if TYPE_CHECKING:
    Plan = Union["tuple[Segment, ...]", PoolPlan, ThinPlan]
    #: Returns the first 512 bytes there; None: they cannot be read.
    Read = Callable[[Stripe], "bytes | None"]


class Layers:
    """The layers of one volume group."""

    def __init__(self, group: VolumeGroup, present: frozenset[str], read: Read) -> None:
        """present: the UUIDs of the physical volumes whose data can be used."""
        self._volumes = {each.name: each for each in (*group.hidden, *group.volumes)}
        self._present = present
        self._read = read

    def plan(self, volume: LogicalVolume) -> tuple[Segment, ...] | ThinPlan:
        """Return what shows a volume; raise CannotBeShown."""
        if isinstance(volume.made_of, Thin):
            return ThinPlan(
                self._pool(volume.made_of.pool), volume.sectors, volume.made_of.device_id
            )
        return self._segments(volume)

    def _named(self, name: str) -> LogicalVolume:
        if name not in self._volumes:
            raise CannotBeShown(f"{name} is no volume")
        return self._volumes[name]

    def _pool(self, name: str) -> PoolPlan:
        volume = self._named(name)
        pool = volume.made_of
        if not isinstance(pool, Pool):
            raise CannotBeShown(volume.why or f"{name} is no thin pool")
        metadata = self._segments(self._named(pool.metadata))
        data = self._segments(self._named(pool.data))
        described = thin_pool.Pool(pool.chunk, pool.transaction_id, _size(metadata), _size(data))
        superblock = self._read(metadata[0].stripes[0]) or b""
        try:
            sectors = thin_pool.data_sectors(described, superblock)
        except thin_pool.Unusable as error:
            raise CannotBeShown(
                str(error), f"on the server: lvconvert --repair {name}; then take a new snapshot"
            ) from error
        return PoolPlan(name, pool.metadata, pool.data, metadata, data, sectors, pool.chunk)

    def _segments(self, volume: LogicalVolume) -> tuple[Segment, ...]:
        """Return where the data of a volume lies; the volume is in no pool."""
        if isinstance(volume.made_of, Cached):
            origin = self._named(volume.made_of.origin)
            if isinstance(origin.made_of, Cached):
                raise CannotBeShown("its cache is cached")
            return self._whole(volume, self._segments(origin))
        if isinstance(volume.made_of, Legs):
            return self._whole(volume, self._leg(volume.made_of))
        return self._striped(volume)

    def _whole(self, volume: LogicalVolume, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        if _size(segments) != volume.sectors:
            raise CannotBeShown("what it is made of has another size")
        return segments

    def _striped(self, volume: LogicalVolume) -> tuple[Segment, ...]:
        if volume.why or not volume.segments:
            raise CannotBeShown(volume.why or f"{volume.name} is made of other volumes")
        used = {stripe.pv for segment in volume.segments for stripe in segment.stripes}
        if missing := used - self._present:
            raise CannotBeShown(
                f"{len(missing)} of its {len(used)} physical volumes are missing", _ON_OTHER_LUNS
            )
        return volume.segments

    def _leg(self, legs: Legs) -> tuple[Segment, ...]:
        """Return the first leg of a mirror that is all there and in step."""
        if not legs.records:  # type mirror: its log can be in memory, and the first leg has all
            return self._striped(self._named(legs.images[0]))
        refused = []
        for image, is_in_step in zip(legs.images, dm_raid.in_step(list(self._records(legs)))):
            try:
                leg = self._named(image)
                segments = self._striped(leg)
            except CannotBeShown as error:
                refused.append(error)
                continue
            if is_in_step and not leg.is_rebuilt:
                return segments
            refused.append(CannotBeShown(f"leg {image} is not in step with the others"))
        why = "; ".join(dict.fromkeys(str(error) for error in refused))
        raise CannotBeShown(
            f"no leg of its mirror can be used: {why}",
            next((error.hint for error in refused if error.hint), ""),
        )

    def _records(self, legs: Legs) -> Iterator[bytes | None]:
        """Yield the beginning of each leg's record, None where it cannot be read."""
        for name in legs.records:
            try:
                segments = self._striped(self._named(name))
            except CannotBeShown:
                yield None
            else:
                yield self._read(segments[0].stripes[0])


def _size(segments: tuple[Segment, ...]) -> int:
    return sum(segment.size for segment in segments)
