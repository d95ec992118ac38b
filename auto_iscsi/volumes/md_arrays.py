"""Map the md arrays on a target's disks, read-only, without mdadm: raid1, by one member.

A snapshot of a member has the UUID of the original array, which can run on this host, and mdadm
takes the one for the other. Each member of a raid1 has all data. So a device of ours (mapping)
shows the data of one member. If there are several members, it is the one that md would read: the
one with the most changes, and among equals the first in the array (drivers/md/raid1.c,
read_balance: an array that is not in sync is read from its first disk, and no array is in sync that
was copied while in use).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from auto_iscsi import errors
from auto_iscsi.config.settings import Settings
from auto_iscsi.disks import ownership
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import mapping, md_superblock, mountable
from auto_iscsi.volumes.mountable import MD_MEMBER, MEMBERS

_NO_ROLES = (0xFFFF, 0xFFFE)  # a spare or failed disk, or none: not all versions write the same


class _Leg(NamedTuple):
    """A member of an array, and where it lies."""

    filesystem: mountable.Filesystem  #: the selected partition or disk, of type MD_MEMBER
    member: md_superblock.Member

    @property
    def node(self) -> str:
        """Its name in /dev."""
        return self.filesystem.device.node

    @property
    def place(self) -> str:
        """Its directory below the key; its node where it has none of its own."""
        return self.filesystem.offset or f"/{self.node}"

    @property
    def label(self) -> str:
        """How a note names it."""
        return self.place[1:]


def expand(
    host: Host,
    target: str,
    layout: mountable.Mountable,
    settings: Settings,
    until: float,
    act: bool,
) -> mountable.Mountable:
    """Replace each member of an array in `layout` by what is on the array.

    Raise Failure when nothing is left. Without `act`, only devices that are there already are used.
    """
    members = [each for each in layout.filesystems if each.fstype == MD_MEMBER]
    if not members:
        return layout
    collected = mountable.Collector(target, layout.notes)
    collected.filesystems += [each for each in layout.filesystems if each.fstype != MD_MEMBER]
    wants_volume = "/" in str(settings.partition)
    for leg in _select_legs(target, _read_legs(host, target, members, collected, until), collected):
        with collected.leave_out_failures(leg.place):
            shown = _mapping(host, target, leg)
            if act:
                mapping.make(host, target, shown, until)
            what = f"{target}: the md array on {leg.node}"
            filesystem = mapping.filesystem(host, what, leg.filesystem.offset, shown, settings)
            if filesystem.fstype in MEMBERS or not wants_volume:
                collected.filesystems.append(filesystem)
    result = collected.result()
    if result is None:
        raise errors.NoPartition(
            f"{target}: no logical volume {settings.partition}: no md array has a volume group",
            "set partition to all",
        )
    return result


def _read_legs(
    host: Host,
    target: str,
    filesystems: Sequence[mountable.Filesystem],
    collected: mountable.Collector,
    until: float,
) -> list[_Leg]:
    """Return the members whose superblocks can be read, whether or not they show anything."""
    nodes = [
        (each.device.node, int(host.read(f"/sys/dev/block/{each.device.number}/size") or 0))
        for each in filesystems
    ]
    answers = bounded.run(lambda: [_read_node(host, *each) for each in nodes], until, target)
    legs = []
    for filesystem, (values, why) in zip(filesystems, answers):
        node = filesystem.device.node
        with collected.leave_out_failures(filesystem.offset or f"/{node}"):
            if why:
                raise errors.NotMountable(f"{target}: {node} is a member of an md array: {why}")
            legs.append(_Leg(filesystem, md_superblock.Member(*values)))
    return legs


def _read_node(host: Host, node: str, sectors: int) -> tuple[tuple[object, ...], str]:
    """Return the values of a Member, or why they cannot be read: marshal writes no NamedTuple."""
    try:
        handle = os.open(host.path(f"/dev/{node}"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return (), str(error)
    try:
        member = md_superblock.read_member(lambda at, size: os.pread(handle, size, at), sectors)
        return (tuple(member), "") if member else ((), "it has no superblock")
    except (md_superblock.Malformed, OSError, OverflowError) as error:
        return (), str(error)
    finally:
        os.close(handle)


def _select_legs(target: str, legs: Sequence[_Leg], collected: mountable.Collector) -> list[_Leg]:
    """Return one member of each array that can be shown; note why the others are not used."""
    arrays: dict[str, list[_Leg]] = {}
    for leg in legs:
        arrays.setdefault(leg.member.array, []).append(leg)
    selected = []
    for array in arrays.values():
        for leg in array:
            if leg.member.why:
                with collected.leave_out_failures(leg.place):
                    raise _refusal(target, leg)
        usable = [leg for leg in array if not leg.member.why]
        if usable:
            with collected.leave_out_failures(usable[0].place):
                chosen = _choose(target, array, usable)
                selected.append(chosen)
                collected.notes += [_why_not(leg, chosen) for leg in usable if leg != chosen]
    return selected


def _refusal(target: str, leg: _Leg) -> errors.NotMountable:
    """Return the failure for a member that alone does not show the data of its array."""
    hint = "needed: all disks of its array, on another host (mdadm --assemble --readonly)"
    return errors.NotMountable(f"{target}: {leg.node} {leg.member.why}", hint)


def _choose(target: str, array: Sequence[_Leg], usable: Sequence[_Leg]) -> _Leg:
    """Return the member that shows an array; raise Failure where nothing tells which one does.

    Members whose numbers of changes differ by one are equal to md (super_1_validate): it can have
    been interrupted between them.
    """
    names = Counter(leg.member.device for leg in array)
    if twins := [leg.label for leg in array if names[leg.member.device] > 1]:
        raise errors.Ambiguous(
            f"{target}: {' and '.join(twins)} are the same disk of one md array",
            "set lun and partition to one of them",
        )
    chosen = max(usable, key=lambda leg: (leg.member.events, -leg.member.role))
    newest = max(leg.member.events for leg in array)
    if chosen.member.events + 1 < newest:
        raise errors.NotMountable(
            f"{target}: {chosen.node} was removed from its md array before the snapshot was taken: "
            f"its event count is {chosen.member.events}, and that of another disk {newest}",
            "map the other disks of the array to this host too, and set lun = all",
        )
    for leg in usable:
        is_equal = leg.member.events == chosen.member.events
        if is_equal and _active(leg.member) != _active(chosen.member):
            raise errors.Ambiguous(
                f"{target}: {chosen.label} and {leg.label} disagree on the disks of their md array",
                "set lun and partition to one of them",
            )
    return chosen


def _active(member: md_superblock.Member) -> dict[int, int]:
    """Return the active devices of an array, as a member has them: number → place."""
    return {number: role for number, role in enumerate(member.roles) if role not in _NO_ROLES}


def _why_not(leg: _Leg, chosen: _Leg) -> str:
    """Return the note on a member that is not used, because another one is."""
    if leg.member.events == chosen.member.events:
        return f"{leg.label} is the same md array as {chosen.label}, and is not shown twice"
    return (
        f"{leg.label} is left out: it is an older copy of the md array {chosen.label} (event count "
        f"{leg.member.events}, not {chosen.member.events})"
    )


def _mapping(host: Host, target: str, leg: _Leg) -> mapping.Mapping:
    """Return how the data of a member are mapped; raise NotMountable."""
    device, member = leg.filesystem.device, leg.member
    # Our device would hold a disk that an administrator works with.
    if not ownership.is_ours(host, target, device.disk):
        raise errors.NotMountable(
            f"{target}: {leg.node} is not mapped: somebody else logged its disk in",
            "log its session out, so that a lookup opens one of its own: auto-iscsi status",
        )
    table = (f"0 {member.size} linear {device.number} {member.offset}",)
    name = mapping.name(host, device.number, f"md-{member.array[:8]}")
    return mapping.Mapping(name, table, device.disk, device.number)
