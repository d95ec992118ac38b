"""Tell whether a lookup may change a disk.

A lookup changes nothing about a disk whose session somebody else opened, or that anybody uses: not
its read-only flag, not its SCSI device. That disk can be an administrator's live volume, and any
local user can type its target's name.
"""

from __future__ import annotations

import os

from auto_iscsi import keys
from auto_iscsi.disks import scsi_disks
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.machine.host import Host


def is_ours(host: Host, target: str, disk: str) -> bool:
    """Tell whether a lookup opened the session of the disk at `disk` in sysfs."""
    session = _session(host, disk)
    return session is not None and claims.read(host, target).owns(session)


def target_of(host: Host, disk: str) -> str:
    """Return the target of the disk at `disk` in sysfs, folded; "" where that is not known."""
    session = _session(host, disk)
    return keys.fold(session.target) if session else ""


def is_changeable(host: Host, target: str, disk: str) -> bool:
    """Tell whether a lookup opened the disk's session, and nobody uses the disk.

    A use is a mount in any namespace, a device that is made of the disk (but for multipath's maps),
    swap, or a loop device. A process that only has the disk open is none: udev has, at first.
    """
    if not is_ours(host, target, disk):
        return False
    from auto_iscsi.disks import in_use  # looks at all mounts of the host: not on the warm path

    session = _session(host, disk)
    assert session
    return not in_use.claims_on(host, scsi_disks.Disk(os.path.basename(disk), -1, session, disk))


def _session(host: Host, disk: str) -> sessions.Session | None:
    """Return the session of a disk, by the disk's path in sysfs; None for other disks."""
    name = disk[len(f"{sessions.FOLDER}/session") :].partition("/")[0]
    if not disk.startswith(f"{sessions.FOLDER}/session") or not name.isdecimal():
        return None
    return sessions.read(host, int(name))
