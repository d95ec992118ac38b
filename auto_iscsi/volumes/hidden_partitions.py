"""Hide the partitions that hold physical volumes from this host's own LVM, and find them again.

The snapshot of a physical volume has the UUID of its original. LVM's commands read every block
device of the host, and refuse to change a volume group while they see one of its physical volumes
twice. So the node of such a partition is deleted from the kernel (disks/kernel_partitions; over
multipath, kpartx's map of it), and volume_groups maps the logical volumes on the whole disk. The
other partitions keep their nodes. While our devices hold the whole disk, the kernel lets nobody
mount these (block/bdev.c, bd_may_claim): volumes/partitions shows them.

Which partitions are hidden is written down before they are (identity.Remembered), and where they
lie is read from the partition table. A node can come back: partprobe and kpartx make them anew. The
next lookup deletes it again.
"""

from __future__ import annotations

import time

from auto_iscsi import errors, keys
from auto_iscsi.disks import (
    identity,
    kernel_partitions,
    multipath,
    our_devices,
    ownership,
    scsi_disks,
    udev_db,
)
from auto_iscsi.disks.scsi_disks import Device, Disk
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import device_mapper, mountable, overlay, partition_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

_READ_SECONDS = 10.0  # to read a partition table


def list_all(host: Host, disk: Disk, devices: dict[int, Device]) -> dict[Device, str]:
    """Return the hidden partitions of a disk, each with its type; raise NotMountable.

    devices: the disk's, as scsi_disks.list_devices() returns them.
    """
    target = keys.fold(disk.session.target)
    hidden = identity.hidden_partitions(host, target, disk.path)
    missing = {part: kind for part, kind in hidden.items() if part not in devices}
    extents = partition_tables.of_disk(host, target, devices[0], time.monotonic() + _READ_SECONDS)
    if lost := sorted(missing.keys() - extents.keys()):
        raise errors.NotMountable(
            f"{target}: partition {lost[0]} of {devices[0].node} is hidden, and the partition "
            "table has none of that number",
            "did the SAN map another volume there? log the session out: auto-iscsi status",
        )
    return {
        devices[0]._replace(extent=extents[part]): kind for part, kind in sorted(missing.items())
    }


def hide(
    host: Host,
    target: str,
    disks: Sequence[Disk],
    content: mountable.Mountable,
    until: float,
) -> mountable.Mountable:
    """Hide the physical volumes in partitions of these disks; return what is to be mounted then.

    A disk whose session is not ours stays as it is, and so does a partition that somebody uses, or
    whose place the kernel and the partition table describe differently: a note says so.
    """
    hidden: dict[str, Device] = {}
    notes = list(content.notes)
    for disk in disks:
        members = _members(host, disk) if ownership.is_ours(host, target, disk.path) else {}
        if members:
            try:
                hidden.update(_find_places(host, target, disk, members, content, until))
                _delete(host, target, disk, members, until)
            except errors.Failure as failure:
                reason = failure.reason.partition(f"{target}: ")[2] or failure.reason
                notes.append(f"this host's LVM sees physical volumes of {disk.name}: {reason}")
    filesystems = [
        each._replace(device=hidden.get(each.device.node, each.device))
        for each in content.filesystems
    ]
    return content._replace(filesystems=tuple(filesystems), notes=tuple(notes))


def _members(host: Host, disk: Disk) -> dict[int, Device]:
    """Return the partitions that have nodes and are to be hidden, and with them the disk as 0."""
    devices = scsi_disks.list_devices(host, disk)
    members = {
        part: device
        for part, device in devices.items()
        if not part or _type(host, device) in mountable.HIDDEN
    }
    return members if len(members) > 1 else {}


def _type(host: Host, device: Device) -> str:
    """Return the type that udev recorded of what is on a device, "" for none."""
    return udev_db.read(host, device.number).properties.get("ID_FS_TYPE", "")


def _find_places(
    host: Host,
    target: str,
    disk: Disk,
    members: dict[int, Device],
    content: mountable.Mountable,
    until: float,
) -> dict[str, Device]:
    """Return, by its node, the device that each partition is found as once that node is deleted.

    That the partitions are hidden is written down here. Raise Failure if they must not be hidden.
    """
    whole = members[0]
    parts = {part: device for part, device in members.items() if part}
    extents = partition_tables.of_disk(host, target, whole, until)
    for part, device in parts.items():
        place = _place_in_kernel(host, disk, device, until)
        if part not in extents or extents[part][1:] != place:
            raise errors.NotMountable(
                f"{target}: the kernel has partition {part} in another place than its table"
            )
    nodes = {device.node for device in parts.values()}
    is_shown = any(each.device.node in nodes for each in content.filesystems)
    _make_free(host, target, disk, members, is_shown, until)
    _remember(host, target, disk, parts)
    return {device.node: whole._replace(extent=extents[part]) for part, device in parts.items()}


def _place_in_kernel(
    host: Host, disk: Disk, device: Device, until: float
) -> tuple[int, int] | None:
    """Return start and size, in sectors, of a partition with a node; None if that is not clear."""
    path = f"{disk.path}/{device.node}"
    words = [host.read(f"{path}/start"), host.read(f"{path}/size")]
    if device.is_map:  # 0 SIZE linear MAJOR:MINOR START
        name = our_devices.name(host, device.node)
        lines = device_mapper.run(host, until, "table", name)[1].splitlines()
        fields = lines[0].split() if len(lines) == 1 else []
        words = [fields[4], fields[1]] if fields[2:3] == ["linear"] and len(fields) == 5 else []
    if len(words) != 2 or not all(word and word.isdecimal() for word in words):
        return None
    return int(words[0] or 0), int(words[1] or 0)


def _make_free(
    host: Host, target: str, disk: Disk, members: dict[int, Device], is_shown: bool, until: float
) -> None:
    """Remove our devices that keep partitions from being hidden; raise Busy when they are in use.

    An earlier version mapped logical volumes on the partition itself. If volumes of the partition
    are to be shown (`is_shown`), our devices have to get the whole disk, which the kernel refuses
    while anybody uses another partition of it.
    """
    whole = members[0]
    parts = [device for part, device in members.items() if part]
    folders = [f"/sys/dev/block/{device.number}/holders" for device in parts]
    needs_disk = is_shown and not whole.is_map and not our_devices.find(host, whole.number)
    if needs_disk or any(map(host.names, folders)):
        if not ownership.is_changeable(host, target, disk.path):
            raise errors.Busy(f"{target}: a partition of the disk is in use")
        for node in our_devices.list_of_disk(host, disk.path):
            overlay.remove(host, target, node, until)
    if holders := [name for folder in folders for name in host.names(folder)]:
        raise errors.Busy(f"{target}: they are held by {', '.join(holders)}")


def _remember(host: Host, target: str, disk: Disk, parts: dict[int, Device]) -> None:
    """Write down which partitions are hidden, before they are: we can be killed in between."""
    disks, name = identity.read(host, target), identity.disk_name(host, disk.path)
    remembered = disks.get(name, identity.Remembered())
    hidden = dict(remembered.hidden)
    for part, device in parts.items():
        hidden[part] = _type(host, device)
    if hidden != dict(remembered.hidden):
        changed = remembered._replace(hidden=tuple(sorted(hidden.items())))
        identity.write(host, target, {**disks, name: changed})


def _delete(host: Host, target: str, disk: Disk, members: dict[int, Device], until: float) -> None:
    """Delete the nodes of partitions; raise Failure when the kernel refuses."""
    for part, device in members.items():
        if part and device.is_map:
            name = our_devices.name(host, device.node)
            status, text = device_mapper.run(host, until, "remove", "--retry", name)
            if status != 0 and multipath.is_map(host, device.node):
                raise errors.Busy(f"{target}: {name} cannot be removed: {text}")
    numbers = sorted(members.keys() & scsi_disks.list_partitions(host, disk).keys())
    if error := kernel_partitions.delete(host, target, disk.name, numbers, until):
        raise errors.Busy(f"{target}: a partition of {disk.name} cannot be hidden: {error}")
