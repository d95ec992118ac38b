"""Recognise the overlays that lookups lay over dirty filesystems (volumes/overlay makes them).

An overlay is a device-mapper device whose UUID begins with UUID_PREFIX. In sysfs it is a holder of
the disk, partition or multipath map that it reads from.
"""

from __future__ import annotations

from auto_iscsi.disks import multipath
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

UUID_PREFIX = "AUTOISCSI-"
_BLOCK = "/sys/block"


def is_overlay(host: Host, node: str) -> bool:
    """Tell whether a block device (dm-N) is an overlay of ours."""
    return (host.read(f"{_BLOCK}/{node}/dm/uuid") or "").startswith(UUID_PREFIX)


def find(host: Host, number: str) -> str:
    """Return the overlay (dm-N) of the device MAJOR:MINOR, "" for none."""
    for node in host.names(f"/sys/dev/block/{number}/holders"):
        if is_overlay(host, node):
            return node
    return ""


def list_of_disk(host: Host, path: str) -> list[str]:
    """Return the overlays (dm-N) of the disk at `path` in sysfs, its partitions and its maps."""
    disk = path.rpartition("/")[2]
    pending = [path, *(f"{path}/{name}" for name in host.names(path) if name.startswith(disk))]
    nodes = []
    while pending:
        for node in host.names(f"{pending.pop()}/holders"):
            if is_overlay(host, node):
                nodes.append(node)
            elif multipath.is_map(host, node):
                pending.append(f"{_BLOCK}/{node}")
    return sorted(set(nodes))


def is_finished(host: Host, node: str) -> bool:
    """Tell whether an overlay is complete: its journal was replayed, and it was made read-only."""
    return host.read(f"{_BLOCK}/{node}/ro") == "1"


def name(host: Host, node: str) -> str:
    """Return an overlay's name in /dev/mapper."""
    return host.read(f"{_BLOCK}/{node}/dm/name") or node


def orphans(host: Host) -> Iterator[str]:
    """Yield the overlays (dm-N) whose disk is gone from the kernel: its session has ended."""
    for node in host.names(_BLOCK):
        if not node.startswith("dm-") or not is_overlay(host, node):
            continue
        folder = f"{_BLOCK}/{node}/slaves"
        origins = [slave for slave in host.names(folder) if not slave.startswith("loop")]
        if not any(host.stat(f"{folder}/{slave}") for slave in origins):
            yield node
