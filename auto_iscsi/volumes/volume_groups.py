"""Map the logical volumes on a target's disks, read-only, without any program of LVM's.

A snapshot of a volume group has the names and UUIDs of the original, which can be active on this
host, and LVM takes the one for the other. So the metadata is read here (lvm_metadata), and each
logical volume is a device of ours (mapping) that leads only to disks of this target. What cannot be
shown is named in a note.
"""

from __future__ import annotations

import os
from collections import Counter

from auto_iscsi import errors
from auto_iscsi.config.settings import ALL, Settings
from auto_iscsi.disks import ownership
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import (
    device_mapper,
    lvm_layers,
    lvm_volumes,
    mapping,
    mountable,
    physical_volumes,
    thin_pool,
)
from auto_iscsi.volumes.mountable import LVM_MEMBER

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_VOLUMES = 256  # that are shown of one target: each is a device


class _Place(NamedTuple):
    """A logical volume that is to be shown, and where."""

    group: physical_volumes.Group
    volume: lvm_volumes.LogicalVolume
    offset: str  #: the directory below the key

    @property
    def name(self) -> str:
        """VG/LV."""
        return f"{self.group.described.name}/{self.volume.name}"


def expand(
    host: Host,
    target: str,
    layout: mountable.Mountable,
    settings: Settings,
    until: float,
    act: bool,
) -> mountable.Mountable:
    """Replace each physical volume in `layout` by its logical volumes.

    Raise Failure when nothing is left. Without `act`, only devices that are there already are used.
    """
    members = [each for each in layout.filesystems if each.fstype == LVM_MEMBER]
    if not members:
        return layout
    collected = mountable.Collector(target, layout.notes)
    if settings.partition == ALL:  # else one logical volume is meant, and nothing beside it
        collected.filesystems += [each for each in layout.filesystems if each.fstype != LVM_MEMBER]
    groups = physical_volumes.read_groups(host, target, members, collected, until)
    devices = _Devices(host, target, until, act)
    for place in _places(target, groups, settings, collected):
        with collected.leave_out_failures(place.offset):
            shown = devices.of(place)
            what = f"{target}: {place.name}"
            filesystem = mapping.filesystem(host, what, place.offset, shown, settings)
            collected.filesystems.append(filesystem._replace(volume=place.name))
    result = collected.result()
    if result is None:
        raise errors.NotMountable(
            f"{target}: nothing can be shown of its physical volumes: {'; '.join(collected.notes)}",
            f"run auto-iscsi explain {target}",
        )
    return result


def _places(
    target: str,
    groups: Sequence[physical_volumes.Group],
    settings: Settings,
    collected: mountable.Collector,
) -> list[_Place]:
    """Return the logical volumes that the setting `partition` selects, each with its directory.

    Raise NoPartition or Ambiguous for one that is selected by its name.
    """
    selected = settings.partition if isinstance(settings.partition, str) else ALL
    places = []
    for group in groups:
        prefix = physical_volumes.common_offset(group.members.values())
        for volume in group.described.volumes:
            offset = f"{prefix}/{group.described.name}-{volume.name}"
            places.append(_Place(group, volume, offset if selected == ALL else ""))
    if selected != ALL:
        names = ", ".join(place.name for place in places) or "none"
        names = "; ".join((names, *collected.notes))
        places = [place for place in places if place.name == selected]
        if not places:
            raise errors.NoPartition(
                f"{target}: no logical volume {selected}: there are {names}",
                "set partition to one of them, or to all",
            )
        if len(places) > 1:
            raise errors.Ambiguous(
                f"{target}: {len(places)} volume groups have a logical volume {selected}",
                "set lun to the number of one LUN",
            )
    counts = Counter(place.offset for place in places)
    for offset in sorted(offset for offset, count in counts.items() if count > 1):
        names = ", ".join(place.name for place in places if place.offset == offset)
        collected.notes.append(f"{offset[1:]} is left out: {names} would have that name")
    places = [place for place in places if counts[place.offset] == 1]
    if len(places) > _MOST_VOLUMES:
        collected.notes.append(
            f"{len(places) - _MOST_VOLUMES} logical volumes are left out, from "
            f"{places[_MOST_VOLUMES].name} on: at most {_MOST_VOLUMES} are shown"
        )
    return places[:_MOST_VOLUMES]


class _Devices:
    """The devices that show logical volumes; without `act`, none is made."""

    def __init__(self, host: Host, target: str, until: float, act: bool) -> None:
        self._host, self._target, self._until, self._act = host, target, until, act
        self._blocks: dict[tuple[str, int], bytes | None] = {}

    def of(self, place: _Place) -> mapping.Mapping:
        """Return the device of a logical volume, and make it; raise Failure."""
        members = place.group.members
        present = frozenset(members.keys() - set(place.group.described.missing))
        layers = lvm_layers.Layers(
            place.group.described, present, lambda stripe: self._read(members, stripe)
        )
        try:
            plan = layers.plan(place.volume)
        except lvm_layers.CannotBeShown as error:
            raise errors.NotMountable(
                f"{self._target}: {place.name}: {error}", error.hint
            ) from error
        if not isinstance(plan, lvm_layers.ThinPlan):
            return self._linear(place, place.volume.name, plan)
        pool = self._pool(place, plan.pool)
        number = self._number(place, pool)
        line = thin_pool.volume_line(plan.sectors, number, plan.device_id)
        shown = pool._replace(
            name=self._name(place, place.volume.name, plan.pool.data),
            table=(line,),
            holder_of=number,
            is_protected_later=False,
        )
        return self._made(shown)

    def _pool(self, place: _Place, plan: lvm_layers.PoolPlan) -> mapping.Mapping:
        """Return the device of a thin pool, on two of ours."""
        metadata = self._linear(place, plan.metadata_name, plan.metadata)
        data = self._linear(place, plan.data_name, plan.data)
        number = self._number(place, data)
        line = thin_pool.pool_line(plan.sectors, self._number(place, metadata), number, plan.chunk)
        pool = mapping.Mapping(
            self._name(place, plan.name, plan.data), (line,), data.disk, number, True
        )
        self._made(pool)
        if self._act:
            _, status = device_mapper.run(self._host, self._until, "status", pool.name)
            if status.split()[3:4] in ([], ["Fail"], ["Error"]):  # 0 SECTORS thin-pool ...
                raise errors.NotMountable(
                    f"{self._target}: {place.name}: its thin pool {plan.name} is damaged",
                    f"dmesg says why; on the server: lvconvert --repair {plan.name}",
                )
        return pool

    def _linear(
        self, place: _Place, label: str, segments: Sequence[lvm_volumes.Segment]
    ) -> mapping.Mapping:
        """Return the device with these segments."""
        members = place.group.members
        used = {stripe.pv for segment in segments for stripe in segment.stripes}
        disks = [members[pv].filesystem.device.disk for pv in used]
        # Our device would hold a disk that an administrator works with.
        if not all(map(self._is_ours, disks)):
            raise errors.NotMountable(
                f"{self._target}: {place.name} is not mapped: somebody else logged its disk in",
                "log its session out, so that a lookup opens one of its own: auto-iscsi status",
            )
        table = tuple(_line(self._target, place.name, each, members) for each in segments)
        first = members[segments[0].stripes[0].pv].filesystem.device
        name = self._name(place, label, segments)
        own = (
            m.filesystem.device
            for m in members.values()
            if physical_volumes.is_of(self._host, self._target, m)
        )
        disk = next((device.disk for device in own), first.disk)
        return self._made(mapping.Mapping(name, table, disk, first.number))

    def _is_ours(self, disk: str) -> bool:
        """Tell whether a lookup opened the session of a disk, of whichever target."""
        target = ownership.target_of(self._host, disk) or self._target
        return ownership.is_ours(self._host, target, disk)

    def _name(self, place: _Place, label: str, segments: Sequence[lvm_volumes.Segment]) -> str:
        """Return the name of a device whose data begins with the first of these segments."""
        first = place.group.members[segments[0].stripes[0].pv].filesystem.device
        label = f"{place.group.described.name}-{label}"
        if first.extent:  # two partitions of a disk can have volume groups of one name
            label = f"{first.extent.part}-{label}"
        return mapping.name(self._host, first.number, label)

    def _made(self, made: mapping.Mapping) -> mapping.Mapping:
        if self._act:
            mapping.make(self._host, self._target, made, self._until)
        return made

    def _number(self, place: _Place, made: mapping.Mapping) -> str:
        """Return MAJOR:MINOR of a device of ours; raise NotMountable."""
        node = mapping.find(self._host, made)
        number = self._host.read(f"/sys/block/{node}/dev") if node else None
        if not number:
            raise errors.NotMountable(
                f"{self._target}: {place.name} is not mapped yet{mapping.PENDING}"
            )
        return number

    def _read(
        self, members: dict[str, physical_volumes.Member], stripe: lvm_volumes.Stripe
    ) -> bytes | None:
        """Return the first sector of a stripe, None where it cannot be read."""
        member = members[stripe.pv]
        if stripe.start >= member.sectors:
            return None
        place = (member.filesystem.device.node, member.start + stripe.start)
        if place not in self._blocks:
            path = self._host.path(f"/dev/{place[0]}")
            self._blocks[place] = bounded.run(
                lambda: _read_sector(path, place[1]), self._until, self._target
            )
        return self._blocks[place]


def _read_sector(path: str, start: int) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.pread(handle, mapping.SECTOR, start * mapping.SECTOR)
    except (OSError, OverflowError):
        return None
    finally:
        os.close(handle)


def _line(
    target: str,
    name: str,
    segment: lvm_volumes.Segment,
    members: dict[str, physical_volumes.Member],
) -> str:
    """Return the line of device-mapper's table for a segment; raise NotMountable.

    Sources: Linux Documentation/admin-guide/device-mapper/linear.rst and striped.rst.
    """
    each = segment.size // len(segment.stripes)
    places = []
    for stripe in segment.stripes:
        member = members[stripe.pv]
        if stripe.start + each > member.sectors:
            raise errors.NotMountable(
                f"{target}: {name} lies outside {member.filesystem.device.name}",
                "the LUN is smaller than the volume that it was taken of",
            )
        places.append(f"{member.filesystem.device.number} {member.start + stripe.start}")
    kind = f"striped {len(places)} {segment.stripe_size}" if len(places) > 1 else "linear"
    return f"{segment.start} {segment.size} {kind} {' '.join(places)}"
