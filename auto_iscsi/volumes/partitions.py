"""Show partitions through device-mapper, where our devices hold the whole disk.

The logical volumes of a hidden partition (hidden_partitions) are mapped on the whole disk. As long
as they are, the kernel lets nobody mount another partition of it (block/bdev.c, bd_may_claim). So
that one gets a read-only device of ours, too. Multipath's map of a partition needs none.
"""

from __future__ import annotations

import os

from auto_iscsi import errors
from auto_iscsi.disks import our_devices, ownership, scsi_disks
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import mapping, mountable, overlay
from auto_iscsi.volumes.device_mapper import FOLDER


def show(
    host: Host, target: str, layout: mountable.Mountable, until: float, act: bool
) -> mountable.Mountable:
    """Replace the partitions of disks that we hold, or are about to, by devices of ours.

    Raise Failure when nothing is left. Without `act`, only devices that are there are used.
    """
    held = {each.device.disk for each in layout.filesystems if each.device.extent}
    if act:
        for disk in sorted(held):
            _free(host, target, disk, until)
    collected = mountable.Collector(target, layout.notes)
    for filesystem in layout.filesystems:
        with collected.leave_out_failures(filesystem.offset):
            device = filesystem.device
            if _is_partition(device):
                whole = host.read(f"{device.disk}/dev") or ""
                if device.disk in held or our_devices.find(host, whole):
                    device = _device(host, target, device, whole, until, act)
            collected.filesystems.append(filesystem._replace(device=device))
    return collected.result() or layout


def _free(host: Host, target: str, disk: str, until: float) -> None:
    """Remove our devices from a disk (its path in sysfs) if one lies on a partition's own node.

    A lookup with other settings made it. As long as it is there, the kernel lets us have no device
    on the whole disk. What is mounted stays.
    """
    numbers = (
        host.read(f"{disk}/{node}/dev") or ""
        for node in scsi_disks.partitions_below(host, disk).values()
    )
    if any(our_devices.find(host, number) for number in numbers) and ownership.is_changeable(
        host, target, disk
    ):
        for node in our_devices.list_of_disk(host, disk):
            overlay.remove(host, target, node, until)


def _is_partition(device: scsi_disks.Device) -> bool:
    """Tell whether a device is a partition as the kernel has it."""
    is_whole = device.node == os.path.basename(device.disk)
    return bool(device.disk) and device.folder == scsi_disks.BY_PATH and not is_whole


def _device(
    host: Host, target: str, device: scsi_disks.Device, whole: str, until: float, act: bool
) -> scsi_disks.Device:
    """Return our device that shows a partition of the disk MAJOR:MINOR `whole`; raise Failure."""
    path = f"{device.disk}/{device.node}"
    start, size, part = (host.read(f"{path}/{name}") for name in ("start", "size", "partition"))
    if not (start and size and part):
        raise errors.NotMountable(f"{target}: partition {device.node} is gone")
    mapped = mapping.Mapping(
        mapping.name(host, whole, f"p{part}"),
        (f"0 {size} linear {whole} {start}",),
        device.disk,
        whole,
    )
    if act:
        mapping.make(host, target, mapped, until)
    node = mapping.find(host, mapped)
    if not node:
        return device
    number = host.read(f"/sys/block/{node}/dev") or ""
    return scsi_disks.Device(node, mapped.name, number, device.disk, FOLDER)
