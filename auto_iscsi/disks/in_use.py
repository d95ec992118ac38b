"""Find what uses the disks of a session.

A disk is used when it, a partition of it or a multipath map of either is
- mounted, in any mount namespace that a process is in (/proc/PID/mountinfo),
- held by device mapper, md or another driver (holders/ in sysfs,
  Documentation/ABI/testing/sysfs-block),
- swap (/proc/swaps) or the backing of a loop device,
- open in a process,
- entered: a process is in the directory of its key (a multi-mount entry),
- opened exclusively by somebody that none of these shows.
A multipath map or an overlay of ours counts as the disk itself, under another name. Where
multipathd joins the disks of two targets, a map that is only mounted at the other target's key is
no use of this one's.
"""

from __future__ import annotations

import errno
import os
from types import MappingProxyType

from auto_iscsi import errors, keys
from auto_iscsi.disks import multipath, our_devices, scsi_disks
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, suppress
from auto_iscsi.machine import bounded, mounts
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_OPEN_SECONDS = 2.0  # within which a disk has to let itself be opened
_WATCHER = "multipathd"  # has every path open, to check that it works
_PREPOSITIONS = {
    "mounted": "mounted at",
    "held": "held by",
    "loop": "behind",
    "open": "open in",
    "inside": "entered by",
}


class Use(NamedTuple):
    """One use of a disk."""

    what: str  #: mounted, held, swap, loop, open, inside, exclusive, unknown
    where: str  #: the mount point and whose it is, the holder's name, the process

    def __str__(self) -> str:
        return f"{_PREPOSITIONS.get(self.what, self.what)} {self.where}".strip()


class Node(NamedTuple):
    """A block device: a disk, a partition of it, or a multipath map or overlay of either."""

    name: str  #: sdX, sdXN, dm-N
    number: str  #: MAJOR:MINOR
    path: str  #: in sysfs
    holders: tuple[str, ...]  #: names of the devices that are made of it


class Usage(NamedTuple):
    """The uses of the disks of one session."""

    uses: tuple[Use, ...]
    nodes: tuple[Node, ...]


class _UsedDevices(NamedTuple):
    """All uses of devices on the host that are read once for all disks."""

    mounted: dict[str, list[str]]  #: mount points, by MAJOR:MINOR or by /dev/NAME
    swaps: dict[str, str]  #: the names of swap spaces, by /dev/NAME
    loops: dict[str, str]  #: the names of loop devices, by /dev/NAME of their backing
    open: dict[str, list[str]]  #: processes, by /dev/NAME
    inside: dict[str, list[str]]  #: processes below an autofs mount point, by target


def find_uses(
    host: Host,
    groups: Sequence[Sequence[scsi_disks.Disk]],
    targets: Mapping[str, str] = MappingProxyType({}),
) -> list[Usage]:
    """Return the usage of each of several groups of disks: those of one session each.

    targets: those of keys that are no target's name, by the key in small letters.
    """
    open_devices, inside = _process_links(host)
    used = _UsedDevices(
        _mounted_devices(host), _swap_devices(host), _loop_backings(host), open_devices, inside
    )
    usages = []
    for disks in groups:
        nodes = [
            node
            for disk in disks
            for node in _nodes(host, disk)
            if not (node.name.startswith("dm-") and _serves_another(host, disk, node, used))
        ]
        uses = [use for node in nodes for use in _uses(host, node, used)]
        if not any(use.what == "mounted" for use in uses):
            for target in dict.fromkeys(keys.fold(disk.session.target) for disk in disks):
                for key in (target, *(key for key, of in targets.items() if of == target)):
                    uses += [Use("inside", process) for process in used.inside.get(key, ())]
        usages.append(Usage(tuple(dict.fromkeys(uses)), tuple(nodes)))
    return usages


def dead_mounts(
    host: Host, existing: Collection[str], targets: Mapping[str, str]
) -> dict[str, tuple[Use, ...]]:
    """Return the mounts of keys whose disk is gone from the kernel, by target.

    They outlive their session, and nothing but umount(8) ends them. `existing`: the numbers of
    disks that are there. `targets`: see find_uses().
    """
    mounted = mounts.list_all(host)
    roots = tuple(f"{mount.point}/" for mount in mounted if mount.fstype == "autofs")
    dead: dict[str, tuple[Use, ...]] = {}
    for mount in mounted:
        root = next((root for root in roots if mount.point.startswith(root)), "")
        is_device = mount.fstype != "autofs" and mount.source.startswith("/dev/")
        if not (root and is_device) or mount.number in existing or not _is_gone(host, mount):
            continue
        with suppress(errors.BadKey):
            key = mount.point[len(root) :].partition("/")[0]
            target = targets.get(key.lower()) or keys.parse(key).target
            dead[target] = (*dead.get(target, ()), Use("mounted", mount.point))
    return dead


def _is_gone(host: Host, mount: mounts.Mount) -> bool:
    """Tell whether the kernel has no disk any more below what is mounted.

    The kernel gives the number of a disk to no other one as long as the disk is mounted. A btrfs
    has no number of a disk, but the node's name. A multipath map outlives its paths, and an overlay
    of ours its disk.
    """
    path = f"/sys/dev/block/{mount.number}"
    if mount.number.startswith("0:"):
        path = f"/sys/class/block/{host.link(mount.source) or os.path.basename(mount.source)}"
        if mount.source.startswith("/dev/mapper/") and not host.link(mount.source):
            return False
    if host.stat(path) is None:
        return True
    node = os.path.basename(os.path.realpath(host.path(path)))
    if our_devices.is_ours(host, node):
        return not our_devices.has_disk(host, node)
    return multipath.is_map(host, node) and not multipath.has_path(host, node)


def claims_on(host: Host, disk: scsi_disks.Disk) -> list[Use]:
    """Return who has a disk mounted, holds it, or has it as swap or behind a loop device."""
    used = _UsedDevices(_mounted_devices(host), _swap_devices(host), _loop_backings(host), {}, {})
    return [use for node in _nodes(host, disk) for use in _uses(host, node, used)]


def probe_exclusive(host: Host, usages: Sequence[Usage]) -> list[tuple[Use, ...]]:
    """Return the exclusive uses of each group of disks for which no other use was found.

    The caller holds the locks of the targets, because nothing can mount a disk while it is probed.
    """
    probed = [
        (index, f"/dev/{node.name}")
        for index, usage in enumerate(usages)
        for node in usage.nodes
        if not node.holders
        and host.read(f"{node.path}/partition") is None
        # The kernel refuses an exclusive open of a disk of which a partition is held.
        and not any(
            other.holders for other in usage.nodes if other.path.startswith(f"{node.path}/")
        )
    ]
    uses: list[tuple[Use, ...]] = [()] * len(usages)
    results = bounded.probe_exclusive(host, [node for _, node in probed], _OPEN_SECONDS)
    for (index, node), result in zip(probed, results):
        if result not in (bounded.FREE, errno.ENXIO):  # ENXIO: offline, and nobody holds it
            uses[index] += (_exclusive_use(node, result),)
    return uses


def _exclusive_use(node: str, result: int) -> Use:
    if result == errno.EBUSY:
        return Use("exclusive", f"use of {node} by a program that cannot be seen from here")
    why = "it does not answer" if result == bounded.HANGS else os.strerror(result).lower()
    return Use("unknown", f"use of {node}: {why}")


def _nodes(host: Host, disk: scsi_disks.Disk) -> Iterator[Node]:
    """Yield a disk, its partitions, and the multipath maps and overlays of them."""
    pending = [(disk.name, disk.path)]
    pending += [
        (name, f"{disk.path}/{name}") for name in scsi_disks.list_partitions(host, disk).values()
    ]
    done = set()
    while pending:
        name, path = pending.pop(0)
        if name in done:
            continue
        done.add(name)
        holders = tuple(host.names(f"{path}/holders"))
        yield Node(name, host.read(f"{path}/dev") or "", path, holders)
        pending += [
            (holder, f"/sys/block/{holder}") for holder in holders if _is_alias(host, holder)
        ]


def _is_alias(host: Host, name: str) -> bool:
    """Tell whether a device shows a disk or partition under another name."""
    return multipath.is_map(host, name) or our_devices.is_ours(host, name)


def _serves_another(host: Host, disk: scsi_disks.Disk, node: Node, used: _UsedDevices) -> bool:
    """Tell whether a map of a disk is in use, and only at the keys of other targets.

    multipathd has joined their disks with this one: its users want the other volume.
    """
    targets = multipath.other_targets(host, disk.path, node.name)
    if not targets:
        return False

    def is_of_another(use: Use) -> bool:
        folders = use.where.partition(" by process ")[0].split("/")
        return use.what == "mounted" and not targets.isdisjoint(map(keys.fold, folders))

    below = [_node(host, node.name)]
    for each in below:
        below += [_node(host, name) for name in each.holders if multipath.is_map(host, name)]
    uses = [use for each in below for use in _uses(host, each, used)]
    return bool(uses) and all(map(is_of_another, uses))


def _node(host: Host, name: str) -> Node:
    """Return a device of the device mapper or md."""
    path = f"/sys/block/{name}"
    return Node(name, host.read(f"{path}/dev") or "", path, tuple(host.names(f"{path}/holders")))


def _uses(host: Host, node: Node, used: _UsedDevices) -> Iterator[Use]:
    """Yield the uses of a device, and of all devices that are made of it."""
    paths = [f"/dev/{node.name}"]
    label = host.read(f"/sys/block/{node.name}/dm/name")
    paths += [f"/dev/mapper/{label}"] if label else []
    for key in (node.number, *paths):
        yield from (Use("mounted", point) for point in used.mounted.get(key, ()))
    for path in paths:
        if path in used.swaps:
            yield Use("swap", f"on {used.swaps[path]}")
        if path in used.loops:
            yield Use("loop", used.loops[path])
        yield from (Use("open", process) for process in used.open.get(path, ()))
    for holder in node.holders:
        if _is_alias(host, holder):  # a node itself: _nodes() yields it
            continue
        label = host.read(f"/sys/block/{holder}/dm/name")
        yield Use("held", f"{holder} ({label})" if label else holder)
        yield from _uses(host, _node(host, holder), used)


def _mounted_devices(host: Host) -> dict[str, list[str]]:
    """Return the mount points of each device in all mount namespaces."""
    points: dict[str, list[str]] = {}
    for mount, process in mounts.list_all_namespaces(host):
        point = f"{mount.point} by {process}" if process else mount.point
        key = mount.number
        if key.startswith("0:") and mount.source.startswith("/dev/"):  # btrfs has no device number
            key = mount.source
            with suppress(OSError):
                key = _real_path(host, key)
        points.setdefault(key, []).append(point)
    return points


def _swap_devices(host: Host) -> dict[str, str]:
    lines = (host.read("/proc/swaps") or "").split("\n")[1:]
    return {_real_path(host, line.split()[0]): line.split()[0] for line in lines if line.split()}


def _loop_backings(host: Host) -> dict[str, str]:
    """Return the loop device of each block device that is the backing of one."""
    loops = {}
    for name in host.names("/sys/block"):
        if name.startswith("loop"):
            backing = host.read(f"/sys/block/{name}/loop/backing_file") or ""
            if backing.startswith("/dev/"):
                loops[_real_path(host, backing)] = name
    return loops


def _process_links(host: Host) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the processes that have a device open, and those that are below an autofs mount point.

    The first by the device's /dev/NAME: a backup of the disk for instance. The second by the target
    whose key they are in: of a multi-mount entry (partition = all) nothing may be mounted while a
    user stays in the key's own directory, and automount goes by the entry that it was given.
    """
    roots = tuple(f"{m.point}/" for m in mounts.list_all(host) if m.fstype == "autofs")
    open_devices: dict[str, list[str]] = {}
    inside: dict[str, list[str]] = {}
    for pid in filter(str.isdecimal, host.names("/proc")):
        for path in _links_of(host.path(f"/proc/{pid}")):
            root = next((root for root in roots if path.startswith(root)), "")
            is_device = path.startswith("/dev/") and not path.startswith(("/dev/pts", "/dev/null"))
            if not (root or is_device):
                continue
            name = ""
            with suppress(errors.Failure):
                name = host.read(f"/proc/{pid}/comm") or ""
            process = f"process {pid} ({name})"
            users, key = (inside, keys.fold(path[len(root) :].partition("/")[0]))
            if not root:
                users, key = open_devices, path
            if name != _WATCHER and process not in users.setdefault(key, []):
                users[key].append(process)
    return open_devices, inside


def _links_of(folder: str) -> Iterator[str]:
    """Yield where a process's working directory, root and descriptors lead to (proc(5))."""
    names = ["cwd", "root"]
    with suppress(OSError):  # the process has ended, or we may not look at it
        names += [f"fd/{name}" for name in os.listdir(f"{folder}/fd")]
    for name in names:
        with suppress(OSError):
            yield os.readlink(f"{folder}/{name}")


def _real_path(host: Host, path: str) -> str:
    """Return /dev/NAME of the device that a path below /dev leads to."""
    return "/dev/" + os.path.basename(os.path.realpath(host.path(path)))
