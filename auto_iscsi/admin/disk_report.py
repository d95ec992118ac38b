"""Describe the contents of a session's disks, and which filesystems are selected.

The contents are listed in the words of the log line for an ambiguous selection, with the state of
each journal. Disks are read; nothing is written to them and no setting of them is changed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from auto_iscsi import errors, keys
from auto_iscsi.config.settings import Settings
from auto_iscsi.disks import identity, scsi_disks
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import journal, mount_options, selection

_JOURNAL = {True: ", journal dirty", False: ", journal clean", None: ""}


class Contents(NamedTuple):
    """What is on a disk of a session that is up."""

    disk: scsi_disks.Disk
    candidates: Sequence[selection.Candidate]  #: the whole disk and its partitions
    dirty: dict[str, bool | None]  #: by node, whether the journal there is dirty
    why: tuple[str, str] = ("", "")  #: of a disk without candidates, label and text of the reason


def read(host: Host, disk: scsi_disks.Disk) -> Contents:
    """Return what is on a disk of a session that is up."""
    if not identity.examine(host, keys.fold(disk.session.target), disk.path).is_same:
        text = "the SAN has mapped another volume here since the kernel found it"
        return Contents(disk, (), {}, ("changed", text))
    try:
        candidates = selection.read_contents(host, disk)
    # Its multipath map joins it with another volume, or a hidden partition is not in its table.
    except (errors.TwinVolumes, errors.NotMountable) as failure:
        return Contents(disk, (), {}, ("contents", failure.reason))
    if candidates is None:
        text = "not known yet: udev has not finished with the disk"
        if why := scsi_disks.why_unreadable(host, disk):
            text = f"it cannot be read now: {why}"
        return Contents(disk, (), {}, ("contents", text))
    return Contents(disk, candidates, _read_journals(host, disk, candidates))


def rows(contents: Contents, settings: Settings) -> list[tuple[str, str]]:
    """Return (label, text) rows about a disk: a row for each partition, and what is selected."""
    if not contents.candidates:
        return [contents.why]
    listed = selection.list_contents(contents.candidates)
    described = [
        ("contents", f"{each}{_JOURNAL[contents.dirty.get(each.device.node)]}") for each in listed
    ]
    return described + _selected(contents.disk, contents.candidates, settings)


def _selected(
    disk: scsi_disks.Disk, candidates: Sequence[selection.Candidate], settings: Settings
) -> list[tuple[str, str]]:
    if not scsi_disks.is_selected(disk, settings):
        return []
    try:
        selected = selection.select(disk, candidates, settings)
    except errors.Failure:  # the caller's report gives this reason for the refusal
        return []
    nodes = ", ".join(candidate.device.name for candidate in selected.candidates)
    return [("selected", f"{nodes}: {selected.why}")]


def _read_journals(
    host: Host, disk: scsi_disks.Disk, candidates: Sequence[selection.Candidate]
) -> dict[str, bool | None]:
    """Return the state of each journal by its node; nothing where the disk does not answer."""
    listed = selection.list_contents(candidates)
    places = [(mount_options.family(each.content.fstype), each.device.node) for each in listed]
    until = time.monotonic() + journal.READ_SECONDS
    try:
        states = journal.dirty_states(host, disk.session.target, places, until)
    except errors.Failure:
        return {}
    return {node: state for (_, node), state in zip(places, states)}
