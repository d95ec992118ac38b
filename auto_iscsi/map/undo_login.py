"""Log out again after a refused lookup whose disk multipathd takes for another volume.

From the login on, multipathd has a path to our volume in the map of the other one, and whoever
reads that map can get blocks of ours. It takes the path away when the disk is gone. Any user can
visit the key again and again, so there is no second login while the other volume is logged in.
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.disks import multipath, scsi_disks, twins
from auto_iscsi.iscsi import audit, claims, iscsiadm, sessions
from auto_iscsi.lean_stdlib import suppress
from auto_iscsi.map.request import Request


def refuse_again(request: Request) -> None:
    """Raise TwinVolumes when a login would bring back what log_out() has undone."""
    disk = twins.find_remembered(request.host, request.target)
    if disk:
        raise errors.TwinVolumes(
            f"{request.target}: not logged in to: multipathd joined its disk with another volume "
            f"that has the same WWID, {twins.name(disk)}",
            multipath.TODO,
        )


def log_out(request: Request) -> None:
    """Log out of the sessions that this lookup opened.

    Nobody uses them: no lookup has answered with a disk of theirs. What does not work here is left
    to the reaper.
    """
    claim = claims.read(request.host, request.target)
    for session in sessions.find_all(request.host, request.target):
        if not claim.owns(session) or request.claim.owns(session):
            continue
        disks = scsi_disks.list_all(request.host, session)
        twins.remember(request.host, request.target, disks)
        limit = iscsiadm.Limit(request.settings.login_timeout, request.until)
        with suppress(errors.Failure):
            answer = iscsiadm.logout(request.host, request.target, session, limit)
            if answer.status == iscsiadm.SUCCESS:
                reason = "multipathd joins its disk with another volume"
                audit.logout(request.host, request.target, session.portal, session.sid, reason)
                sessions.wait_until_gone(request.host, session, limit.end)
