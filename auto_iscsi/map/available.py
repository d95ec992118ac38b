"""Find what can be mounted for a target right now. Nothing is changed or waited for here.

As shipped, a target's filesystem is one partition by its number, and nothing on the disk has to be
read to find it. The module that selects filesystems by their content is imported only when it is
needed: a warm lookup pays for every import.
"""

from __future__ import annotations

import os

from auto_iscsi.config.settings import AUTO, SYSTEM
from auto_iscsi.disks import scsi_disks
from auto_iscsi.iscsi import sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine import mounts
from auto_iscsi.map.request import TREES
from auto_iscsi.volumes import mountable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auto_iscsi.config.settings import Settings
    from auto_iscsi.iscsi.sessions import Session
    from auto_iscsi.machine.host import Host
    from auto_iscsi.map.request import Request
    from auto_iscsi.volumes.mountable import Mountable


class Available(NamedTuple):
    """What a target's sessions show."""

    mountable: Mountable | None  #: None: nothing yet
    up: list[Session]  #: the sessions that were looked at and are up


def find(host: Host, up: Sequence[Session], settings: Settings) -> Mountable | None:
    """Return what sessions that are up show, None while it is not there yet; raise Failure."""
    if not selects_by_content(settings):
        device = scsi_disks.find_device(host, up, settings)
        return mountable.as_configured(device, settings) if device else None
    from auto_iscsi.volumes import selection

    return selection.find(host, up, settings)


def selects_by_content(settings: Settings) -> bool:
    """Tell whether what is on the disks decides what is mounted."""
    one_partition = isinstance(settings.partition, int) and isinstance(settings.lun, int)
    return not one_partition or settings.fstype == AUTO


def through_sessions(request: Request) -> Available:
    """Return what the target's sessions show; raise Failure.

    The session that the lease names is looked at first: a host can have a thousand sessions.
    """
    leased = request.claim.sids[0] if request.claim.sids else -1
    first = sessions.find_all(request.host, request.target, leased)
    available = _through(request, first)
    if not available.mountable and [session.sid for session in first] == [leased]:
        return _through(request, sessions.find_all(request.host, request.target))
    return available


def _through(request: Request, candidates: list[Session]) -> Available:
    up = [session for session in candidates if session.up]
    if up and _can_be_system(request):
        from auto_iscsi.map import kept_tree

        if tree := kept_tree.find(request, up):
            return Available(tree, up)
    return Available(find(request.host, up, request.settings), up)


def _can_be_system(request: Request) -> bool:
    """Tell whether an earlier lookup kept the tree of a system, and it may be shown."""
    if request.settings.partition not in (AUTO, SYSTEM):
        return False
    return os.path.exists(request.host.path(f"{TREES}/{request.target}"))


def has_link(request: Request, up: Sequence[Session]) -> bool:
    """Tell whether a selected disk has its by-path link yet; True where no link is needed.

    If the configuration names one partition, its link is meant, which comes later. This costs less
    than find(), and find() returns nothing without that link, but for a map of multipathd's.
    """
    lun, part = request.settings.lun, request.settings.partition
    if request.settings.device == "kernel" or not isinstance(lun, int):
        return True
    end = f"-part{part}" if isinstance(part, int) and part and len(up) == 1 else ""
    numbers = (lun, lun | 0x4000)  # both ways in which the kernel counts it: Disk.san_lun
    links = [scsi_disks.Disk("", each, session, "").link for session in up for each in numbers]
    folder = scsi_disks.BY_PATH
    return any(not link or request.host.link(f"{folder}/{link}{end}") for link in links)


def selected_disks(request: Request, up: Sequence[Session]) -> list[scsi_disks.Disk]:
    """Return the disks of sessions that the configuration selects."""
    return scsi_disks.list_selected(request.host, up, request.settings)


def without_session(request: Request) -> Mountable | None:
    """Return what is mounted for the key although its session is down or gone, else None.

    A restarted automount asks for every key that is still mounted, waits for the answer, and never
    expires a mount whose lookup failed (seen with autofs 5.1.8 and 5.1.9). It does not use what the
    answer says as long as the filesystem is mounted.
    """
    mounted = mounts.list_all(request.host)
    point = mount_point(request, mounted)
    if _can_be_system(request):
        from auto_iscsi.map import kept_tree

        if tree := kept_tree.find_mounted(request, point, mounted):
            return tree
    target_sessions = sessions.find_all(request.host, request.target)
    by_number = {mount.number: mount for mount in mounted}
    down = [session for session in target_sessions if not session.up]
    for device in scsi_disks.matching_devices(request.host, down, request.settings):
        if device.number in by_number:
            return _as_mounted(device, by_number[device.number], request.settings)
    for mount in mounted:
        if mount.point == point and mount.fstype != "autofs":
            device = scsi_disks.Device(os.path.basename(mount.source), "", mount.number)
            return _as_mounted(device, mount, request.settings)
    return None


def _as_mounted(device: scsi_disks.Device, mount: mounts.Mount, settings: Settings) -> Mountable:
    """Return a mounted device as the map describes it; `fstype = auto` is the mount's type."""
    if settings.fstype == AUTO:
        settings = settings._replace(fstype=mount.fstype)
    return mountable.as_configured(device, settings)


def mount_point(request: Request, mounted: Sequence[mounts.Mount]) -> str:
    """Return where automount mounts the key, "" when it was not automount that started us.

    automount starts a map program in the root of the autofs mount.
    """
    try:
        root = os.getcwd()
    except OSError:
        return ""
    is_autofs = any(mount.point == root and mount.fstype == "autofs" for mount in mounted)
    return os.path.join(root, request.key.text) if is_autofs else ""
