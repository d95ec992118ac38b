"""Bring a target up: log in or rescan, wait for its disk, and say why there is none.

Only a lookup that has something to wait for imports this module.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.disks import identity, multipath, ownership, scsi_disks
from auto_iscsi.iscsi import iscsiadm, login, sessions, unseen_logins
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine import udev_events
from auto_iscsi.map import available, verification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auto_iscsi.iscsi.sessions import Session
    from auto_iscsi.map.request import Request
    from auto_iscsi.volumes.mountable import Mountable


_SCAN = 1.0  # seconds from a login to the disks that the login's own scan finds


def bring_up(request: Request) -> tuple[Mountable, list[Session]]:
    """Log in if need be, and wait for the disk; raise Failure when it does not come.

    Return what the target shows then, not yet verified, and its sessions that are up.
    """
    source = "kernel" if request.settings.device == "kernel" else "udev"
    with udev_events.listen(source) as events:
        up = _sessions_up(request)
        if up:
            _delete_disks_without_size(request, up)
            for session in _without_disk(request, up) or up[:1]:
                rescan(request, session)
            until = request.within(request.settings.udev_timeout)
            _make_read_only_early(request, events, up, until)
            return _wait_for_disk(request, events, up, until)
        if identity.read(request.host, request.target):  # of disks that were there before
            from auto_iscsi.map import undo_login

            undo_login.refuse_again(request)
        attempt = login.Login(request.host, request.target, request.settings, request.until, events)
        missing = attempt.open()[1]
        up = _sessions_up(request)  # one login can open several: two interfaces, nr_sessions
        _scan_where_nobody_did(request, events, up)
        until = request.within(request.settings.udev_timeout)
        _make_read_only_early(request, events, up, until)
        if request.settings.paths != "all":
            return _wait_for_disk(request, events, up, until)
        from auto_iscsi.map import multipath_wait

        notes = multipath_wait.wait_for_map(request, up, events, missing)
        until = request.within(request.settings.udev_timeout)
        return _wait_for_disk(request, events, up, until, notes)


def _sessions_up(request: Request) -> list[Session]:
    """Return all sessions of the target that are up."""
    return [s for s in sessions.find_all(request.host, request.target) if s.up]


def _without_disk(request: Request, up: Sequence[Session]) -> list[Session]:
    """Return the sessions that have no disk that the configuration selects."""
    return [session for session in up if not available.selected_disks(request, [session])]


def _delete_disks_without_size(request: Request, up: Sequence[Session]) -> None:
    """Delete the disks that were not ready when the kernel found them: the rescan finds them anew.

    A rescan alone brings the size of such a disk, but not its partitions.
    """
    for disk in available.selected_disks(request, up):
        if scsi_disks.has_no_size(request.host, disk) and ownership.is_changeable(
            request.host, request.target, disk.path
        ):
            identity.delete_disk(request.host, request.target, disk.path, request.until)


def _scan_where_nobody_did(
    request: Request, events: udev_events.Listener, up: Sequence[Session]
) -> None:
    """Scan the new sessions once that have no disk: a node record can say scan = manual."""

    def all_have_disks() -> bool | None:
        return None if _without_disk(request, up) else True

    if not events.wait_for(all_have_disks, request.within(_SCAN)):
        for session in _without_disk(request, up):
            rescan(request, session)


def rescan(request: Request, session: Session) -> None:
    """Have the kernel look for LUNs that were presented after the login."""
    limit = iscsiadm.Limit(request.settings.login_timeout, request.until)
    conclude_earlier_logins(request, limit.end)
    iscsiadm.rescan(request.host, request.target, session, limit)


def _wait_for_disk(
    request: Request,
    events: udev_events.Listener,
    up: list[Session],
    until: float,
    notes: Sequence[str] = (),
) -> tuple[Mountable, list[Session]]:
    """Return what the sessions show, with `notes` added, as soon as it can be mounted."""

    def wait() -> Mountable | None:
        return events.wait_for(
            lambda: available.find(request.host, up, request.settings),
            until,
            lambda: available.has_link(request, up),
        )

    try:
        content = wait()
    except errors.Failure:
        if not _reread_tables(request, up):
            raise
        content = wait()
    if content is None:
        raise _no_disk(request, up)
    return content._replace(notes=(*content.notes, *notes)), up


def _reread_tables(request: Request, up: Sequence[Session]) -> bool:
    """Bring back the partitions that udev has deleted for multipathd; tell whether there are any.

    What failed rests on a disk without them.
    """
    from auto_iscsi.disks import reread

    has_more = False
    for disk in available.selected_disks(request, up):
        if reread.lacks_partitions(request.host, request.target, disk):
            has_more |= reread.reread(request.host, request.target, disk, request.until)
    return has_more


def _make_read_only_early(
    request: Request, events: udev_events.Listener, up: Sequence[Session], until: float
) -> None:
    """Make the selected disks read-only the moment that the kernel shows one of them."""
    if request.settings.journal_rule not in ("refuse", "skip"):
        return
    disks = events.wait_for(lambda: available.selected_disks(request, up) or None, until)
    if disks is None:
        raise _no_disk(request, up)
    verification.make_read_only(request, disks)


def conclude_earlier_logins(request: Request, until: float) -> None:
    """Find out whose a session is that a killed lookup asked for, before iscsiadm runs again.

    The next iscsiadm overwrites what the last one printed.
    """
    if request.claim.asked:
        unseen_logins.settle(
            request.host, request.target, until, request.settings.replacement_timeout
        )


def _no_disk(request: Request, up: Sequence[Session]) -> errors.Failure:
    """Return the failure of a target whose disk did not come in time."""
    after = f"after {request.settings.udev_timeout:.0f} s"
    selected = available.selected_disks(request, up)
    if not selected:
        disks = [disk for session in up for disk in scsi_disks.list_all(request.host, session)]
        luns = ", ".join(sorted({str(disk.san_lun) for disk in disks})) or "none"
        return errors.NoDisk(
            f"{request.target}: no LUN {request.settings.lun} through {up[0].portal} {after}, "
            f"LUNs there: {luns}",
            "map the LUN at the SAN, or set lun in /etc/auto.iscsi.conf",
        )
    disk = selected[0]
    if scsi_disks.has_no_size(request.host, disk):
        from auto_iscsi.disks import scsi_commands

        why = scsi_commands.why_not_ready(request.host, disk.name)
        return errors.NoDisk(
            f"{request.target}: LUN {disk.san_lun} ({disk.name}) through {disk.session.portal} has "
            f"no size {after}: {why or 'it was not ready when the kernel found it'}",
            "make the LUN ready at the SAN, and visit the key again",
        )
    if scsi_disks.is_left_to_multipathd(request.host, disk) and not multipath.map_of(
        request.host, disk.path
    ):
        from auto_iscsi.disks import twins

        if twin := twins.describe(request.host, twins.find_all(request.host), disk):
            return errors.TwinVolumes(
                f"{request.target}: udev leaves {disk.name} to multipathd, which has no map of it "
                f"{after}: {twin}",
                multipath.TODO,
            )
        return errors.NoDisk(
            f"{request.target}: udev leaves {disk.name} to multipathd, which has no map of it "
            f"{after}",
            "find_multipaths is smart: raise udev_timeout above find_multipaths_timeout, or "
            "blacklist the disk in multipath.conf"
            if scsi_disks.is_kept_back(request.host, disk)
            else "see multipath -ll, or blacklist it there",
        )
    part = request.settings.partition
    link = f"{disk.link}-part{part}" if part and isinstance(part, int) else disk.link
    return errors.NoDisk(
        f"{request.target}: no link {scsi_disks.BY_PATH}/{link} {after}",
        "udevadm settle; raise udev_timeout if udev is only slow",
    )
