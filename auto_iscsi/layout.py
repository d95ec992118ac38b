"""What is there to be mounted for a target, and may it be?

Through its sessions that are up; or, when none is, what is mounted all the same. As shipped that is
one partition by its number, and nothing has to be found out. The rest is imported when it is asked
for: a visit to a session that is up costs no more than it needs.
"""

from __future__ import annotations

from auto_iscsi import claims, disks, errors, identity, mapentry, sessions, wanted
from auto_iscsi.light import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auto_iscsi import mounts
    from auto_iscsi.host import Host
    from auto_iscsi.mapentry import Layout
    from auto_iscsi.sessions import Session
    from auto_iscsi.wanted import Settings


def find(host: Host, up: Sequence[Session], settings: Settings) -> Layout | None:
    """Return what is to be mounted through sessions that are up, None while it is not there."""
    numbers = isinstance(settings.partition, int) and isinstance(settings.lun, int)
    if numbers and settings.fstype != wanted.AUTO:
        device = disks.choose(host, up, settings)
        return mapentry.given(device, settings) if device else None
    from auto_iscsi import choice  # only where somebody has to choose

    return choice.find(host, up, settings)


def present(
    host: Host, target: str, settings: Settings, claim: claims.Claim | None = None
) -> tuple[Layout | None, list[Session]]:
    """Return the layout when a session that is up has it, and the sessions that were asked.

    The one that the lease names first: to look at all can be to look at a thousand.
    """
    last = list((claim or claims.read(host, target)).sids)
    known = sessions.find_all(host, target, last[0] if last else -1)
    layout = find(host, [session for session in known if session.up], settings)
    if not layout and [session.sid for session in known] == last[:1]:
        known = sessions.find_all(host, target)
        layout = find(host, [session for session in known if session.up], settings)
    return layout, known


def still_mounted(
    host: Host,
    known: list[Session],
    mounted: list[mounts.Mount],
    settings: Settings,
) -> Layout | None:
    """Return the layout of a session that is down when it is mounted all the same."""
    numbers = {mount.number: mount for mount in mounted}
    down = [session for session in known if not session.up]
    for device in disks.candidates(host, down, settings):
        if device.number in numbers:
            return as_mounted(device, numbers[device.number], settings)
    return None


def as_mounted(
    device: disks.Device, mount: mounts.Mount, settings: Settings
) -> Layout:
    """Return the layout of what is mounted: a type to be found out is the mount's."""
    if settings.fstype == wanted.AUTO:
        settings = settings._replace(fstype=mount.fstype)
    return mapentry.given(device, settings)


def protect(
    host: Host, target: str, up: Sequence[Session], settings: Settings, until: float
) -> None:
    """Make the disks that are meant read-only, where nothing is to be written, and at once.

    One that sysfs shows already may not be there to be opened yet; settle() insists.
    """
    if settings.journal_rule not in ("refuse", "skip"):
        return
    from auto_iscsi import journal

    for session in up:
        for disk in disks.list_all(host, session):
            if disks.is_wanted(disk, settings):
                with suppress(errors.NotPermitted):
                    journal.protect(host, target, disk.path, until)


def announced(host: Host, up: Sequence[Session], settings: Settings) -> bool:
    """Say whether there is a link to a disk that is meant: not yet, then nothing can be mounted.

    Where that is not so, or a disk is to be protected at once, this says that there is one.
    """
    number, protected = settings.lun, settings.journal_rule in ("refuse", "skip")
    if protected or settings.device == "kernel" or not isinstance(number, int):
        return True
    luns = (number, number | 0x4000)  # Disk.unit
    names = [disks.Disk("", lun, session, "").link for session in up for lun in luns]
    return any(host.link(f"{disks.BY_PATH}/{name}") for name in names)


def swapped(host: Host, target: str, up: Sequence[Session], settings: Settings) -> bool:
    """Say whether a disk that is meant is another volume by now; it is forgotten then."""
    every = [disk for session in up for disk in disks.list_all(host, session)]
    meant = [disk.path for disk in every if disks.is_wanted(disk, settings)]
    return bool([path for path in meant if _is_swapped(host, target, path)])  # each is forgotten


def _is_swapped(host: Host, target: str, disk: str) -> bool:
    if identity.is_same(host, target, disk):
        return False
    identity.forget(host, target, disk)
    return True


def settle(
    host: Host, target: str, layout: Layout, settings: Settings, until: float
) -> Layout | None:
    """Return what may be mounted; None: a disk is another volume by now, and was forgotten."""
    every = {part.device.disk for part in layout.parts if part.device.disk}
    if [disk for disk in sorted(every) if _is_swapped(host, target, disk)]:  # each is forgotten
        return None
    return journaled(host, target, layout, settings, until)


def journaled(
    host: Host,
    target: str,
    layout: Layout,
    settings: Settings,
    until: float = 0.0,
    act: bool = True,
) -> Layout:
    """Return the layout as the journals allow it; raise DirtyJournal. Not `act`: set nothing."""
    if rule := settings.journal_rule:
        from auto_iscsi import journal

        return journal.settle(host, target, layout, rule, until, act)
    return layout
