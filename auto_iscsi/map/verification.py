"""Verify that disks are still the volumes that they were, and apply the rule for dirty journals.

Everything here changes something: a disk that is another volume by now is deleted from the kernel,
a disk is made read-only. A warm lookup imports this module, so each function imports what only it
needs.
"""

from __future__ import annotations

import os

from auto_iscsi import errors
from auto_iscsi.disks import identity, scsi_disks, udev_db
from auto_iscsi.lean_stdlib import TYPE_CHECKING, suppress
from auto_iscsi.map import available
from auto_iscsi.volumes import mountable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from auto_iscsi.iscsi.sessions import Session
    from auto_iscsi.map.request import Request
    from auto_iscsi.volumes.mountable import Mountable


def delete_swapped(request: Request, disks: Iterable[str]) -> bool:
    """Delete each disk (its path in sysfs) that is another volume by now; tell whether one was.

    Raise WrongDisk when such a disk is in use, or its session is not ours.
    """
    swapped = []
    for disk in disks:
        examination = identity.examine(request.host, request.target, disk)
        identity.remember(request.host, request.target, examination)
        swapped += [] if examination.is_same else [disk]
    for disk in swapped:
        from auto_iscsi.disks import ownership

        if not ownership.is_ours(request.host, request.target, disk):
            node = os.path.basename(disk)
            raise errors.WrongDisk(
                f"{request.target}: {node} is another volume than it was; its session is not ours",
                f"whoever opened it: iscsiadm -m node -T {request.target} --logout",
            )
        _remove_overlays(request, disk)
        identity.delete_disk(request.host, request.target, disk, request.until)
    return bool(swapped)


def _remove_overlays(request: Request, disk: str) -> None:
    """Remove our overlays of a disk (its path in sysfs) and its partitions; raise Busy."""
    from auto_iscsi.disks import our_devices

    if nodes := our_devices.list_of_disk(request.host, disk):
        from auto_iscsi.volumes import overlay

        for node in nodes:
            overlay.remove(request.host, request.target, node, request.until)


def delete_unreadable(request: Request, disks: Iterable[str]) -> None:
    """Delete each disk (its path in sysfs) that cannot be read any more; a rescan finds it anew.

    What the kernel and udev know of it would show it as one that is in order. Raise WrongDisk when
    it is in use.
    """
    from auto_iscsi.disks import ownership, readiness

    for disk in disks:
        node = os.path.basename(disk)
        if readiness.why_not_ready(request.host, node) and ownership.is_changeable(
            request.host, request.target, disk
        ):
            _remove_overlays(request, disk)
            why = "cannot be read any more"
            identity.delete_disk(request.host, request.target, disk, request.until, why)


def is_to_be_found_anew(request: Request, disk: scsi_disks.Disk) -> bool:
    """Tell whether a disk was not ready when the kernel and udev looked at it, and is by now.

    It can also be empty: then it is found anew in vain, once in a lookup that is refused. False for
    a disk that anybody uses, that multipathd holds, or whose session is not ours.
    """
    from auto_iscsi.disks import ownership

    host = request.host
    return (
        scsi_disks.is_unread(host, disk)
        and not host.names(f"{disk.path}/holders")
        and ownership.is_changeable(host, request.target, disk.path)
    )


def disks_of(content: Mountable) -> list[str]:
    """Return the paths in sysfs of the disks that a key's filesystems are on."""
    paths = {filesystem.device.disk for filesystem in content.filesystems}
    return sorted(paths - {""})


def make_read_only(request: Request, disks: Sequence[scsi_disks.Disk]) -> None:
    """Make disks read-only as soon as they appear, where the settings let nothing be written.

    A disk that sysfs shows already may not be there to be opened yet: allow_by_journal() insists.
    """
    if not request.settings.writes_nothing:
        return
    from auto_iscsi.volumes import journal

    for disk in disks:
        with suppress(errors.NotPermitted):
            journal.set_read_only(request.host, request.target, disk.path, request.until)


def hide_members(request: Request, content: Mountable, up: Sequence[Session]) -> Mountable:
    """Hide the physical volumes on disks of ours from this host's LVM; return what to mount then.

    Where the settings name one partition and its type, the disk is not looked at. With
    journal = replay, the partitions stay as they are: what our devices show cannot be written.
    """
    settings = request.settings
    if not available.selects_by_content(settings) or settings.journal_rule == "replay":
        return content
    disks = [
        disk
        for disk in available.selected_disks(request, up)
        if any(
            part and _is_member(request, device)
            for part, device in scsi_disks.list_devices(request.host, disk).items()
        )
    ]
    if not disks:
        return content
    from auto_iscsi.volumes import hidden_partitions

    return hidden_partitions.hide(request.host, request.target, disks, content, request.until)


def protect(request: Request, content: Mountable) -> None:
    """Make the disks of another target read-only where the settings let nothing be written."""
    if request.settings.writes_nothing:
        from auto_iscsi.volumes import journal

        for disk in disks_of(content):
            journal.set_read_only(request.host, request.target, disk, request.until)


def _is_member(request: Request, device: scsi_disks.Device) -> bool:
    record = udev_db.read(request.host, device.number)
    return record.properties.get("ID_FS_TYPE") in mountable.HIDDEN


def _with_partitions(request: Request, content: Mountable, act: bool) -> Mountable:
    """Return what is to be mounted, with devices of ours for partitions where these are needed."""
    if any(request.host.names(f"{disk}/holders") for disk in disks_of(content)) or any(
        filesystem.device.extent for filesystem in content.filesystems
    ):
        from auto_iscsi.volumes import partitions

        return partitions.show(request.host, request.target, content, request.until, act)
    return content


def allow_by_journal(request: Request, content: Mountable, act: bool = True) -> Mountable:
    """Return what may be mounted, by the journals' states; raise DirtyJournal.

    Disks are made read-only, or writable again, as the setting `journal` demands; not if `act` is
    False.
    """
    if content.is_final:
        return content
    if content.is_maybe_system:
        return _as_system(request, content, act)
    content = _with_partitions(request, content, act)
    if any(filesystem.fstype in mountable.MEMBERS for filesystem in content.filesystems):
        from auto_iscsi.volumes import stack

        content = stack.expand(
            request.host, request.target, content, request.settings, request.until, act
        )
    if not request.settings.journal_rule:
        return content
    from auto_iscsi.volumes import journal

    return journal.apply_rule(
        request.host, request.target, content, request.settings, request.until, act
    )


def _as_system(request: Request, content: Mountable, act: bool) -> Mountable:
    """Return what allow_by_journal() says for filesystems that can be those of one system.

    What was made to find out that they are none is removed again when the key is refused.
    """
    from auto_iscsi.disks import our_devices
    from auto_iscsi.map import kept_tree
    from auto_iscsi.volumes import system

    host, settings = request.host, request.settings
    names = system.names(host, content)
    fresh = [disk for disk in disks_of(content) if not our_devices.list_of_disk(host, disk)]
    try:
        layout = _with_partitions(request, content, act)
        tree = system.show(host, request.target, layout, names, settings, request.until, act)
    except system.NOT_NOW:
        raise
    except errors.Failure:
        if content.otherwise is None:
            raise
        if isinstance(content.otherwise, errors.Failure):
            for disk in fresh if act else ():
                with suppress(errors.Busy):
                    _remove_overlays(request, disk)
            raise content.otherwise from None
        return allow_by_journal(request, content.otherwise, act)
    if act:
        kept_tree.keep(request, tree)
    return tree
