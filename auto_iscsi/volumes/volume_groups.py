"""Map the logical volumes on a target's disks, read-only, without any program of LVM's.

A snapshot of a volume group has the names and UUIDs of the original, which can be active on this
host, and LVM takes the one for the other. So the metadata is read here (lvm_metadata), and each
logical volume is a device of ours (mapping) that leads only to disks of this target. What cannot be
shown is named in a note.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from auto_iscsi import errors
from auto_iscsi.config.settings import ALL, Settings
from auto_iscsi.disks import ownership
from auto_iscsi.disks.scsi_disks import Device
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import (
    device_mapper,
    lvm_layers,
    lvm_metadata,
    lvm_text,
    lvm_volumes,
    mapping,
    mountable,
    thin_pool,
    unmapped_volumes,
)
from auto_iscsi.volumes.mountable import LVM_MEMBER

WHOLE_DISK = "/the physical volume"  #: in a note, stands for one whose directory is the key itself
_MOST_VOLUMES = 256  # that are shown of one target: each is a device


class _Member(NamedTuple):
    """A physical volume of the target."""

    filesystem: mountable.Filesystem  #: the selected partition or disk, of type LVM_MEMBER
    sectors: int
    start: int = 0  #: sectors from the start of the device: of a partition without a node

    @property
    def area(self) -> unmapped_volumes.Area:
        """Where its data are read."""
        device = self.filesystem.device
        return unmapped_volumes.Area(device.name, device.node, self.start, self.sectors)


class _Group(NamedTuple):
    """A volume group, and those of its physical volumes that are there."""

    described: lvm_volumes.VolumeGroup
    members: dict[str, _Member]  #: by UUID


class _Place(NamedTuple):
    """A logical volume that is to be shown, and where."""

    group: _Group
    volume: lvm_volumes.LogicalVolume
    offset: str  #: the directory below the key

    @property
    def name(self) -> str:
        """VG/LV."""
        return f"{self.group.described.name}/{self.volume.name}"


class Listed(NamedTuple):
    """A volume group, as its physical volumes describe it; nothing of it needs to be mapped."""

    name: str
    prefix: str  #: the directory of the LUN, "" without one
    areas: dict[str, unmapped_volumes.Area]  #: the physical volumes that are there, by UUID
    volumes: tuple[lvm_volumes.LogicalVolume, ...]


def list_groups(
    host: Host, target: str, members: Sequence[mountable.Filesystem], until: float
) -> list[Listed]:
    """Return the volume groups on these physical volumes; those that expand() leaves out are not.

    Raise NoAnswer when the disks do not answer in time.
    """
    return [
        Listed(
            group.described.name,
            _common_offset(group.members.values()),
            {uuid: member.area for uuid, member in group.members.items()},
            group.described.volumes,
        )
        for group in _read_groups(host, target, members, mountable.Collector(target), until)
    ]


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
    groups = _read_groups(host, target, members, collected, until)
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


def _read_groups(
    host: Host,
    target: str,
    filesystems: Sequence[mountable.Filesystem],
    collected: mountable.Collector,
    until: float,
) -> list[_Group]:
    """Return the volume groups on these physical volumes, each as its newest metadata has it.

    A physical volume belongs to the group that its own metadata names, and to no other that claims
    it. Where two have one UUID, nothing tells which one a group means, and the group is left out.
    """
    devices = [each.device for each in filesystems]
    answers = bounded.run(lambda: [_read_label(host, each) for each in devices], until, target)
    uuids = Counter(uuid for uuid, _, _ in answers if uuid)
    groups: dict[str, _Group] = {}
    for filesystem, (uuid, text, why) in zip(filesystems, answers):
        with collected.leave_out_failures(filesystem.offset or WHOLE_DISK):
            described = _describe(filesystem.device.name, text, why)
            member = _member(host, filesystem)
            known = groups.get(described.uuid, _Group(described, {}))
            if described.seqno < known.described.seqno:
                described = known.described
            members = {**known.members, uuid: member}
            groups[described.uuid] = _Group(described, members)
    clear = []
    for group in groups.values():
        if any(uuids[uuid] > 1 for uuid in group.described.pv_uuids):
            name = group.described.name
            collected.notes.append(
                f"volume group {name} is left out: two LUNs have the same physical volume"
            )
        else:
            clear.append(group)
    return sorted(clear, key=lambda group: (group.described.name, group.described.uuid))


def _member(host: Host, filesystem: mountable.Filesystem) -> _Member:
    """Return a physical volume with its place on its device."""
    if extent := filesystem.device.extent:
        return _Member(filesystem, extent.size, extent.start)
    sectors = int(host.read(f"/sys/dev/block/{filesystem.device.number}/size") or 0)
    return _Member(filesystem, sectors)


def _describe(node: str, text: str, why: str) -> lvm_volumes.VolumeGroup:
    """Return the volume group that the text on a physical volume describes; raise NotMountable."""
    if why or not text:
        reason = f"cannot be read: {why}" if why else "belongs to no volume group"
        raise errors.NotMountable(f"{node} is an LVM physical volume that {reason}")
    try:
        return lvm_volumes.parse(text)
    except lvm_text.Malformed as error:
        raise errors.NotMountable(
            f"{node} is an LVM physical volume with wrong metadata: {error}"
        ) from error


def _places(
    target: str, groups: Sequence[_Group], settings: Settings, collected: mountable.Collector
) -> list[_Place]:
    """Return the logical volumes that the setting `partition` selects, each with its directory.

    Raise NoPartition or Ambiguous for one that is selected by its name.
    """
    selected = settings.partition if isinstance(settings.partition, str) else ALL
    places = []
    for group in groups:
        prefix = _common_offset(group.members.values())
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


def _read_label(host: Host, device: Device) -> tuple[str, str, str]:
    """Return UUID and text of a physical volume, or why it cannot be read."""
    try:
        handle = os.open(host.path(f"/dev/{device.node}"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return "", "", str(error)
    start, end = 0, 1 << 63
    if device.extent:
        start = device.extent.start * lvm_metadata.SECTOR
        end = start + device.extent.size * lvm_metadata.SECTOR

    def read(offset: int, size: int) -> bytes:
        return os.pread(handle, max(0, min(size, end - start - offset)), start + offset)

    try:
        label = lvm_metadata.read_label(read)
        return (label.uuid, label.text, "") if label else ("", "", "it has no label")
    except (lvm_text.Malformed, OSError, OverflowError) as error:
        return "", "", str(error)
    finally:
        os.close(handle)


def _common_offset(members: Iterable[_Member]) -> str:
    """Return the directory of the LUN (/lun0) that holds all these volumes; "" without one."""
    offsets = {re.sub(r"/p[0-9]+\Z", "", member.filesystem.offset) for member in members}
    return offsets.pop() if len(offsets) == 1 else ""


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
        disks = (members[pv].filesystem.device.disk for pv in used)
        # Our device would hold a disk that an administrator works with.
        if not all(ownership.is_ours(self._host, self._target, disk) for disk in disks):
            raise errors.NotMountable(
                f"{self._target}: {place.name} is not mapped: somebody else logged its disk in",
                "log its session out, so that a lookup opens one of its own: auto-iscsi status",
            )
        table = tuple(_line(self._target, place.name, each, members) for each in segments)
        first = members[segments[0].stripes[0].pv].filesystem.device
        name = self._name(place, label, segments)
        return self._made(mapping.Mapping(name, table, first.disk, first.number))

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

    def _read(self, members: dict[str, _Member], stripe: lvm_volumes.Stripe) -> bytes | None:
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


def _line(target: str, name: str, segment: lvm_volumes.Segment, members: dict[str, _Member]) -> str:
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
