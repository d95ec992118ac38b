"""Describe the contents of a session's disks, and which filesystems are selected.

The contents are listed in the words of the log line for an ambiguous selection, with the state of
each journal. Disks are read; nothing is written to them and no setting of them is changed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from auto_iscsi import errors, keys
from auto_iscsi.config.settings import Settings
from auto_iscsi.disks import identity, scsi_disks
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import journal, mount_options, selection

_JOURNAL = {True: ", journal dirty", False: ", journal clean", None: ""}


def rows(host: Host, disk: scsi_disks.Disk, settings: Settings) -> list[tuple[str, str]]:
    """Return (label, text) rows about a disk of a session that is up."""
    if not identity.examine(host, keys.fold(disk.session.target), disk.path).is_same:
        return [("changed", "the SAN has mapped another volume here since the kernel found it")]
    try:
        candidates = selection.read_contents(host, disk)
    except errors.TwinVolumes as failure:  # its multipath map joins it with another volume
        return [("contents", failure.reason)]
    if candidates is None:
        if why := scsi_disks.why_unreadable(host, disk):
            return [("contents", f"it cannot be read now: {why}")]
        return [("contents", "not known yet: udev has not finished with the disk")]
    contents = [("contents", line) for line in _describe(host, disk, candidates)]
    return contents + _selected(disk, candidates, settings)


def _selected(
    disk: scsi_disks.Disk, candidates: Sequence[selection.Candidate], settings: Settings
) -> list[tuple[str, str]]:
    if not scsi_disks.is_selected(disk, settings):
        return []
    try:
        selected = selection.select(disk, candidates, settings)
    except errors.Failure:  # the caller's report gives this reason for the refusal
        return []
    nodes = ", ".join(candidate.device.node for candidate in selected.candidates)
    return [("selected", f"{nodes}: {selected.why}")]


def _describe(
    host: Host, disk: scsi_disks.Disk, candidates: Sequence[selection.Candidate]
) -> list[str]:
    """Return a line for each partition, and for the whole disk if anything else is on it."""
    listed = selection.list_contents(candidates)
    nodes = [(mount_options.family(each.content.fstype), each.device.node) for each in listed]
    until = time.monotonic() + journal.READ_SECONDS
    try:
        states = journal.dirty_states(host, disk.session.target, nodes, until)
    except errors.Failure:
        states = [None] * len(listed)
    return [f"{candidate}{_JOURNAL[state]}" for candidate, state in zip(listed, states)]
