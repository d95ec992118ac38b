"""Map the logical volumes on a target's disks, read-only, without any program of LVM's.

A snapshot of a volume group has the names and UUIDs of the original, which can be active on this
host, and LVM takes the one for the other. So the metadata is read here (lvm_metadata), and each
logical volume is a device-mapper device of ours (disks/overlays) that leads only to disks of this
target. What cannot be shown is named in a note.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from auto_iscsi import errors
from auto_iscsi.config.settings import ALL, Settings
from auto_iscsi.disks import overlays, udev_db
from auto_iscsi.disks.scsi_disks import Device
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import (
    candidates,
    content,
    device_mapper,
    lvm_metadata,
    mount_type,
    mountable,
)
from auto_iscsi.volumes.mountable import LVM_MEMBER

_LONGEST_NAME = 120  # characters of a device-mapper device's name, which may have 127


class _Member(NamedTuple):
    """A physical volume of the target."""

    filesystem: mountable.Filesystem  #: the selected partition or disk, of type LVM_MEMBER
    uuid: str
    sectors: int


class _Mapping(NamedTuple):
    """A logical volume, and the device that is to show it."""

    volume: lvm_metadata.LogicalVolume
    name: str  #: of the device in /dev/mapper
    table: tuple[str, ...]
    disk: str  #: the path in sysfs of a disk that it is on
    holder_of: str  #: MAJOR:MINOR of a device that it is made of


def expand(
    host: Host,
    target: str,
    layout: mountable.Mountable,
    settings: Settings,
    until: float,
    act: bool,
) -> mountable.Mountable:
    """Return what is to be mounted with logical volumes in the place of physical volumes.

    Raise Failure when nothing is left. Without `act`, only devices that are there already are used.
    """
    members = [each for each in layout.filesystems if each.fstype == LVM_MEMBER]
    if not members:
        return layout
    collected = mountable.Collector(target, layout.notes)
    collected.filesystems += [each for each in layout.filesystems if each.fstype != LVM_MEMBER]
    groups, present = _read_groups(host, target, members, collected, until)
    selected = settings.partition if isinstance(settings.partition, str) else ALL
    names = [f"{group.name}/{volume.name}" for group in groups for volume in group.volumes]
    if "/" in selected and selected not in names:
        raise errors.NoPartition(
            f"{target}: no logical volume {selected}: there are {', '.join(names) or 'none'}",
            "set partition to one of them, or to all",
        )
    for group in groups:
        prefix = _common_offset(present[uuid] for uuid in group.pv_uuids if uuid in present)
        mappings: dict[str, _Mapping] = {}
        for volume in group.volumes:
            if selected not in (ALL, f"{group.name}/{volume.name}"):
                continue
            offset = "" if selected != ALL else f"{prefix}/{group.name}-{volume.name}"
            with collected.leave_out_failures(offset):
                mappings[offset] = _mapping(host, target, group, volume, present)
        if act:
            _make(host, target, list(mappings.values()), until)
        for offset, mapping in mappings.items():
            with collected.leave_out_failures(offset):
                filesystem = _filesystem(host, target, offset, group, mapping, settings)
                collected.filesystems.append(filesystem)
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
) -> tuple[list[lvm_metadata.VolumeGroup], dict[str, _Member]]:
    """Return the volume groups, and the physical volumes that are there by their UUIDs."""
    nodes = [each.device.node for each in filesystems]
    answers = bounded.run(lambda: [_read_label(host, node) for node in nodes], until, target)
    present: dict[str, _Member] = {}
    groups: dict[str, lvm_metadata.VolumeGroup] = {}
    copies: set[str] = set()
    for filesystem, (uuid, text, why) in zip(filesystems, answers):
        with collected.leave_out_failures(filesystem.offset or "/the physical volume"):
            if why or not text:
                raise errors.NotMountable(
                    f"{filesystem.device.node} is an LVM physical volume that cannot be read: "
                    f"{why or 'it belongs to no volume group'}"
                )
            try:
                group = lvm_metadata.parse(text)
            except lvm_metadata.Malformed as error:
                raise errors.NotMountable(
                    f"{filesystem.device.node} is an LVM physical volume with wrong metadata: "
                    f"{error}"
                ) from error
            if uuid in present:
                copies.add(group.uuid)
            sectors = int(host.read(f"/sys/dev/block/{filesystem.device.number}/size") or 0)
            present[uuid] = _Member(filesystem, uuid, sectors)
            if group.uuid not in groups or group.seqno > groups[group.uuid].seqno:
                groups[group.uuid] = group
    for uuid in copies:
        collected.notes.append(
            f"volume group {groups[uuid].name} is left out: two LUNs have the same physical volume"
        )
        del groups[uuid]
    return sorted(groups.values(), key=lambda group: (group.name, group.uuid)), present


def _read_label(host: Host, node: str) -> tuple[str, str, str]:
    """Return UUID and text of a physical volume, or why it cannot be read."""
    handle = os.open(host.path(f"/dev/{node}"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        label = lvm_metadata.read_label(lambda offset, size: os.pread(handle, size, offset))
        return (label.uuid, label.text, "") if label else ("", "", "it has no label")
    except (lvm_metadata.Malformed, OSError, OverflowError) as error:
        return "", "", str(error)
    finally:
        os.close(handle)


def _common_offset(members: Iterator[_Member]) -> str:
    """Return the directory of the LUN (/lun0) that all these are on, "" for several or only one."""
    offsets = {re.sub(r"/p[0-9]+\Z", "", member.filesystem.offset) for member in members}
    return offsets.pop() if len(offsets) == 1 else ""


def _mapping(
    host: Host,
    target: str,
    group: lvm_metadata.VolumeGroup,
    volume: lvm_metadata.LogicalVolume,
    present: dict[str, _Member],
) -> _Mapping:
    """Return how a logical volume is mapped; raise NotMountable when it cannot be shown."""
    name = f"{group.name}/{volume.name}"
    if volume.why:
        raise errors.NotMountable(f"{target}: {name}: {volume.why}")
    used = {stripe.pv for segment in volume.segments for stripe in segment.stripes}
    if missing := sorted(used - present.keys()):
        raise errors.NotMountable(
            f"{target}: {name}: {len(missing)} of its {len(used)} physical volumes are missing",
            "map the other LUNs to this host too, and set lun = all",
        )
    table = tuple(_line(target, name, segment, present) for segment in volume.segments)
    first = present[volume.segments[0].stripes[0].pv].filesystem.device
    status = host.stat(f"/sys/dev/block/{first.number}")
    device_name = f"ai-{status.st_ino if status else 0}-{group.name}-{volume.name}"
    if len(device_name) > _LONGEST_NAME:
        checksum = zlib.crc32(device_name.encode())
        device_name = f"{device_name[: _LONGEST_NAME - 9]}-{checksum:08x}"
    return _Mapping(volume, device_name, table, first.disk, first.number)


def _line(
    target: str, name: str, segment: lvm_metadata.Segment, present: dict[str, _Member]
) -> str:
    """Return the line of device-mapper's table for a segment; raise NotMountable.

    Sources: Linux Documentation/admin-guide/device-mapper/linear.rst and striped.rst.
    """
    each = segment.size // len(segment.stripes)
    places = []
    for stripe in segment.stripes:
        member = present[stripe.pv]
        if stripe.start + each > member.sectors:
            raise errors.NotMountable(
                f"{target}: {name} lies outside {member.filesystem.device.node}",
                "the LUN is smaller than the volume that it was taken of",
            )
        places.append(f"{member.filesystem.device.number} {stripe.start}")
    kind = f"striped {len(places)} {segment.stripe_size}" if len(places) > 1 else "linear"
    return f"{segment.start} {segment.size} {kind} {' '.join(places)}"


def _make(host: Host, target: str, mappings: Sequence[_Mapping], until: float) -> None:
    """Make the devices of logical volumes, as far as they are not there yet."""
    new = [each for each in mappings if not _find(host, each)]
    if not new:
        return
    concise = ";".join(
        f"{each.name},{overlays.UUID_PREFIX}{each.name},,ro,{','.join(each.table)}" for each in new
    )
    status, text = device_mapper.run(host, until, "create", "--concise", concise)
    if status != 0:
        raise errors.Failure(
            f"{target}: its logical volumes cannot be mapped: "
            f"{text or 'dmsetup did not end in time'}",
            "dmesg says why",
        )


def _find(host: Host, mapping: _Mapping) -> str:
    """Return the device (dm-N) that shows a logical volume, "" for none."""
    for node in host.names(f"/sys/dev/block/{mapping.holder_of}/holders"):
        if overlays.is_overlay(host, node) and overlays.name(host, node) == mapping.name:
            return node
    return ""


def _filesystem(
    host: Host,
    target: str,
    offset: str,
    group: lvm_metadata.VolumeGroup,
    mapping: _Mapping,
    settings: Settings,
) -> mountable.Filesystem:
    """Return the filesystem on a logical volume that is mapped; raise NotMountable."""
    name = f"{group.name}/{mapping.volume.name}"
    node = _find(host, mapping)
    if not node:
        raise errors.NotMountable(f"{target}: {name} is not mapped yet: a lookup does that")
    number = host.read(f"/sys/block/{node}/dev") or ""
    device = Device(node, mapping.name, number, mapping.disk, device_mapper.FOLDER)
    recorded = content.from_udev(udev_db.read(host, number))
    candidate = candidates.Candidate(
        0, device, recorded, mapping.volume.sectors * lvm_metadata.SECTOR
    )
    fstype, options = mount_type.type_and_options(
        host, f"{target}: {name}", candidate, device, settings
    )
    return mountable.Filesystem(offset, device, fstype, options)
