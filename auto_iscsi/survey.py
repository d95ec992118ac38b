"""What is on a session's disks, and what of it is chosen, as a person is told it?

The same list as in the log when a choice is not clear, with the journals' states. Disks are read,
nothing is written or set.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from auto_iscsi import choice, disks, errors, fitting, identity, journal, keys
from auto_iscsi.host import Host
from auto_iscsi.wanted import Settings

_STATES = {True: ", journal dirty", False: ", journal clean", None: ""}


def rows(host: Host, disk: disks.Disk, settings: Settings) -> list[tuple[str, str]]:
    """Return what is to be said of a disk of a session that is up."""
    if not identity.is_same(host, keys.fold(disk.session.target), disk.path, keep=False):
        return [("changed", "another volume is behind this disk than the kernel found there")]
    there = choice.inventory(host, disk)
    if there is None:
        return [("on it", "not known yet: udev is not through with it")]
    found = [("on it", line) for line in _lines(host, disk, there)]
    if disks.is_wanted(disk, settings):
        try:
            chosen = choice.choose(disk, there, settings)
        except errors.Failure:  # the report says it
            return found
        nodes = ", ".join(place.device.node for place in chosen.places)
        found.append(("of it", f"{nodes}: {chosen.why}"))
    return found


def _lines(host: Host, disk: disks.Disk, there: Sequence[choice.Place]) -> list[str]:
    places = there[1:] or there
    wanted = [(fitting.family(place.content.fstype), place.device.node) for place in places]
    try:
        states = journal.states(host, disk.session.target, wanted, time.monotonic() + journal.LIMIT)
    except errors.Failure:
        states = [None] * len(places)
    return [f"{place}{_STATES[state]}" for place, state in zip(places, states)]
