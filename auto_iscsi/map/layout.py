"""What is there to be mounted for a target, and may it be?

Through its sessions that are up; or, when none is, what is mounted all the same. As shipped that is
one partition by its number, and nothing has to be found out. The rest is imported when it is asked
for: a visit to a session that is up costs no more than it needs.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.config.settings import AUTO
from auto_iscsi.disks import identity, scsi_disks
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, suppress
from auto_iscsi.volumes import mountable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auto_iscsi.config.settings import Settings
    from auto_iscsi.iscsi.sessions import Session
    from auto_iscsi.machine import mounts
    from auto_iscsi.machine.host import Host
    from auto_iscsi.volumes.mountable import Mountable


def find_mountable(host: Host, up: Sequence[Session], settings: Settings) -> Mountable | None:
    """Return what is to be mounted through sessions that are up, None while it is not there."""
    numbers = isinstance(settings.partition, int) and isinstance(settings.lun, int)
    if numbers and settings.fstype != AUTO:
        device = scsi_disks.choose(host, up, settings)
        return mountable.as_configured(device, settings) if device else None
    from auto_iscsi.volumes import selection  # only where somebody has to choose

    return selection.find(host, up, settings)


def find_present(
    host: Host, target: str, settings: Settings, claim: claims.Claim | None = None
) -> tuple[Mountable | None, list[Session]]:
    """Return the layout when a session that is up has it, and the sessions that were asked.

    The one that the lease names first: to look at all can be to look at a thousand.
    """
    last = list((claim or claims.read(host, target)).sids)
    known = sessions.find_all(host, target, last[0] if last else -1)
    layout = find_mountable(host, [session for session in known if session.up], settings)
    if not layout and [session.sid for session in known] == last[:1]:
        known = sessions.find_all(host, target)
        layout = find_mountable(host, [session for session in known if session.up], settings)
    return layout, known


def still_mounted(
    host: Host,
    known: list[Session],
    mounted: list[mounts.Mount],
    settings: Settings,
) -> Mountable | None:
    """Return the layout of a session that is down when it is mounted all the same."""
    numbers = {mount.number: mount for mount in mounted}
    down = [session for session in known if not session.up]
    for device in scsi_disks.candidates(host, down, settings):
        if device.number in numbers:
            return mountable_of_mount(device, numbers[device.number], settings)
    return None


def mountable_of_mount(
    device: scsi_disks.Device, mount: mounts.Mount, settings: Settings
) -> Mountable:
    """Return the layout of what is mounted: a type to be found out is the mount's."""
    if settings.fstype == AUTO:
        settings = settings._replace(fstype=mount.fstype)
    return mountable.as_configured(device, settings)


def set_read_only(
    host: Host, target: str, up: Sequence[Session], settings: Settings, until: float
) -> None:
    """Make the disks that are meant read-only, where nothing is to be written, and at once.

    One that sysfs shows already may not be there to be opened yet; settle() insists.
    """
    if settings.journal_rule not in ("refuse", "skip"):
        return
    from auto_iscsi.volumes import journal

    for session in up:
        for disk in scsi_disks.list_all(host, session):
            if scsi_disks.is_selected(disk, settings):
                with suppress(errors.NotPermitted):
                    journal.set_read_only(host, target, disk.path, until)


def has_link(host: Host, up: Sequence[Session], settings: Settings) -> bool:
    """Say whether there is a link to a disk that is meant: not yet, then nothing can be mounted.

    Where that is not so, or a disk is to be protected at once, this says that there is one.
    """
    number, protected = settings.lun, settings.journal_rule in ("refuse", "skip")
    if protected or settings.device == "kernel" or not isinstance(number, int):
        return True
    luns = (number, number | 0x4000)  # Disk.unit
    names = [scsi_disks.Disk("", lun, session, "").link for session in up for lun in luns]
    return any(host.link(f"{scsi_disks.BY_PATH}/{name}") for name in names)


def forget_swapped(host: Host, target: str, up: Sequence[Session], settings: Settings) -> bool:
    """Say whether a disk that is meant is another volume by now; it is forgotten then."""
    every = [disk for session in up for disk in scsi_disks.list_all(host, session)]
    meant = [disk.path for disk in every if scsi_disks.is_selected(disk, settings)]
    return bool([path for path in meant if _is_swapped(host, target, path)])  # each is forgotten


def _is_swapped(host: Host, target: str, disk: str) -> bool:
    if identity.is_same(host, target, disk):
        return False
    identity.delete_disk(host, target, disk)
    return True


def verify(
    host: Host, target: str, layout: Mountable, settings: Settings, until: float
) -> Mountable | None:
    """Return what may be mounted; None: a disk is another volume by now, and was forgotten."""
    every = {part.device.disk for part in layout.filesystems if part.device.disk}
    if [disk for disk in sorted(every) if _is_swapped(host, target, disk)]:  # each is forgotten
        return None
    return apply_journal_rule(host, target, layout, settings, until)


def apply_journal_rule(
    host: Host,
    target: str,
    layout: Mountable,
    settings: Settings,
    until: float = 0.0,
    act: bool = True,
) -> Mountable:
    """Return the layout as the journals allow it; raise DirtyJournal. Not `act`: set nothing."""
    if rule := settings.journal_rule:
        from auto_iscsi.volumes import journal

        return journal.apply_rule(host, target, layout, rule, until, act)
    return layout
