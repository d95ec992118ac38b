"""What became of a login that was asked for, when nobody saw the end of it?

A lookup can be killed between asking iscsiadm for a session and seeing it, or stop waiting for it.
Its claim says through which records it asked; iscsiadm's output stays, in the file that iscsiadm
held, until somebody has drawn the conclusion: here. The caller holds the target.
"""

from __future__ import annotations

import os

from auto_iscsi import portals
from auto_iscsi.iscsi import claims, node_records, sessions
from auto_iscsi.lean_stdlib import suppress
from auto_iscsi.machine.host import Host

_SEEN = 30.0  # seconds from iscsiadm's word to somebody's first look at the session in sysfs


def note_request(host: Host, target: str, record: str, made: bool) -> None:
    """Note that a login through `record` comes, which is to be made first when it is `made`.

    Before anything is done: were we killed, the next one has to know what is ours.
    """
    claim = claims.read(host, target)
    records = dict.fromkeys((*claim.records, record) if made else claim.records)
    claims.write(
        host,
        target,
        claim._replace(
            asked=tuple(dict.fromkeys((*claim.asked, record))),
            records=tuple(records),
            looked_up=claims.now(),
        ),
    )


def settle(
    host: Host, target: str, until: float, tmo: float, record: str | None = None
) -> claims.Claim:
    """Find out what became of the logins that were asked for; return what is known then.

    None was there through these portals when they were asked for. `record`: where we have just
    seen one opened; "": there was somebody else's. Without it, iscsiadm's last word decides, and
    when it was said. While it is still at it at `until` (time.monotonic()), nothing is known.

    A session of ours waits `tmo` seconds for a lost connection: set in sysfs, whosever record it
    was, which iscsid does not set back (drivers/scsi/scsi_transport_iscsi.c,
    recovery_tmo_sysfs_override).
    """
    name = f"iscsiadm/{target}"
    handle = claims.lock(host, name, until)
    claim = claims.read(host, target)
    if handle is None:
        return claim
    try:
        last = os.fstat(handle)
        said = os.pread(handle, 1 << 16, 0)
        by = last.st_mtime + (_SEEN if b"successful" in said else 1.0)
        if not said or b"(15 -" in said or b"already present" in said:  # it is somebody else's
            by = 0.0
        opened = list(claim.opened)
        for session in sessions.find_all(host, target) if claim.asked else ():
            through_ours = [name for name in claim.asked if _leads(name, session)]
            seen = host.stat(session.path)
            if (
                not claim.owns(session)
                and through_ours
                and seen
                and (seen.st_ctime <= by if record is None else record in through_ours)
            ):
                with suppress(OSError):  # it is gone already
                    host.write(f"{session.path}/recovery_tmo", f"{tmo:.0f}")
                opened.append((session.sid, session.inode))
                from auto_iscsi.iscsi import audit  # only where there was a login

                audit.login(host, target, session.portal, session.sid, seen=record is not None)
        # A record that we were about to make, and that somebody else may make now, is not ours.
        there = {record.path.rpartition("/")[2] for record in node_records.find_all(host, target)}
        records = tuple(name for name in claim.records if name in there)
        claim = claim._replace(asked=(), opened=tuple(opened), records=records)
        claims.write(host, target, claim)
        return claim
    finally:
        claims.unlock(host, name, handle)


def forget_record(host: Host, target: str, record: str) -> None:
    """Forget a record of ours, and the claim when it holds nothing else then."""
    claim = claims.read(host, target)
    kept = claim._replace(records=tuple(name for name in claim.records if name != record))
    if kept.opened or kept.asked or kept.records:
        claims.write(host, target, kept)
    else:
        claims.forget(host, target)


def _leads(record: str, session: sessions.Session) -> bool:
    """Say whether a record and a session are through one portal."""
    portal = portals.from_record(record)
    return portal is not None and portal.has_same_address(session.portal)
