"""Find our devices that hold a disk, partition or volume (holders in sysfs), for a report."""

from __future__ import annotations

import re
from collections.abc import Sequence

from auto_iscsi import errors
from auto_iscsi.admin.disk_report import Contents
from auto_iscsi.disks import our_devices, scsi_disks, udev_db
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import content, journal, mount_options

_PARTITION = re.compile(r"ai-\d+-p(\d+)")  # volumes/partitions


def number(host: Host, node: str) -> str:
    """Return MAJOR:MINOR of a device, "" if it is gone."""
    return host.read(f"/sys/class/block/{node}/dev") or ""


def names(host: Host) -> set[str]:
    """Return the names of our devices on this host."""
    nodes = [node for node in host.names("/sys/block") if node.startswith("dm-")]
    return {our_devices.name(host, node) for node in nodes if our_devices.is_ours(host, node)}


def holders(host: Host, device: str) -> list[str]:
    """Return our devices (dm-N) on the device MAJOR:MINOR.

    An overlay is passed over: what lies on it counts as lying on the device below it.
    """
    nodes = []
    for node in host.names(f"/sys/dev/block/{device}/holders"):
        if our_devices.is_ours(host, node):
            is_overlay = our_devices.is_overlay(host, node)
            nodes += holders(host, number(host, node)) if is_overlay else [node]
    return nodes


def overlay(host: Host, device: str) -> str:
    """Return the name of the overlay of the device MAJOR:MINOR, "" for none."""
    for node in host.names(f"/sys/dev/block/{device}/holders"):
        if our_devices.is_ours(host, node) and our_devices.is_overlay(host, node):
            return our_devices.name(host, node)
    return ""


def partition(host: Host, node: str) -> int:
    """Return the number of the partition that a device of ours shows, 0 for another device."""
    match = _PARTITION.fullmatch(our_devices.name(host, node))
    return int(match[1]) if match else 0


def of_partition(host: Host, disk: scsi_disks.Disk, part: int) -> str:
    """Return MAJOR:MINOR of our device that shows a partition, "" for none."""
    for node in host.names(f"{disk.path}/holders"):
        if our_devices.is_ours(host, node) and partition(host, node) == part:
            return number(host, node)
    return ""


def read_journals(
    host: Host, target: str, luns: Sequence[Contents], until: float
) -> dict[str, bool | None]:
    """Return whether the journal on each device of LUNs is dirty, by node."""
    states = {node: dirty for contents in luns for node, dirty in contents.dirty.items()}
    nodes = [
        node
        for contents in luns
        for node in our_devices.list_of_disk(host, contents.disk.path)
        if not our_devices.is_overlay(host, node)
    ]
    types = [content.from_udev(udev_db.read(host, number(host, node))).fstype for node in nodes]
    places = [(mount_options.family(fstype), node) for fstype, node in zip(types, nodes)]
    try:
        read = journal.dirty_states(host, target, places, until) if places else []
    except errors.Failure:
        return states
    return {**states, **dict(zip(nodes, read))}
