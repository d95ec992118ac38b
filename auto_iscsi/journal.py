"""Can a filesystem be mounted as it is, and without a byte being changed?

A snapshot that was taken while its filesystem was in use has the newest changes in its journal. The
kernel replays that at the mount, `ro` or not, if the disk can be written. So by default the disk is
made read-only first (BLKROSET, as blockdev --setro does), and then the superblock is looked at. The
look only makes the message: with a read-only disk the kernel itself refuses a dirty filesystem.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence

from auto_iscsi import apart, disks, errors, fitting, identity, mapentry, multipath, superblock
from auto_iscsi.host import Host

_BLKROSET = 0x125D  # linux/fs.h: _IO(0x12, 93)
LIMIT = 10.0  #: seconds for a look where nobody says how long
_COSTS = (
    "journal = skip mounts it without its newest files, in the worst case without most of them; "
    "journal = replay shows all, and writes to the LUN"
)


def settle(
    host: Host, target: str, layout: mapentry.Layout, rule: str, until: float, act: bool = True
) -> mapentry.Layout:
    """Return the layout as the journals allow it; raise DirtyJournal. Not `act`: set nothing."""
    until = until or time.monotonic() + LIMIT
    for disk in sorted({_place(part.device) for part in layout.parts}) if act else ():
        protect(host, target, disk, until, rule != "replay")
    wanted = [(fitting.family(part.fstype), part.device.node) for part in layout.parts]
    kept = mapentry.Kept(target, layout.notes)
    for part, dirty in zip(layout.parts, states(host, target, wanted, until)):
        with kept.but_for(part.place):
            kept.parts.append(_ruled(host, target, part, dirty, rule))
            if dirty and rule == "skip":
                kept.notes.append(
                    f"{part.device.node} is mounted without its journal: the newest files can be "
                    "missing"
                )
    return kept.layout() or layout


def _ruled(
    host: Host, target: str, part: mapentry.Part, dirty: bool | None, rule: str
) -> mapentry.Part:
    was = f"{target}: {part.fstype} on {part.device.node} was in use when it was copied"
    if rule == "replay":
        disk = _place(part.device)
        ours = identity.read(host, target).get(identity.name(host, disk), identity.Seen()).ours
        if dirty and host.read(f"{disk}/ro") == "1" and not ours:
            raise errors.DirtyJournal(
                f"{was}, and its LUN is read-only: its journal cannot be replayed",
                "present a writable copy, or set journal = skip: the newest files can be missing",
            )
        return part
    options = fitting.read_only(part.options)
    if dirty and rule == "refuse":
        raise errors.DirtyJournal(f"{was}: {_COSTS}")
    if dirty:
        options = fitting.without_journal(part.fstype, options)
    return part._replace(options=options)


def _place(device: disks.Device) -> str:
    """Return where sysfs has the disk that is to be read-only; what is no disk's is one itself."""
    return device.disk or f"/sys/dev/block/{device.number}"


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
    if disk.startswith("/sys/dev/"):
        nodes = [disk[len("/sys/dev/") :]]
    wrong = apart.do(lambda: _set(host, nodes, read_only), until, target)
    if not read_only:
        # What is read-only all the same is so by itself: the kernel found that out after we had
        # met the disk and noted that it was us.
        if not wrong:
            identity.write(host, target, {**known, name: seen._replace(ours=False)})
    elif wrong or any(host.read(f"{place}/ro") != "1" for place in places):
        raise errors.NotPermitted(f"{target}: {nodes[0]} cannot be made read-only: {wrong}")


def states(
    host: Host, target: str, wanted: Sequence[tuple[str, str]], until: float
) -> list[bool | None]:
    """Return for each family and node whether it is dirty, None where that is not known."""
    return list(apart.do(lambda: [_state(host, *each) for each in wanted], until, target))


def _state(host: Host, family: str, node: str) -> bool | None:
    try:
        handle = os.open(host.path(f"/dev/{node}"), os.O_RDONLY | os.O_CLOEXEC)
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
