"""What uses a disk?

Mounted from it, in any mount namespace that a process is in (/proc/PID/mountinfo); held by device
mapper, md or another driver (holders/ in sysfs, Documentation/ABI/testing/sysfs-block); swap
(/proc/swaps); the backing of a loop device; open in a process; and, whatever else there may be,
held exclusively. multipath's maps of a disk are the disk itself by another name.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from auto_iscsi import errors
from auto_iscsi.disks import multipath, scsi_disks
from auto_iscsi.machine import bounded, mounts
from auto_iscsi.machine.host import Host

_ANSWER = 2.0  # seconds that a disk has to let itself be opened
_WATCHER = "multipathd"  # has every path open, to see whether it answers


class Use(NamedTuple):
    """Something that uses a disk."""

    what: str  #: mounted, held, swap, loop, open, exclusive, unknown
    where: str  #: the mount point and whose, the holder's name, the process

    def __str__(self) -> str:
        words = {"mounted": "mounted at", "held": "held by", "loop": "behind", "open": "open in"}
        return f"{words.get(self.what, self.what)} {self.where}".strip()


class Node(NamedTuple):
    """A block device that is a disk, a partition of it, or multipath's map of either."""

    name: str  #: sdX, sdXN, dm-N
    number: str  #: MAJOR:MINOR
    path: str  #: in sysfs
    holders: tuple[str, ...]  #: names of the devices that are made of it


class Usage(NamedTuple):
    """What uses the disks of one session."""

    uses: tuple[Use, ...]
    nodes: tuple[Node, ...]


class _Seen(NamedTuple):
    """What is looked at once for all disks."""

    mounted: dict[str, list[str]]  #: by number, and by node: where
    swaps: dict[str, str]  #: by node
    loops: dict[str, str]
    open: dict[str, list[str]]


def find_uses(host: Host, wanted: Sequence[Sequence[scsi_disks.Disk]]) -> list[Usage]:
    """Return what uses the disks of each of several sessions."""
    seen = _Seen(_mounted(host), _swaps(host), _loops(host), _open(host))
    found = []
    for group in wanted:
        nodes = [node for disk in group for node in _nodes(host, disk)]
        uses = [use for node in nodes for use in _uses(host, node, seen)]
        found.append(Usage(tuple(dict.fromkeys(uses)), tuple(nodes)))
    return found


def claims_on(host: Host, disk: scsi_disks.Disk) -> list[Use]:
    """Return who has a disk mounted, holds it, or has it as swap or behind a loop device."""
    seen = _Seen(_mounted(host), _swaps(host), _loops(host), {})
    return [use for node in _nodes(host, disk) for use in _uses(host, node, seen)]


def probe_exclusive(host: Host, found: Sequence[Usage]) -> list[tuple[Use, ...]]:
    """Return, for disks that nobody was seen to use, whether somebody holds them exclusively.

    The caller holds the targets: what is looked at cannot be mounted in that moment.
    """
    leaves = [
        (at, f"/dev/{node.name}")
        for at, each in enumerate(found)
        for node in each.nodes
        if not node.holders and host.read(f"{node.path}/partition") is None
    ]
    uses: list[tuple[Use, ...]] = [()] * len(found)
    answers = bounded.probe_exclusive(host, [node for _, node in leaves], _ANSWER)
    for (at, node), says in zip(leaves, answers):
        if says not in (bounded.FREE, errno.ENXIO):  # which is: offline, and held by nobody
            uses[at] += (_exclusive(node, says),)
    return uses


def _exclusive(node: str, says: int) -> Use:
    if says == errno.EBUSY:
        return Use("exclusive", f"use of {node} by a program that cannot be seen from here")
    why = "it does not answer" if says == bounded.HANGS else os.strerror(says).lower()
    return Use("unknown", f"use of {node}: {why}")


def _nodes(host: Host, disk: scsi_disks.Disk) -> Iterator[Node]:
    """Yield the disk, its partitions, and what multipath makes of them."""
    todo = [(disk.name, disk.path)]
    todo += [(name, f"{disk.path}/{name}") for name in scsi_disks.partitions(host, disk).values()]
    done = set()
    while todo:
        name, path = todo.pop(0)
        if name in done:
            continue
        done.add(name)
        holders = tuple(host.names(f"{path}/holders"))
        yield Node(name, host.read(f"{path}/dev") or "", path, holders)
        todo += [(held, f"/sys/block/{held}") for held in holders if multipath.is_map(host, held)]


def _uses(host: Host, node: Node, seen: _Seen) -> Iterator[Use]:
    names = [f"/dev/{node.name}"]
    label = host.read(f"/sys/block/{node.name}/dm/name")
    names += [f"/dev/mapper/{label}"] if label else []
    for key in (node.number, *names):
        yield from (Use("mounted", where) for where in seen.mounted.get(key, ()))
    for name in names:
        if name in seen.swaps:
            yield Use("swap", f"on {seen.swaps[name]}")
        if name in seen.loops:
            yield Use("loop", seen.loops[name])
        yield from (Use("open", who) for who in seen.open.get(name, ()))
    for holder in node.holders:
        if multipath.is_map(host, holder):
            continue
        label = host.read(f"/sys/block/{holder}/dm/name")
        yield Use("held", f"{holder} ({label})" if label else holder)
        path = f"/sys/block/{holder}"
        number = host.read(f"{path}/dev") or ""
        above = Node(holder, number, path, tuple(host.names(f"{path}/holders")))
        yield from _uses(host, above, seen)


def _mounted(host: Host) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for mount, who in mounts.list_all_namespaces(host):
        where = f"{mount.point} by {who}" if who else mount.point
        source = mount.source
        if mount.number.startswith("0:") and source.startswith("/dev/"):  # btrfs: by its node
            with contextlib.suppress(OSError):
                source = "/dev/" + os.path.basename(os.path.realpath(host.path(source)))
            found.setdefault(source, []).append(where)
        else:
            found.setdefault(mount.number, []).append(where)
    return found


def _swaps(host: Host) -> dict[str, str]:
    lines = (host.read("/proc/swaps") or "").splitlines()[1:]
    return {_real(host, line.split()[0]): line.split()[0] for line in lines if line.split()}


def _loops(host: Host) -> dict[str, str]:
    found = {}
    for name in host.names("/sys/block"):
        if name.startswith("loop"):
            backing = host.read(f"/sys/block/{name}/loop/backing_file") or ""
            if backing.startswith("/dev/"):
                found[_real(host, backing)] = name
    return found


def _open(host: Host) -> dict[str, list[str]]:
    """Return who has a block device open, by its node: a backup of the disk, for instance."""
    found: dict[str, list[str]] = {}
    for pid in filter(str.isdecimal, host.names("/proc")):
        folder = host.path(f"/proc/{pid}/fd")
        try:
            handles = os.listdir(folder)
        except OSError:  # it has ended, or is not ours to look into
            continue
        for handle in handles:
            try:
                leads = os.readlink(f"{folder}/{handle}")
            except OSError:
                continue
            if leads.startswith("/dev/") and not leads.startswith(("/dev/pts", "/dev/null")):
                name = ""
                with contextlib.suppress(errors.Failure):
                    name = host.read(f"/proc/{pid}/comm") or ""
                who = f"process {pid} ({name})"
                if name != _WATCHER and who not in found.setdefault(leads, []):
                    found[leads].append(who)
    return found


def _real(host: Host, node: str) -> str:
    return "/dev/" + os.path.basename(os.path.realpath(host.path(node)))
