"""Can a filesystem be mounted as it is, and without a byte being changed?

A snapshot that was taken while its filesystem was in use has the newest changes in its journal. The
kernel replays that at the mount, `ro` or not, if the disk can be written. So by default the disk is
made read-only first (BLKROSET, as blockdev --setro does), and then the superblock is looked at. The
look only makes the message: with a read-only disk the kernel itself refuses a dirty filesystem.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence

from auto_iscsi import apart, disks, errors, fitting, identity, mapentry, multipath, superblock
from auto_iscsi.host import Host
from auto_iscsi.wanted import Settings

_BLKROSET = 0x125D  # linux/fs.h: _IO(0x12, 93)
_COSTS = (
    "journal = skip mounts it without its newest files, in the worst case without most of them; "
    "journal = replay shows all, and writes to the LUN"
)


def settle(
    host: Host, target: str, layout: mapentry.Layout, settings: Settings, until: float
) -> mapentry.Layout:
    """Return the layout as the journals allow it; raise DirtyJournal when they do not."""
    writable = settings.journal_rule == "replay"
    for disk in sorted({part.device.disk for part in layout.parts}):
        protect(host, target, disk, until, not writable)
    states = look(host, target, layout.parts, until)
    kept = mapentry.Kept(layout.notes)
    for part, dirty in zip(layout.parts, states):
        with kept.but_for(part.place):
            kept.parts.append(_ruled(host, target, part, dirty, settings))
            if dirty and settings.journal_rule == "skip":
                kept.notes.append(
                    f"{part.device.node} is mounted without its journal: the newest files can be "
                    "missing"
                )
    return kept.layout() or layout


def _ruled(
    host: Host, target: str, part: mapentry.Part, dirty: bool | None, settings: Settings
) -> mapentry.Part:
    rule, node = settings.journal_rule, part.device.node
    if rule == "replay":
        if dirty and host.read(f"{part.device.disk}/ro") == "1":
            raise errors.DirtyJournal(
                f"{target}: {part.fstype} on {node} was in use when it was copied, and its LUN "
                "is read-only: its journal cannot be replayed",
                "present a writable copy, or set journal = skip: the newest files can be missing",
            )
        return part
    options = fitting.read_only(part.options)
    if dirty and rule == "refuse":
        raise errors.DirtyJournal(
            f"{target}: {part.fstype} on {node} was in use when it was copied: {_COSTS}"
        )
    if dirty:
        options = fitting.without_journal(part.fstype, options)
    return part._replace(options=options)


def protect(host: Host, target: str, disk: str, until: float, read_only: bool = True) -> None:
    """Make a disk read-only, or undo that where it was us; raise Failure."""
    # A map hands on what is written to it, even when all that is below it is read-only.
    maps = multipath.nodes(host, disk).values()
    places = [disk, *(f"/sys/block/{node}" for node in maps)]
    is_so = all(host.read(f"{place}/ro") == "1" for place in places)
    known, name = identity.read(host, target), identity.name(host, disk)
    seen = known.get(name, identity.Seen())
    if is_so == read_only or not (read_only or seen.ours):
        return
    if read_only:  # noted first: we may be killed in between
        identity.write(host, target, {**known, name: seen._replace(ours=True)})
    nodes = [os.path.basename(disk), *disks.numbered(host, disk).values(), *maps]
    wrong = apart.do(lambda: _set(host, nodes, read_only), until, target)
    if wrong or any(host.read(f"{place}/ro") != f"{read_only:d}" for place in places):
        if read_only:
            raise errors.NotPermitted(f"{target}: {nodes[0]} cannot be made read-only: {wrong}")
        return
    if not read_only:
        identity.write(host, target, {**known, name: seen._replace(ours=False)})


def look(
    host: Host, target: str, parts: Sequence[mapentry.Part], until: float
) -> list[bool | None]:
    """Return for each filesystem whether it is dirty, None where that is not known."""
    wanted = [(fitting.family(part.fstype), f"/dev/{part.device.node}") for part in parts]
    return list(apart.do(lambda: [_state(host, *each) for each in wanted], until, target))


def _state(host: Host, family: str, node: str) -> bool | None:
    try:
        handle = os.open(host.path(node), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return superblock.is_dirty(family, lambda at, size: os.pread(handle, size, at))
    except OSError:
        return None
    finally:
        os.close(handle)


def _set(host: Host, nodes: Sequence[str], read_only: bool) -> str:
    """Tell the kernel that devices are read-only, or not; return what went wrong."""
    for node in nodes:
        try:
            handle = os.open(host.path(f"/dev/{node}"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.ioctl(handle, _BLKROSET, int(read_only).to_bytes(4, "little"))
            finally:
                os.close(handle)
        except OSError as error:
            return f"{node}: {error.strerror}"
    return ""
