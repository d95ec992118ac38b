"""Find the multipath map that holds a disk, and the partitions on that map.

multipathd joins the disks that lead to one volume, by the volume's WWID: each of these disks then
has a holders/dm-N in sysfs whose dm/uuid is mpath-WWID. kpartx makes a device whose dm/uuid is
partN-mpath-WWID for each partition on the map, and udev removes the partitions of the single disks
(68-del-part-nodes.rules or 11-dm-mpath.rules). The map entry names the link
/dev/disk/by-id/dm-uuid-UUID (13-dm-disk.rules), which can only lead to this volume.
"""

from __future__ import annotations

from auto_iscsi.disks import udev_db
from auto_iscsi.machine.host import Host

BY_ID = "/dev/disk/by-id"
_BLOCK = "/sys/block"
_MAP = "mpath-"


def map_of(host: Host, path: str) -> str:
    """Return the name (dm-N) of the map that holds the disk at `path` in sysfs, "" for none."""
    for name in host.names(f"{path}/holders"):
        if name.startswith("dm-") and _uuid(host, name).startswith(_MAP):
            return name
    return ""


def map_and_partitions(host: Host, path: str) -> dict[int, str]:
    """Return the map of a disk as number 0 and its partitions by number; {} without a map."""
    map_name = map_of(host, path)
    if not map_name:
        return {}
    names = {0: map_name}
    for name in host.names(f"{_BLOCK}/{map_name}/holders"):
        prefix, _, rest = _uuid(host, name).partition("-")
        if prefix.startswith("part") and prefix[4:].isdecimal() and rest.startswith(_MAP):
            names[int(prefix[4:])] = name
    return names


def is_map(host: Host, name: str) -> bool:
    """Tell whether a device is a multipath map, or a partition of one."""
    prefix, _, rest = _uuid(host, name).partition("-")
    return prefix == "mpath" or (prefix.startswith("part") and rest.startswith(_MAP))


def link(host: Host, name: str) -> str:
    """Return the name of the by-id link to a map or to a partition of one."""
    return f"dm-uuid-{_uuid(host, name)}"


def number(host: Host, name: str) -> str:
    """Return MAJOR:MINOR of a map or of a partition of one."""
    return host.read(f"{_BLOCK}/{name}/dev") or ""


def is_settled(host: Host, path: str) -> bool:
    """Tell whether udev has finished with the map of a disk and with the map's partitions.

    kpartx runs in a rule of the map: while udev works on any event, partitions can still appear.
    """
    if udev_db.is_busy(host):
        return False
    return all(
        f"disk/by-id/{link(host, name)}" in udev_db.read(host, number(host, name)).links
        for name in map_and_partitions(host, path).values()
    )


def _uuid(host: Host, name: str) -> str:
    return host.read(f"{_BLOCK}/{name}/dm/uuid") or ""
