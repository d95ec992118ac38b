"""How does a session end that nobody needs any more?

Per target, holding it as a lookup does: look once more → take its disks for ourselves, so that
nobody can mount them from here on, and flush them → logout → see session and disks go → delete the
node records that we made → drop the claim. Killed after any of these steps, the next run goes on
from there. Each wait has an end.
"""

from __future__ import annotations

import errno
import os
import time
from typing import NamedTuple

from auto_iscsi import errors
from auto_iscsi.config import config_files, schema
from auto_iscsi.disks import multipath
from auto_iscsi.iscsi import audit, claims, iscsiadm, node_records, sessions, unseen_logins
from auto_iscsi.machine import bounded
from auto_iscsi.machine.host import Host
from auto_iscsi.reaper import decisions

_FLUSH = 5.0  # seconds
_LOGOUT = 30.0  # seconds; iscsid itself waits 15 for the target's word
_GONE = 10.0  # seconds from iscsiadm's answer to sysfs without the session
_BENIGN = (iscsiadm.OK, iscsiadm.NO_SESSION, iscsiadm.NOTHING_FOUND)


class Ended(NamedTuple):
    """What came of it for a target."""

    target: str
    sids: tuple[int, ...] = ()  #: the sessions that ended
    problem: str = ""  #: why one did not that was to end
    hint: str = ""


def end_sessions(host: Host, target: str) -> Ended:
    """End what can be ended of one target; never raise what only concerns this one."""
    handle = claims.lock(host, f"lock/{target}", time.monotonic())
    if handle is None:  # a lookup holds it: it is wanted
        return Ended(target)
    try:
        asked = claims.read(host, target).asked
        if asked:
            unseen_logins.settle(host, target, 0.0, recovery_tmo(host, target))
        return _end_held(host, target, asked)
    except errors.Failure as failure:
        return Ended(target, (), failure.reason, failure.hint)
    finally:
        claims.unlock(host, f"lock/{target}", handle)


def _end_held(host: Host, target: str, asked: tuple[str, ...]) -> Ended:
    found = decisions.decide(host, target)
    through: list[int] = []
    for each in found:
        if each.session and each.action == decisions.END:
            rest = [v.session.sid for v in found if v.session and v.action != decisions.END]
            why, hint = _unmap(host, each, rest) or _logout(host, target, each) or ("", "")
            if why:
                return Ended(target, tuple(through), why, hint)
            if sessions.read(host, each.session.sid) is None:
                through.append(each.session.sid)
    return _forget(host, target, tuple(through), asked)


def _unmap(host: Host, verdict: decisions.Decision, rest: list[int]) -> tuple[str, str] | None:
    """Have multipath take its map of a session's disks away; return what is in the way."""
    for disk in verdict.disks:
        for holder in filter(
            lambda name: multipath.is_map(host, name), host.names(f"/sys/block/{disk}/holders")
        ):
            if rest:
                others = ", ".join(map(str, rest))
                return f"{disk} is in a multipath map with session {others}, which stays", ""
            # Whoever uses the other volume uses it through this map.
            if stranger := multipath.foreign_path(host, f"/sys/block/{disk}", holder):
                return (
                    f"multipath map {holder} joins {disk} with {stranger}, which is another volume",
                    "see multipath -ll, and give each volume its own serial number at the SAN",
                )
            null = os.open("/dev/null", os.O_RDWR)
            try:
                name = host.read(f"/sys/block/{holder}/dm/name") or holder
                until = time.monotonic() + _LOGOUT
                status = host.run("multipath", "-f", name, out=null, err=null, until=until)
            finally:
                os.close(null)
            if status != 0:
                return f"multipath -f {name}: exit {status}", "see multipath -ll"
    return None


def _logout(host: Host, target: str, verdict: decisions.Decision) -> tuple[str, str] | None:
    """End a session that nobody uses; return what went wrong, if anything did."""
    session = verdict.session
    assert session
    disks = [f"/dev/{name}" for name in verdict.disks]
    with bounded.hold_exclusively(host, disks, _FLUSH, flush=session.up) as says:
        if errno.EBUSY in says:  # by whom cannot be seen from here: counted as use
            claim = claims.read(host, target)
            claims.write(host, target, claim._replace(used=claims.now()))
            return None
        if session.up and set(says) - {bounded.FREE, errno.ENXIO}:  # which is: offline
            return f"session {session.sid} is up, yet {', '.join(disks)} does not answer", ""
        if not sessions.still_exists(host, session):
            return None
        limit = iscsiadm.Limit(_LOGOUT, time.monotonic() + 2 * _LOGOUT)
        way = iscsiadm.finish if session.state == sessions.UNBOUND else iscsiadm.logout
        answer = way(host, target, session, limit)
    if answer.status == iscsiadm.OK:
        audit.logout(host, target, session.portal, session.sid, verdict.reason)
    if answer.status not in _BENIGN:
        return f"logout of session {session.sid}: {answer.why}", answer.hint
    if not sessions.wait_until_gone(host, session, time.monotonic() + _GONE):
        return f"session {session.sid} is still there after its logout", "journalctl -u iscsid"
    return None


def _forget(host: Host, target: str, through: tuple[int, ...], asked: tuple[str, ...]) -> Ended:
    """Delete our records of a target, and the claim, when none of its sessions is left.

    A record that a killed lookup was at, one of `asked`, can be half made.
    """
    claim = claims.read(host, target)
    present = sessions.find_all(host, target)
    if any(map(claim.owns, present)) or claim.asked:
        return Ended(target, through)
    limit = iscsiadm.Limit(_LOGOUT, time.monotonic() + 2 * _LOGOUT)
    for record in node_records.find_all(host, target) if claim.records else ():
        name = record.path.rpartition("/")[2]
        if name in claim.records and (name in asked or iscsiadm.is_unchanged(host, record)):
            answer = iscsiadm.delete_record(host, target, record, limit)
            if answer.status not in (*_BENIGN, iscsiadm.SESSION_EXISTS):
                why = f"node record of {record.portal}: {answer.why}"
                return Ended(target, through, why, answer.hint)
    if present:  # somebody else's
        claims.write(host, target, claim._replace(opened=(), records=()))
    else:
        claims.forget(host, target)
    return Ended(target, through)


def recovery_tmo(host: Host, target: str) -> float:
    """Return how long a session of ours waits for a lost connection."""
    try:
        return schema.resolve(config_files.load(host, remember=False), target).replacement_timeout
    except errors.BadConfiguration:
        return float(schema.TABLE["replacement_timeout"].default)
