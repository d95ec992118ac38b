"""Bring a target up: log in or rescan, wait for its disk, and say why there is none.

Only a lookup that has something to wait for imports this module.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.disks import identity, multipath, scsi_disks
from auto_iscsi.iscsi import iscsiadm, login, pending_logins, sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, suppress
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
        return _BringUp(request, events, set()).run()


class _BringUp(NamedTuple):
    """One run of bring_up()."""

    request: Request
    events: udev_events.Listener
    found_anew: set[tuple[int, int]]  #: session and LUN of each disk that was deleted, once a run

    def run(self) -> tuple[Mountable, list[Session]]:
        """Do what bring_up() says."""
        request, missing = self.request, list[str]()
        up = _sessions_up(request)
        was_up = bool(up)
        if was_up:
            if not self._find_anew(up):
                for session in _without_disk(request, up) or up[:1]:
                    rescan(request, session)
        else:
            if identity.read(request.host, request.target):  # of disks that were there before
                from auto_iscsi.map import undo_login

                undo_login.refuse_again(request)
            missing = self._log_in(())
            up = _sessions_up(request)  # one login can open several: two interfaces, nr_sessions
            self._scan_where_nobody_did(up)
        until = self._make_read_only_early(up)
        if was_up or request.settings.paths != "all":
            return self._wait_for_disk(up, until)
        from auto_iscsi.map import multipath_wait

        notes = multipath_wait.wait_for_map(request, up, self.events, missing)
        until = request.within(request.settings.udev_timeout)
        return self._wait_for_disk(up, until, notes, missing)

    def _log_in(self, passed_over: Sequence[Session]) -> list[str]:
        """Log in, and not through the portals of these sessions; return why there is no more."""
        request = self.request
        portals = tuple(session.portal for session in passed_over)
        attempt = login.Login(
            request.host, request.target, request.settings, request.until, self.events, portals
        )
        return attempt.open()[1]

    def _find_anew(self, up: Sequence[Session]) -> bool:
        """Delete the disks that were not ready when they were found, and are now; scan for them.

        Return whether there was one. A rescan alone brings the size of such a disk, but not its
        partitions, and udev does not look at it again.
        """
        request, places = self.request, set()
        for disk in available.selected_disks(request, up):
            place = (disk.session.sid, disk.lun)
            if place not in self.found_anew and verification.is_to_be_found_anew(request, disk):
                with suppress(errors.WrongDisk):  # somebody has begun to use it
                    why = "was not ready when it was found"
                    identity.delete_disk(
                        request.host, request.target, disk.path, request.until, why
                    )
                    places.add(place)
        self.found_anew.update(places)
        for session in up:
            if session.sid in {sid for sid, _ in places}:
                rescan(request, session)
        return bool(places)

    def _scan_where_nobody_did(self, up: Sequence[Session]) -> None:
        """Scan the new sessions once that have no disk: a node record can say scan = manual."""

        def all_have_disks() -> bool | None:
            return None if _without_disk(self.request, up) else True

        if not self.events.wait_for(all_have_disks, self.request.within(_SCAN)):
            for session in _without_disk(self.request, up):
                rescan(self.request, session)

    def _make_read_only_early(self, up: Sequence[Session]) -> float:
        """Make the selected disks read-only the moment that the kernel shows one of them.

        Return until when to wait for what is on it: udev_timeout from now (time.monotonic()).
        """
        request = self.request
        until = request.within(request.settings.udev_timeout)
        if not request.settings.writes_nothing:
            return until
        disks = self.events.wait_for(lambda: available.selected_disks(request, up) or None, until)
        if disks is None:
            raise _no_disk(request, up)
        verification.make_read_only(request, disks)
        return until

    def _look(self, up: Sequence[Session]) -> Mountable | None:
        """Return what the sessions show, None while it is not there yet; raise Failure.

        A disk that is ready by now, and was not when it was found, is found anew.
        """
        request = self.request
        try:
            content = available.find(request.host, up, request.settings)
        except errors.Failure:
            if not (self._find_anew(up) or _reread_tables(request, up)):
                raise
            content = None
        else:
            if content is None:
                self._find_anew(up)
        if content is None and self.found_anew:
            verification.make_read_only(request, available.selected_disks(request, up))
        return content

    def _wait_for_disk(
        self,
        up: list[Session],
        until: float,
        notes: Sequence[str] = (),
        missing: list[str] | None = None,
    ) -> tuple[Mountable, list[Session]]:
        """Return what the sessions show, with `notes` added, as soon as it can be mounted.

        As long as no disk can be read, log in through one portal after the other; not if that has
        been done, with what came of it in `missing`. The session with the disk comes first in the
        result: the next lookup looks at that one.
        """
        request, is_last = self.request, missing is not None
        while True:
            content, whys = self._content_or_reasons(up, until, is_last)
            if content:
                break
            if not whys:
                raise _no_disk(request, up, missing or ())
            missing = self._log_in(up)
            more = _sessions_up(request)
            is_last = {session.sid for session in more} <= {session.sid for session in up}
            if not is_last:
                up = more
                self._scan_where_nobody_did(up)
                until = self._make_read_only_early(up)
        disks = verification.disks_of(content)
        selected = available.selected_disks(request, up)
        whys = [why for disk in selected if (why := _why_unreadable(request, disk))]
        notes = [*content.notes, *notes, *(f"a path is passed over: {why}" for why in whys)]

        def has_none(session: Session) -> bool:
            return not any(disk.startswith(f"{session.path}/") for disk in disks)

        return content._replace(notes=tuple(notes)), sorted(up, key=has_none)

    def _content_or_reasons(
        self, up: Sequence[Session], until: float, is_last: bool
    ) -> tuple[Mountable | None, list[str]]:
        """Return what the sessions show as soon as they do; nothing when `until` comes first.

        Unless this `is_last`, return why no disk can be read as soon as that is so.
        """
        request = self.request

        def look() -> tuple[Mountable | None, list[str]] | None:
            content = self._look(up)
            whys = [] if content or is_last else _why_no_disk_is_readable(request, up)
            return (content, whys) if content or whys else None

        seen = self.events.wait_for(look, until, lambda: available.has_link(request, up))
        return seen or (None, [])


def _sessions_up(request: Request) -> list[Session]:
    """Return all sessions of the target that are up."""
    return [s for s in sessions.find_all(request.host, request.target) if s.up]


def _without_disk(request: Request, up: Sequence[Session]) -> list[Session]:
    """Return the sessions that have no disk that the configuration selects."""
    return [session for session in up if not available.selected_disks(request, [session])]


def _why_no_disk_is_readable(request: Request, up: Sequence[Session]) -> list[str]:
    """Return why each selected disk cannot be read; none if one can be, or there is none yet."""
    disks = available.selected_disks(request, up)
    whys = [_why_unreadable(request, disk) for disk in disks]
    return whys if all(whys) else []


def _why_unreadable(request: Request, disk: scsi_disks.Disk) -> str:
    """Return why a disk cannot be read, with its place; "" if it can be, or does not say."""
    why = scsi_disks.why_unreadable(request.host, disk)
    if scsi_disks.has_no_size(request.host, disk):
        why = f"has no size: {why or 'it was not ready when the kernel found it'}"
    elif why:
        why = f"cannot be read: {why}"
    return why and f"LUN {disk.san_lun} ({disk.name}) through {disk.session.portal} {why}"


def rescan(request: Request, session: Session) -> None:
    """Have the kernel look for LUNs that were presented after the login."""
    limit = iscsiadm.Limit(request.settings.login_timeout, request.until)
    conclude_earlier_logins(request, limit.end)
    iscsiadm.rescan(request.host, request.target, session, limit)


def _reread_tables(request: Request, up: Sequence[Session]) -> bool:
    """Bring back the partitions that udev has deleted for multipathd; tell whether there are any.

    What failed rests on a disk without them.
    """
    from auto_iscsi.disks import reread
    from auto_iscsi.volumes import backup_gpt

    has_more = False
    for disk in available.selected_disks(request, up):
        if reread.lacks_partitions(request.host, request.target, disk):
            has_more |= reread.reread(request.host, request.target, disk, request.until)
            has_more |= backup_gpt.announce(request.host, request.target, disk, request.until)
    return has_more


def conclude_earlier_logins(request: Request, until: float) -> None:
    """Find out whose a session is that a killed lookup asked for, before iscsiadm runs again.

    The next iscsiadm overwrites what the last one printed.
    """
    if request.claim.asked:
        pending_logins.settle(
            request.host, request.target, until, request.settings.replacement_timeout
        )


def _no_disk(
    request: Request, up: Sequence[Session], missing: Sequence[str] = ()
) -> errors.Failure:
    """Return the failure of a target whose disk did not come in time; `missing`: further paths."""
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
    if whys := _why_no_disk_is_readable(request, up):
        return errors.NoDisk(
            f"{request.target}: {', '.join((*whys, *missing))}, {after}",
            "make the LUN ready at the SAN, and visit the key again",
        )
    disk = selected[0]
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
    reason = f"no link {scsi_disks.BY_PATH}/{link}"
    if not disk.link:
        reason = f"udev has not finished with {disk.name}"
    return errors.NoDisk(
        f"{request.target}: {reason} {after}",
        "udevadm settle; raise udev_timeout if udev is only slow",
    )
