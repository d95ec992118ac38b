"""Apply the setting `journal` to filesystems that were in use when their snapshot was taken.

The newest changes to such a filesystem are in its journal. The kernel replays the journal at the
mount, with `ro` or without, if the disk can be written. So with every rule but replay, the disk is
first made read-only in the kernel (BLKROSET, as blockdev --setro does). Then the superblock is
read: on a read-only disk the kernel refuses a filesystem whose journal has to be replayed. With the
rule overlay, the journal is replayed into an overlay (overlay.lay), and the overlay is mounted.
"""

from __future__ import annotations

import fcntl
import os

from auto_iscsi import errors
from auto_iscsi.config.settings import OVERLAY, Settings
from auto_iscsi.disks import identity, multipath, ownership, readiness, scsi_disks, udev_db
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import device_mapper, mount_options, mountable, overlay, superblock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Callable

_BLKROSET = 0x125D  # linux/fs.h: _IO(0x12, 93)
READ_SECONDS = 10.0  #: seconds to read superblocks, for a caller without a deadline of its own
_NTFS_COSTS = "Linux does not replay its log with ro: the newest files can be missing"
_COSTS = (
    "journal = overlay shows all and writes nothing to the LUN; journal = skip mounts it without "
    "its journal: the newest files can be missing or damaged, in the worst case all; "
    "journal = replay shows all, and writes to the LUN"
)


class _State(NamedTuple):
    """What a rule has to know about one filesystem."""

    is_dirty: bool | None  #: whether its journal has to be replayed; None: unknown
    is_protected: bool  #: the LUN is read-only, and not because we made it so
    is_writable: bool  #: the disk can be written, and is not ours to make read-only
    is_ours: bool  #: a lookup opened the disk's session


def apply_rule(
    host: Host,
    target: str,
    layout: mountable.Mountable,
    settings: Settings,
    until: float,
    act: bool,
) -> mountable.Mountable:
    """Return the filesystems as the rule (`journal`) has them mounted; raise DirtyJournal.

    Raise NoDisk for a disk of ours that nobody uses and that says that it cannot be read now.
    With `act`, the disks are made read-only first, or writable again, as the rule needs them, and
    overlays are laid over dirty filesystems. A disk that is not ours alone (ownership) stays as it
    is. Then a filesystem is mounted only if the mount cannot write: on a disk that can be written,
    `ro` replays a dirty journal.
    """
    rule = settings.journal_rule
    if act:
        for disk in sorted({_disk_path(part.device) for part in layout.filesystems}):
            set_read_only(host, target, disk, until, rule != "replay")
    states = _read_states(host, target, layout, rule, until)
    if act:
        _refuse_unreadable(host, target, layout, states)
    store = overlay.Store(settings.overlay_dir, settings.overlay_keep_free)

    def lay_overlay(filesystem: mountable.Filesystem) -> mountable.Filesystem:
        device, fstype = filesystem.device, filesystem.fstype
        if act:
            return filesystem._replace(
                device=overlay.lay(host, target, device, fstype, store, until)
            )
        return filesystem._replace(device=overlay.find_laid(host, device) or device)

    allowed = _decide(target, layout, rule, states, lay_overlay)
    return allowed._replace(filesystems=tuple(_without_fsck(host, f) for f in allowed.filesystems))


def _refuse_unreadable(
    host: Host, target: str, layout: mountable.Mountable, states: Sequence[_State]
) -> None:
    """Raise NoDisk when a disk whose superblock could not be read says why."""
    for filesystem, state in zip(layout.filesystems, states):
        disk, family = filesystem.device.disk, mount_options.family(filesystem.fstype)
        if state.is_dirty is not None or family not in mount_options.WITHOUT_JOURNAL or not disk:
            continue
        why = readiness.why_not_ready(host, os.path.basename(disk))
        if why and ownership.is_changeable(host, target, disk):
            raise errors.NoDisk(
                f"{target}: {filesystem.device.node} cannot be read: {why}",
                "make the LUN ready at the SAN, and visit the key again",
            )


def _without_fsck(host: Host, filesystem: mountable.Filesystem) -> mountable.Filesystem:
    """Leave the type of an ext filesystem to mount(8), as long as it finds the same one.

    For ext2, ext3 and ext4 automount first runs fsck (autofs modules/mount_ext2.c): a check of the
    whole filesystem once it is due, for hours, which can refuse the mount. It runs none for the
    type auto. mount(8) and udev find a type in the same way (libblkid), or both find none.
    """
    recorded_type = udev_db.read(host, filesystem.device.number).properties.get("ID_FS_TYPE")
    is_ext = filesystem.fstype in mount_options.EXT
    return filesystem._replace(is_type_guessed=is_ext and recorded_type == filesystem.fstype)


def _decide(
    target: str,
    layout: mountable.Mountable,
    rule: str,
    states: Sequence[_State],
    lay_overlay: Callable[[mountable.Filesystem], mountable.Filesystem],
) -> mountable.Mountable:
    """Return each filesystem as the rule has it mounted in its state; raise DirtyJournal."""
    allowed = mountable.Collector(target, layout.notes)
    for filesystem, state in zip(layout.filesystems, states):
        with allowed.leave_out_failures(filesystem.offset):
            is_used_ntfs = filesystem.fstype in mount_options.NTFS and state.is_dirty
            if is_used_ntfs and rule != "refuse":  # there is no better way to show it
                state = state._replace(is_dirty=False)
            options = _allowed_options(target, filesystem, rule, state)
            if state.is_dirty and rule == OVERLAY:
                node, filesystem = filesystem.device.node, lay_overlay(filesystem)
                if filesystem.device.node == node:  # only asked for, not done
                    allowed.notes.append(f"the journal of {node} will be replayed in an overlay")
            allowed.filesystems.append(filesystem._replace(options=options))
            if is_used_ntfs and "ro" in options:
                allowed.notes.append(
                    f"the NTFS on {filesystem.device.node} was in use when the snapshot was taken, "
                    f"or its Windows was hibernated: {_NTFS_COSTS}"
                )
            if state.is_dirty and rule == "skip":
                allowed.notes.append(
                    f"{filesystem.device.node} is mounted without its journal: the newest files "
                    "can be missing"
                )
    return allowed.result() or layout


def _allowed_options(
    target: str, filesystem: mountable.Filesystem, rule: str, state: _State
) -> tuple[str, ...]:
    """Return the options with which the rule lets a filesystem be mounted; raise DirtyJournal."""
    reason = (
        f"{target}: {filesystem.fstype} on {filesystem.device.node} was in use when the snapshot "
        "was taken"
    )
    if rule == "replay":
        if state.is_dirty and state.is_protected:
            raise errors.DirtyJournal(
                f"{reason}, and it is read-only: its journal cannot be replayed there",
                "set journal = overlay: the journal is then replayed on this host",
            )
        return filesystem.options
    options = mount_options.read_only(filesystem.options)
    has_journal = mount_options.family(filesystem.fstype) in mount_options.WITHOUT_JOURNAL
    if state.is_dirty is None and has_journal and state.is_writable:
        raise errors.DirtyJournal(
            f"{target}: {filesystem.device.node} is not mounted: somebody else logged it in or "
            f"uses it, and it is not known whether its {filesystem.fstype} is clean",
            "log its session out, so that a lookup opens one of its own: auto-iscsi status",
        )
    if not state.is_dirty:
        return options
    if rule == "refuse":
        is_ntfs = filesystem.fstype in mount_options.NTFS
        raise errors.DirtyJournal(f"{reason}: {_NTFS_COSTS if is_ntfs else _COSTS}")
    if rule == OVERLAY:
        if not state.is_ours:
            raise errors.DirtyJournal(
                f"{reason}, and somebody else logged its disk in, so no overlay is laid over it",
                "log its session out, so that a lookup opens one of its own: auto-iscsi status",
            )
        return options
    return mount_options.without_journal(filesystem.fstype, options)


def _read_states(
    host: Host, target: str, layout: mountable.Mountable, rule: str, until: float
) -> list[_State]:
    """Return the state of each filesystem."""
    places = [(mount_options.family(part.fstype), part.device.node) for part in layout.filesystems]
    states = []
    for part, dirty in zip(layout.filesystems, dirty_states(host, target, places, until)):
        is_protected = bool(dirty) and rule == "replay" and _is_protected(host, target, part.device)
        disk = _disk_path(part.device)
        is_writable = not (_is_read_only(host, disk) or ownership.is_changeable(host, target, disk))
        is_ours = ownership.is_ours(host, target, disk)
        states.append(_State(dirty, is_protected, is_writable, is_ours))
    return states


def _is_read_only(host: Host, disk: str) -> bool:
    """Tell whether a disk and multipath's maps of it are read-only.

    A map passes writes on, even when all disks below it are read-only.
    """
    maps = multipath.map_and_partitions(host, disk).values()
    paths = [disk, *(f"/sys/block/{node}" for node in maps)]
    return all(host.read(f"{path}/ro") == "1" for path in paths)


def dirty_states(
    host: Host, target: str, places: Sequence[tuple[str, str]], until: float
) -> list[bool | None]:
    """Return for each family and node (sdXN) whether the journal is dirty, None for unknown.

    Raise NoAnswer when the disks do not answer in time.
    """
    return list(
        bounded.run(
            lambda: [superblock.is_node_dirty(host, *each) for each in places], until, target
        )
    )


def _is_protected(host: Host, target: str, device: scsi_disks.Device) -> bool:
    """Tell whether nothing can be written to a device.

    Its LUN is read-only, or it is a logical volume, which we map read-only.
    """
    disk = _disk_path(device)
    if device.folder == device_mapper.FOLDER:
        return True
    if host.read(f"{disk}/ro") != "1":
        return False
    remembered = identity.read(host, target).get(identity.disk_name(host, disk))
    return not (remembered and remembered.set_read_only)


def _disk_path(device: scsi_disks.Device) -> str:
    """Return the path in sysfs of a device's disk, or of the device where its disk is unknown."""
    return device.disk or f"/sys/dev/block/{device.number}"


def set_read_only(host: Host, target: str, disk: str, until: float, read_only: bool = True) -> None:
    """Make a disk, its partitions and maps read-only, or undo that if it was us; raise Failure.

    A disk that is not ours alone (ownership) stays as it is.
    """
    is_read_only = _is_read_only(host, disk)
    disks, name = identity.read(host, target), identity.disk_name(host, disk)
    remembered = disks.get(name, identity.Remembered())
    if is_read_only == read_only or not (read_only or remembered.set_read_only):
        return
    if not ownership.is_changeable(host, target, disk):
        return
    maps = multipath.map_and_partitions(host, disk).values()
    if read_only:  # remembered first, because we may be killed in between
        identity.write(host, target, {**disks, name: remembered._replace(set_read_only=True)})
    nodes = [os.path.basename(disk), *scsi_disks.partitions_below(host, disk).values(), *maps]
    if disk.startswith("/sys/dev/"):
        nodes = [disk[len("/sys/dev/") :]]
    error = bounded.run(lambda: _set_nodes(host, nodes, read_only), until, target)
    if not read_only:
        # If the disk is read-only even now, its LUN is so by itself, and the kernel noticed that
        # only after we had remembered the disk as made read-only by us.
        if not error:
            identity.write(host, target, {**disks, name: remembered._replace(set_read_only=False)})
    elif error or not _is_read_only(host, disk):
        raise errors.NotPermitted(f"{target}: {nodes[0]} cannot be made read-only: {error}")


def _set_nodes(host: Host, nodes: Sequence[str], read_only: bool) -> str:
    """Make devices read-only or writable; return what the kernel refused, "" for nothing."""
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
