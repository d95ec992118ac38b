"""Wait for multipathd to join the paths of a target (`paths = all`).

multipathd sees each disk, asks it for its identity, and loads a map: some tenths of a second.
Whether it wants a disk at all is for its own configuration to say (multipath.conf: find_multipaths,
blacklist).
"""

from __future__ import annotations

from collections.abc import Sequence

from auto_iscsi.disks import multipath
from auto_iscsi.iscsi.sessions import Session
from auto_iscsi.machine import udev_events
from auto_iscsi.map import available
from auto_iscsi.map.request import Request


def wait_for_map(
    request: Request, up: Sequence[Session], events: udev_events.Listener, missing: Sequence[str]
) -> list[str]:
    """Wait until multipathd holds the selected disks, for udev_timeout at most.

    Return lines for the log: the paths that are `missing` and why, or that no map was made.
    """
    notes = [f"a path is missing: {why}" for why in missing]
    if not request.host.runs("multipathd"):
        return [*notes, "multipathd does not run: one path is used"]

    def all_joined() -> bool | None:
        disks = available.selected_disks(request, up)
        units = {disk.san_lun for disk in disks}
        joined = {disk.san_lun for disk in disks if multipath.map_of(request.host, disk.path)}
        return True if units and joined == units else None

    timeout = request.settings.udev_timeout
    if events.wait_for(all_joined, request.within(timeout)):
        return notes
    return [*notes, f"multipathd has made no map of it in {timeout:.0f} s: one path is used"]
