"""Find out how a pending login ended, and which sessions are ours.

A login is pending when the lookup that started it was killed or stopped waiting. Its claim names
the node record that it used (`asked`), and what iscsiadm printed is still in the file of the
target's lock (iscsiadm/TARGET). From both, the next run concludes which sessions are ours. The
caller holds the target.
"""

from __future__ import annotations

import os

from auto_iscsi import portals
from auto_iscsi.iscsi import claims, node_records, sessions
from auto_iscsi.lean_stdlib import suppress
from auto_iscsi.machine.host import Host

_FIRST_LOOK = 30.0  # seconds from iscsiadm's last word to the first look at the session in sysfs


def note_request(host: Host, target: str, claim: claims.Claim, record: str, is_ours: bool) -> None:
    """Record in the claim that a login through the node record `record` follows.

    `is_ours`: we have made that record, or make it next. All this is written down before it is
    done, so that the next run knows what is ours if this one is killed: a record of `asked` that is
    not among `records` is somebody else's.
    """
    records = (*(name for name in claim.records if name != record), *([record] if is_ours else []))
    claim = claim._replace(
        asked=tuple(dict.fromkeys((*claim.asked, record))),
        records=tuple(dict.fromkeys(records)),
        looked_up=claims.now(),
    )
    claims.write(host, target, claim)


def settle(
    host: Host, target: str, until: float, tmo: float, record: str | None = None
) -> claims.Claim:
    """Find out which sessions the logins in `claim.asked` opened; return the new claim.

    When they were started, no session existed through their portals. A session that exists now is
    ours, or somebody else opened it meanwhile. `record` is the node record through which we have
    just seen a login succeed, "" when we have seen that a session of somebody else existed. Without
    it, what iscsiadm printed decides, and when.

    An iscsiadm that still runs at `until` (time.monotonic()) changes nothing: then `asked` stays.

    A session of ours waits `tmo` seconds for a lost connection, even if somebody else made its node
    record. That is set in sysfs, and iscsid does not set it back (drivers/scsi/
    scsi_transport_iscsi.c, recovery_tmo_sysfs_override).
    """
    lock = f"iscsiadm/{target}"
    handle = claims.lock(host, lock, until)
    claim = claims.read(host, target)
    if handle is None:
        return claim
    try:
        newest = newest_of_ours(os.pread(handle, 1 << 16, 0), os.fstat(handle).st_mtime)
        opened = list(claim.opened)
        for session in sessions.find_all(host, target) if claim.asked else ():
            asked = [name for name in claim.asked if _leads_to(name, session)]
            folder = host.stat(session.path)
            if claim.owns(session) or not asked or not folder:
                continue
            if (folder.st_ctime <= newest) if record is None else (record in asked):
                _adopt(host, target, session, tmo, seen=record is not None)
                opened.append((session.sid, session.inode))
        # Another run can have been killed before it made its record: one that somebody else makes
        # under that name later is not ours.
        existing = {r.path.rpartition("/")[2] for r in node_records.find_all(host, target)}
        records = tuple(name for name in claim.records if name in existing)
        claim = claim._replace(asked=(), opened=tuple(opened), records=records)
        claims.write(host, target, claim)
        return claim
    finally:
        claims.unlock(host, lock, handle)


def newest_of_ours(output: bytes, written: float) -> float:
    """Return the latest time that the folder of a session can have if an iscsiadm opened it.

    `output`: what that iscsiadm printed; `written`: when. A folder in sysfs has the time of the
    first look at it. 0.0: the iscsiadm opened no session, or found one that existed. The name of
    the target is in what it printed, and ends before the bracket: it can be `…:successful`.
    """
    if not output or b"(15 -" in output or b"already present" in output:
        return 0.0
    return written + (_FIRST_LOOK if b"] successful" in output else 1.0)


def forget_record(host: Host, target: str, record: str) -> None:
    """Remove a node record of ours from the claim; delete the claim if nothing is left in it."""
    claim = claims.read(host, target)
    claim = claim._replace(records=tuple(name for name in claim.records if name != record))
    if claim.opened or claim.asked or claim.records:
        claims.write(host, target, claim)
    else:
        claims.forget(host, target)


def _adopt(host: Host, target: str, session: sessions.Session, tmo: float, *, seen: bool) -> None:
    """Set the timeout of a session of ours, and log the login; `seen`: this run saw it succeed."""
    with suppress(OSError):  # the session can be gone already
        host.write(f"{session.path}/recovery_tmo", f"{tmo:.0f}")
    from auto_iscsi.iscsi import audit  # imports syslog: only where there was a login

    audit.login(host, target, session.portal, session.sid, seen=seen)


def _leads_to(record: str, session: sessions.Session) -> bool:
    """Return whether a node record and a session have the same portal."""
    portal = portals.from_record(record)
    return portal is not None and portal.has_same_address(session.portal)
