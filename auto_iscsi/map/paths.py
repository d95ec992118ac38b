"""Does multipathd join the paths to a target, and what if it does not?

It has to see each disk, ask it who it is, and load a map: some tenths of a second. Whether it wants
a disk at all is for its own configuration to say (multipath.conf: find_multipaths, blacklist).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from auto_iscsi.config.schema import Settings
from auto_iscsi.disks import multipath, scsi_disks
from auto_iscsi.iscsi.sessions import Session
from auto_iscsi.machine import udev_events
from auto_iscsi.machine.host import Host
from auto_iscsi.map import layout


def wait_for_map(
    host: Host,
    target: str,
    up: Sequence[Session],
    settings: Settings,
    until: float,
    events: udev_events.Listener,
    missing: Sequence[str],
) -> list[str]:
    """Wait until multipathd holds the disks that are wanted, for udev_timeout at most.

    Return what the log should have: the paths that are `missing`, or that they are not joined.
    """
    notes = [f"a path is missing: {why}" for why in missing]
    if not host.runs("multipathd"):
        return [*notes, "multipathd does not run: one path is used"]

    def look() -> bool | None:
        layout.set_read_only(host, target, up, settings, until)
        every = [disk for session in up for disk in scsi_disks.list_all(host, session)]
        wanted = [disk for disk in every if scsi_disks.is_selected(disk, settings)]
        held = {disk.unit for disk in wanted if multipath.map_of(host, disk.path)}
        return True if held and held == {disk.unit for disk in wanted} else None

    within = min(until, time.monotonic() + settings.udev_timeout)
    if events.wait_for(look, within):
        return notes
    seconds = f"{settings.udev_timeout:.0f} s"
    return [*notes, f"multipathd has made no map of it in {seconds}: one path is used"]
