"""Find the multipath map that holds a disk, and refuse one that joins it with another volume.

multipathd joins the disks that have one WWID: each has a holders/dm-N whose dm/uuid is mpath-WWID.
kpartx makes a device partN-mpath-WWID of each partition on the map, and udev takes the partitions
of the paths away (68-del-part-nodes.rules, or 11-dm-mpath.rules). The entry names
/dev/disk/by-id/dm-uuid-UUID (13-dm-disk.rules).

The WWID is what the SAN says, and two volumes can have the same: a copied configuration of LIO has
the old vpd_unit_serial. multipathd then takes them for one volume, and a read of the map returns
blocks of either. INQUIRY cannot tell them apart, as both give the same answer. So a map is used
only if each of its paths (slaves/ in sysfs) is the same LUN of the same target.
"""

from __future__ import annotations

import os

from auto_iscsi import errors, keys
from auto_iscsi.disks import udev_db
from auto_iscsi.iscsi import sessions
from auto_iscsi.lean_stdlib import NamedTuple
from auto_iscsi.machine.host import Host

#: What helps when two volumes have one WWID.
TODO = (
    "give each volume its own serial number (WWID) at the SAN, or blacklist the disks in "
    "multipath.conf"
)
_BLOCK = "/sys/block"
_MAP = "mpath-"


class _Origin(NamedTuple):
    """Where a disk comes from."""

    target: str  #: folded; "": not from an iSCSI session
    lun: int = -1  #: as the kernel counts it


def map_of(host: Host, path: str) -> str:
    """Return the map (dm-N) that holds the disk at `path` in sysfs, "" when none does."""
    for name in host.names(f"{path}/holders"):
        if name.startswith("dm-") and _uuid(host, name).startswith(_MAP):
            return name
    return ""


def map_and_partitions(host: Host, path: str) -> dict[int, str]:
    """Return the map of the disk at `path` in sysfs, as 0, and the map's partitions, by number.

    The result is empty when no map holds the disk. Raise TwinVolumes when the map, or one of its
    partitions, is also made of a disk that is not this LUN of this target.
    """
    map_name = map_of(host, path)
    if not map_name:
        return {}
    nodes = {0: map_name}
    for name in host.names(f"{_BLOCK}/{map_name}/holders"):
        part, _, rest = _uuid(host, name).partition("-")
        if part.startswith("part") and part[4:].isdecimal() and rest.startswith(_MAP):
            nodes[int(part[4:])] = name
    for node in nodes.values():
        if stranger := foreign_path(host, path, node):
            name = host.read(f"{_BLOCK}/{map_name}/dm/name") or map_name
            raise errors.TwinVolumes(
                f"{_origin(host, path).target}: multipath map {name} joins "
                f"{os.path.basename(path)} with {stranger}, which is another volume",
                f"{TODO}; then umount both volumes, and multipath -f {name}",
            )
    return nodes


def foreign_path(host: Host, path: str, node: str) -> str:
    """Return a disk below a map that is not the same LUN of the same target as the disk at `path`.

    It is described for a message, with its target and LUN where it is a disk of an iSCSI session.
    "" when there is none.
    """
    for disk, origin in _foreign_paths(host, path, node):
        return f"{disk} (LUN {origin.lun} of {origin.target})" if origin.target else disk
    return ""


def joined_with(host: Host, path: str) -> str:
    """Return a disk of another volume that a map joins with the disk at `path`, "" for none."""
    map_name = map_of(host, path)
    return foreign_path(host, path, map_name) if map_name else ""


def other_targets(host: Host, path: str, node: str) -> set[str]:
    """Return the other targets whose disks a map joins with the disk at `path`, folded."""
    own = _origin(host, path).target
    return {origin.target for _, origin in _foreign_paths(host, path, node)} - {own, ""}


def _foreign_paths(host: Host, path: str, node: str) -> list[tuple[str, _Origin]]:
    """Return the disks below a map that are not the same LUN of the same target as another one."""
    own = _origin(host, path)
    paths = []
    for slave in _disks_below(host, node):
        origin = _origin(host, slave)
        # A slave that is gone from the kernel stays in the list until multipathd drops it.
        if (own.target == "" or origin != own) and host.stat(slave):
            paths.append((os.path.basename(slave), origin))
    return paths


def has_path(host: Host, node: str) -> bool:
    """Tell whether the kernel still has a disk below a map."""
    return any(host.stat(disk) for disk in _disks_below(host, node))


def _disks_below(host: Host, node: str, depth: int = 0) -> list[str]:
    """Return the links in slaves/ of a device mapper's device to the disks that it is made of."""
    paths = []
    folder = f"{_BLOCK}/{node}/slaves"
    for name in host.names(folder):
        if name.startswith("dm-") and depth < 8:
            paths += _disks_below(host, name, depth + 1)
        else:
            paths.append(f"{folder}/{name}")
    return paths


def _origin(host: Host, path: str) -> _Origin:
    """Return the target and the LUN of the disk at `path` in sysfs.

    The real path is …/sessionSID/targetH:C:T/H:C:T:L/block/sdX. A partition is no disk here: no
    map of multipathd is made of one.
    """
    parts = os.path.realpath(host.path(path)).split("/")
    if len(parts) < 5 or parts[-2] != "block" or not parts[-4].startswith("target"):
        return _Origin("")
    sid, lun = parts[-5][len("session") :], parts[-3].rpartition(":")[2]
    target = sessions.target_name(host, int(sid)) if sid.isdecimal() else ""
    if not target or not lun.isdecimal():
        return _Origin("")
    return _Origin(keys.fold(target), int(lun))


def is_map(host: Host, name: str) -> bool:
    """Return whether a device is the map of a disk, or of a partition of it."""
    kind, _, rest = _uuid(host, name).partition("-")
    return kind == "mpath" or (kind.startswith("part") and rest.startswith(_MAP))


def link(host: Host, node: str) -> str:
    """Return the name of the link in by-id to a map or to a partition of one."""
    return f"dm-uuid-{_uuid(host, node)}"


def number(host: Host, node: str) -> str:
    """Return MAJOR:MINOR of a map or of a partition of one."""
    return host.read(f"{_BLOCK}/{node}/dev") or ""


def is_settled(host: Host, path: str) -> bool:
    """Return whether udev has finished with the map of a disk and with the map's partitions.

    kpartx runs while udev works on the map.
    """
    if udev_db.is_busy(host):
        return False
    return all(
        f"disk/by-id/{link(host, node)}" in udev_db.read(host, number(host, node)).links
        for node in map_and_partitions(host, path).values()
    )


def _uuid(host: Host, name: str) -> str:
    return host.read(f"{_BLOCK}/{name}/dm/uuid") or ""
