"""What is on a session's disks, and what of it is chosen, as a person is told it?

The same list as in the log when a choice is not clear, with the journals' states. Disks are read,
nothing is written or set.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from auto_iscsi import errors, keys
from auto_iscsi.config.settings import Settings
from auto_iscsi.disks import identity, scsi_disks
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import journal, mount_options, selection

_STATES = {True: ", journal dirty", False: ", journal clean", None: ""}


def rows(host: Host, disk: scsi_disks.Disk, settings: Settings) -> list[tuple[str, str]]:
    """Return what is to be said of a disk of a session that is up."""
    if not identity.examine(host, keys.fold(disk.session.target), disk.path).is_same:
        return [("changed", "another volume is behind this disk than the kernel found there")]
    there = selection.read_contents(host, disk)
    if there is None:
        return [("on it", "not known yet: udev is not through with it")]
    found = [("on it", line) for line in _lines(host, disk, there)]
    if scsi_disks.is_selected(disk, settings):
        try:
            chosen = selection.select(disk, there, settings)
        except errors.Failure:  # the report says it
            return found
        nodes = ", ".join(place.device.node for place in chosen.candidates)
        found.append(("of it", f"{nodes}: {chosen.why}"))
    return found


def _lines(host: Host, disk: scsi_disks.Disk, there: Sequence[selection.Candidate]) -> list[str]:
    places = there[1:] or there
    wanted = [(mount_options.family(place.content.fstype), place.device.node) for place in places]
    try:
        states = journal.dirty_states(
            host, disk.session.target, wanted, time.monotonic() + journal.READ_SECONDS
        )
    except errors.Failure:
        states = [None] * len(places)
    return [f"{place}{_STATES[state]}" for place, state in zip(places, states)]
