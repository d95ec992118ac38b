"""Unmount at once what automount has mounted and nobody uses, before automount's own time."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection

from auto_iscsi.machine import master_map, mounts
from auto_iscsi.machine.host import Host

_EXPIRY = 10.0  # seconds that automount gets to unmount a tree, and umount(8) a filesystem


def unmount_all(host: Host) -> None:
    """Unmount what nobody uses below each directory where automount mounts targets."""
    for root in dict.fromkeys(master_map.served_roots(host)):
        inside = (mount.point for mount in mounts.list_all(host))
        parts = (point[len(root) :].split("/") for point in inside if point.startswith(f"{root}/"))
        unmount(host, root, {f"{root}/{first}" for _, first, *_ in parts})


def unmount(host: Host, root: str, points: Collection[str]) -> None:
    """Unmount targets that nobody uses. points: where they are mounted, below `root`.

    What is in use stays. A whole tree is left to automount, which also removes its directories.
    """
    trees = set()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for point in points:
            # Anew for each: umount(8) of what is unmounted by now would have automount mount it.
            inside = [m for m in mounts.list_all(host) if f"{m.point}/".startswith(f"{point}/")]
            if any(mount.fstype == "autofs" and mount.point != point for mount in inside):
                trees.add(point)
                continue
            for mount in reversed(inside):
                if mount.fstype != "autofs":
                    until = time.monotonic() + _EXPIRY
                    host.run("umount", mount.point, out=null, err=null, until=until)
    finally:
        os.close(null)
    if trees:
        _expire(host, root, trees)


def _expire(host: Host, root: str, trees: Collection[str]) -> None:
    """Have automount unmount what nobody uses (automount(8), SIGUSR1); wait for trees to go."""
    served = master_map.list_autofs_mounts(host).get(root)
    if served is None or host.read(f"/proc/{served.pid}/comm") != "automount":
        return
    with contextlib.suppress(OSError):
        os.kill(served.pid, signal.SIGUSR1)
    until = time.monotonic() + _EXPIRY
    while time.monotonic() < until:
        if not any(m.point in trees and m.fstype != "autofs" for m in mounts.list_all(host)):
            return
        time.sleep(0.1)
