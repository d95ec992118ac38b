"""Which multipath map holds a disk, and by which name is it mounted?

multipathd joins the disks that are one volume, by its WWID: each has a holders/dm-N whose dm/uuid
is mpath-WWID. kpartx makes a device partN-mpath-WWID of each partition on it, and udev takes the
partitions of the paths away (68-del-part-nodes.rules, or 11-dm-mpath.rules). The entry names
/dev/disk/by-id/dm-uuid-UUID (13-dm-disk.rules), which can only be this volume.
"""

from __future__ import annotations

from auto_iscsi.machine.host import Host

BY_ID = "/dev/disk/by-id"
_BLOCK = "/sys/block"
_MAP = "mpath-"


def map_of(host: Host, path: str) -> str:
    """Return the map (dm-N) that holds the disk at `path` in sysfs; "": none does."""
    for name in host.names(f"{path}/holders"):
        if name.startswith("dm-") and _uuid(host, name).startswith(_MAP):
            return name
    return ""


def map_and_partitions(host: Host, path: str) -> dict[int, str]:
    """Return the map of a disk, as 0, and its partitions, by number; nothing without a map."""
    held = map_of(host, path)
    found = {0: held} if held else {}
    for name in host.names(f"{_BLOCK}/{held}/holders") if held else ():
        part, _, rest = _uuid(host, name).partition("-")
        if part.startswith("part") and part[4:].isdecimal() and rest.startswith(_MAP):
            found[int(part[4:])] = name
    return found


def is_map(host: Host, name: str) -> bool:
    """Say whether a device is the map of a disk, or of a partition of it."""
    kind, _, rest = _uuid(host, name).partition("-")
    return kind == "mpath" or (kind.startswith("part") and rest.startswith(_MAP))


def link(host: Host, node: str) -> str:
    """Return the name of a map's or a partition's link."""
    return f"dm-uuid-{_uuid(host, node)}"


def number(host: Host, node: str) -> str:
    """Return MAJOR:MINOR of a map or a partition of one."""
    return host.read(f"{_BLOCK}/{node}/dev") or ""


def is_settled(host: Host, path: str) -> bool:
    """Say whether udev is through with the map of a disk: kpartx runs while it is at that."""
    found = map_and_partitions(host, path)
    return host.read("/run/udev/queue") is None and all(
        f"S:disk/by-id/{link(host, node)}" in _known(host, number(host, node))
        for node in found.values()
    )


def _known(host: Host, device: str) -> list[str]:
    return (host.read(f"/run/udev/data/b{device}") or "").splitlines()


def _uuid(host: Host, name: str) -> str:
    return host.read(f"{_BLOCK}/{name}/dm/uuid") or ""
