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

from auto_iscsi import errors
from auto_iscsi.disks import identity, multipath, ownership, scsi_disks
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import mount_options, mountable, superblock

_BLKROSET = 0x125D  # linux/fs.h: _IO(0x12, 93)
LIMIT = 10.0  #: seconds for a look where nobody says how long
_COSTS = (
    "journal = skip mounts it without its newest files, in the worst case without most of them; "
    "journal = replay shows all, and writes to the LUN"
)


def apply_rule(
    host: Host, target: str, layout: mountable.Mountable, rule: str, until: float, act: bool = True
) -> mountable.Mountable:
    """Return the layout as the journals allow it; raise DirtyJournal. Not `act`: set nothing.

    A disk that is not ours alone stays as it is. Then a filesystem is mounted only if that mount
    cannot write: `ro` replays a dirty journal on a disk that can be written.
    """
    until = until or time.monotonic() + LIMIT
    for disk in sorted({_place(part.device) for part in layout.filesystems}) if act else ():
        set_read_only(host, target, disk, until, rule != "replay")
    wanted = [(mount_options.family(part.fstype), part.device.node) for part in layout.filesystems]
    kept = mountable.Collector(target, layout.notes)
    for part, dirty in zip(layout.filesystems, dirty_states(host, target, wanted, until)):
        with kept.leave_out_failures(part.place):
            protected = _is_read_only(host, _place(part.device)) or (
                not act and ownership.is_changeable(host, target, _place(part.device))
            )
            kept.filesystems.append(_ruled(host, target, part, dirty, rule, protected))
            if dirty and rule == "skip":
                kept.notes.append(
                    f"{part.device.node} is mounted without its journal: the newest files can be "
                    "missing"
                )
    return kept.result() or layout


def _ruled(
    host: Host,
    target: str,
    part: mountable.Filesystem,
    dirty: bool | None,
    rule: str,
    protected: bool,
) -> mountable.Filesystem:
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
    options = mount_options.read_only(part.options)
    if dirty and rule == "refuse":
        raise errors.DirtyJournal(f"{was}: {_COSTS}")
    has_journal = mount_options.family(part.fstype) in mount_options.WITHOUT_JOURNAL
    if dirty is None and has_journal and not protected:
        raise errors.DirtyJournal(
            f"{target}: {part.device.node} is left as it is, because another login or user has it, "
            f"and whether its {part.fstype} is clean cannot be told",
            "log its session out, so that a lookup opens one of its own: auto-iscsi status",
        )
    if dirty:
        options = mount_options.without_journal(part.fstype, options)
    return part._replace(options=options)


def _place(device: scsi_disks.Device) -> str:
    """Return where sysfs has the disk that is to be read-only; what is no disk's is one itself."""
    return device.disk or f"/sys/dev/block/{device.number}"


def set_read_only(host: Host, target: str, disk: str, until: float, read_only: bool = True) -> None:
    """Make a disk read-only, or undo that where it was us; raise Failure.

    A disk that is not ours alone (ownership) stays as it is.
    """
    is_so = _is_read_only(host, disk)
    known, name = identity.read(host, target), identity.name(host, disk)
    seen = known.get(name, identity.Seen())
    if is_so == read_only or not (read_only or seen.ours):
        return
    if not ownership.is_changeable(host, target, disk):
        return
    maps = multipath.map_and_partitions(host, disk).values()
    if read_only:  # noted first: we may be killed in between
        identity.write(host, target, {**known, name: seen._replace(ours=True)})
    nodes = [os.path.basename(disk), *scsi_disks.partitions_below(host, disk).values(), *maps]
    if disk.startswith("/sys/dev/"):
        nodes = [disk[len("/sys/dev/") :]]
    wrong = bounded.run(lambda: _set(host, nodes, read_only), until, target)
    if not read_only:
        # What is read-only all the same is so by itself: the kernel found that out after we had
        # met the disk and noted that it was us.
        if not wrong:
            identity.write(host, target, {**known, name: seen._replace(ours=False)})
    elif wrong or not _is_read_only(host, disk):
        raise errors.NotPermitted(f"{target}: {nodes[0]} cannot be made read-only: {wrong}")


def _is_read_only(host: Host, disk: str) -> bool:
    """Tell whether a disk and multipath's maps of it are read-only.

    A map hands on what is written to it, even when all that is below it is read-only.
    """
    maps = multipath.map_and_partitions(host, disk).values()
    places = [disk, *(f"/sys/block/{node}" for node in maps)]
    return all(host.read(f"{place}/ro") == "1" for place in places)


def dirty_states(
    host: Host, target: str, wanted: Sequence[tuple[str, str]], until: float
) -> list[bool | None]:
    """Return for each family and node whether it is dirty, None where that is not known."""
    return list(bounded.run(lambda: [_state(host, *each) for each in wanted], until, target))


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
