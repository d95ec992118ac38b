"""Have a snapshot presented to this host, and revoked again when nobody needs it.

    present()  before a login. It may be called again for what is presented: a lease is taken over.
    begin_login()  immediately before the login, under the target's lock
    revoke()   after a logout, when the session is confirmed gone and its node record is deleted
    finish()   at boot and by the timer: finish or undo what a killed run left

Whoever is not allowed to present is refused before the driver is asked. What somebody else had
presented before is used, and left presented. A snapshot to which a session exists is never revoked.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import time
from collections.abc import Collection
from typing import NamedTuple

from auto_iscsi import errors, keys
from auto_iscsi.config import san_files
from auto_iscsi.config.san_files import San
from auto_iscsi.disks import scsi_disks
from auto_iscsi.drivers import protocol
from auto_iscsi.iscsi import audit, claims, sessions
from auto_iscsi.machine import mounts
from auto_iscsi.machine.host import Host
from auto_iscsi.san import calls, leases
from auto_iscsi.san.leases import Lease

#: Seconds for which a presented snapshot without a session is left alone: the run that had it
#: presented is about to log in.
GRACE = 120.0
FINISHING = 300.0  #: seconds for all that finish() does
_MINUTE = 60.0
_BACK_OFF = (60.0, 3600.0)  # seconds from one failed revoke to the next, at least and at most
_DRAFT_AGE = 3600.0

REVOKE, KEEP, WAIT = "revoke", "keep", "wait"


class Asker(NamedTuple):
    """For whom a snapshot is presented. `uid` and `user` are "-" if unknown."""

    uid: str
    user: str
    via: str = "-"
    is_administrator: bool = False  #: root, at the command line


class Decision(NamedTuple):
    """What finish() would do with a lease, and why."""

    action: str  #: REVOKE, KEEP or WAIT
    why: str


class Finished(NamedTuple):
    """What finish() did with a lease; `problem`: why it could not revoke it."""

    lease: Lease
    problem: str = ""
    hint: str = ""


def require_allowed(san: San, asker: Asker) -> None:
    """Raise NotAllowed unless the SAN's file lets this user have snapshots presented."""
    if not san.present:
        raise errors.NotAllowed(
            f"{san.name}: presenting is not allowed (present = no)",
            f"set present = yes in {san.file}",
        )
    # root could have it presented by auto-iscsi san present anyway; restore visits as root.
    is_root = asker.is_administrator or asker.uid == "0"
    if is_root or asker.user in san.allow or _is_in_group(san, asker):
        return
    who = f"user {asker.user} ({asker.uid})"
    raise errors.NotAllowed(f"{san.name}: {who} may not present", f"see allow in {san.file}")


def _is_in_group(san: San, asker: Asker) -> bool:
    """Tell whether one of the user's groups is allowed; a name counts by its number, too."""
    try:
        account = pwd.getpwuid(int(asker.uid))
        if account.pw_name in san.allow:
            return True
        groups = set(os.getgrouplist(account.pw_name, account.pw_gid))
    except (KeyError, ValueError, OverflowError):
        return False
    for name in san.allow:
        with contextlib.suppress(KeyError):
            if name.startswith("@") and grp.getgrnam(name[1:]).gr_gid in groups:
                return True
    return False


def present(host: Host, san: San, snapshot: protocol.Snapshot, asker: Asker, until: float) -> Lease:
    """Have a snapshot that `list` gave presented; return its lease, which has a target.

    Raise NotAllowed, TooOften, SanFailure, Busy, BadConfiguration, BrokenInstallation.
    """
    require_allowed(san, asker)
    if not san.has_volume(snapshot.volume):
        raise errors.NoSnapshot(
            f"{san.name}: no volume {snapshot.volume}", f"see volumes in {san.file}"
        )
    with leases.hold_volume(host, san.name, snapshot.volume, until):
        lease = known = leases.find(host, san.name, snapshot.id)
        if lease is None:
            _require_room(host, san, until)
            lease = leases.begin(host, san.name, snapshot, asker.uid, asker.user)
        began = time.monotonic()
        try:
            done = calls.present(host, san, lease.subject, lease.lease, until)
        except errors.SanFailure as failure:
            _log(host, "present", lease, failure.kind, began)
            if failure.effect == "unknown":
                _undo(host, san, lease, until)
            elif known is None:
                leases.end(host, lease)
            raise
        except (errors.Failure, KeyboardInterrupt):  # it was not started, or not waited for
            if known is None:
                _undo(host, san, lease, until)
            raise
        _log(host, "present", lease, "already" if done.already else "done", began)
        try:
            lease = _note(host, lease, done)
        except errors.Failure:  # no space is left: nothing could be noted of a login, either
            _undo(host, san, lease, until)
            raise
        for other in leases.find_of_target(host, done.target.iqn, done.target.lun):
            if other.lease != lease.lease:
                _undo(host, san, lease, until)
                raise errors.SanFailure(
                    f"{lease.name}: the driver gives LUN {done.target.lun} of {done.target.iqn}, "
                    f"which {other.volume}@{other.snapshot} has",
                    "auto-iscsi san test DRIVER",
                )
        return lease


def _note(host: Host, lease: Lease, done: protocol.Presented) -> Lease:
    """Write what the driver has made. A second answer can leave out what the first one made."""
    made: tuple[str, ...] | None = tuple(done.made)
    if done.already and not made and not lease.was_presented:
        made = lease.made  # None after a killed run: the driver finds out
    state = leases.LOGGED_IN if lease.state == leases.LOGGED_IN else leases.PRESENTED
    members = {"target": done.target, "made": made, "handle": done.handle or lease.handle}
    return leases.advance(host, lease, state, **members, attempts=0, why="")


def _undo(host: Host, san: San, lease: Lease, until: float) -> None:
    """Revoke after a present whose effect is not known; what fails is left to finish()."""
    with contextlib.suppress(errors.Failure):
        if use_of(host, lease):
            return  # an earlier present of this lease is in use
        _revoke(host, san, lease, until)


def _require_room(host: Host, san: San, until: float) -> None:
    """Raise NotAllowed or TooOften when this host has, or had, enough presented."""
    count = len([lease for lease in leases.list_all(host)[0] if lease.san == san.name])
    if count >= san.max_presented:
        raise errors.NotAllowed(
            f"{san.name}: {count} snapshots are presented to this host",
            f"auto-iscsi san journal lists them; see max_presented in {san.file}",
        )
    name = f"{calls.FOLDER}/{san.name}.presents"
    handle = claims.lock(host, f"{name}.lock", until)
    if handle is None:
        raise errors.Busy(f"{san.name}: too many presents at once", "try again")
    try:
        now = claims.now()
        text = host.read(f"{claims.FOLDER}/{name}") or ""
        recent = [each for each in map(float, text.split()) if 0 <= now - each < _MINUTE]
        if len(recent) >= san.max_per_minute:
            wait = recent[-san.max_per_minute] + _MINUTE - now
            raise errors.TooOften(
                f"{san.name}: {len(recent)} presents in the last minute",
                f"try again in {wait:.0f} s; see max_per_minute in {san.file}",
            )
        lines = "".join(f"{each:.3f}\n" for each in (*recent, now))
        claims.write_file(host, name, lines)
    finally:
        claims.unlock(host, f"{name}.lock", handle)


def begin_login(host: Host, lease: Lease, until: float) -> Lease:
    """Write that a login to a presented snapshot is about to begin; raise SanFailure if revoked.

    The caller holds the target.
    """
    with leases.hold_volume(host, lease.san, lease.volume, until):
        now = leases.read(host, lease.lease)
        if not isinstance(now, Lease) or now.state not in (leases.PRESENTED, leases.LOGGED_IN):
            raise errors.SanFailure(
                f"{lease.name}: revoked before the login", "try again", "busy", "none"
            )
        if now.state == leases.LOGGED_IN:
            return now
        return leases.advance(host, now, leases.LOGGED_IN)


def revoke(host: Host, san: San, lease: Lease, until: float, holds_target: bool = False) -> bool:
    """Have a snapshot revoked; return False when another run has done it. Raise Busy, SanFailure.

    `holds_target`: the caller has the target's lock. Otherwise it is taken here, so that nobody
    logs in meanwhile. It comes before the volume's.
    """
    with contextlib.ExitStack() as stack:
        if lease.target and not holds_target:
            stack.enter_context(claims.hold_target(host, lease.target.iqn, until))
        stack.enter_context(leases.hold_volume(host, lease.san, lease.volume, until))
        now = leases.read(host, lease.lease)
        if not isinstance(now, Lease):
            return False
        if why := use_of(host, now):
            raise errors.Busy(f"{lease.name}: not revoked: {why}", "auto-iscsi reap")
        _revoke(host, san, now, until)
        return True


def _revoke(host: Host, san: San, lease: Lease, until: float) -> None:
    """Ask the driver to revoke, and end the lease; note why if that fails, and raise."""
    began = time.monotonic()
    with contextlib.suppress(errors.Failure):  # no space is left: what was noted before will do
        lease = leases.advance(host, lease, leases.LOGGED_OUT)
    result = "left"  # what somebody else presented
    if lease.made != ():
        try:
            args = (lease.made, lease.handle, until)
            done = calls.revoke(host, san, lease.subject, lease.lease, *args)
            result = "already" if done.already else "done"
        except errors.Failure as failure:
            why, attempts = failure.reason, lease.attempts + 1
            with contextlib.suppress(errors.Failure):
                leases.advance(host, lease, leases.LOGGED_OUT, attempts=attempts, why=why)
            _log(host, "revoke", lease, getattr(failure, "kind", failure.code), began)
            raise
    _log(host, "revoke", lease, result, began)
    leases.end(host, lease)


def use_of(host: Host, lease: Lease) -> str:
    """Return what keeps a lease from being revoked: a session, a disk or a mount; "" if nothing."""
    if lease.target is None:
        return ""
    target = lease.target
    for session in sessions.find_all(host, target.iqn):
        if not target.shared:
            return f"session {session.sid} exists"
        for disk in scsi_disks.list_all(host, session):
            if disk.san_lun == target.lun:
                return f"disk {disk.name} of session {session.sid} exists"
    if not target.shared and claims.read(host, target.iqn).asked:
        return "a login is under way"
    names = (target.iqn, lease.key.lower())
    for mount in mounts.list_all(host):
        if mount.fstype != "autofs" and keys.fold(mount.point.rpartition("/")[2]) in names:
            return f"it is mounted at {mount.point}"
    return ""


def decide(host: Host, lease: Lease, ended: Collection[str] = ()) -> Decision:
    """Return what finish() would do with a lease now; `ended`: targets just logged out of."""
    if why := use_of(host, lease):
        return Decision(KEEP, why)
    if lease.state == leases.LOGGED_IN and lease.target and lease.target.iqn in ended:
        return Decision(REVOKE, "its session was ended")
    age = time.time() - lease.changed
    if lease.attempts:
        pause = min(_BACK_OFF[0] * 2 ** min(lease.attempts - 1, 10), _BACK_OFF[1])
        if 0 <= age < pause:
            why = f"revoke failed {lease.attempts}x, again in {pause - age:.0f} s: {lease.why}"
            return Decision(WAIT, why)
    elif lease.boot == claims.boot(host) and 0 <= age < GRACE:
        return Decision(WAIT, f"{lease.state} since {age:.0f} s: left to the run that wants it")
    return Decision(REVOKE, f"{lease.state}, and no session")


def finish(host: Host, until: float, ended: Collection[str] = ()) -> list[Finished]:
    """Revoke what nobody needs, and what a killed run left half-way; return what was tried.

    ended: the targets whose sessions the caller has ended.
    """
    finished = []
    for lease in leases.list_all(host)[0]:
        if decide(host, lease, ended).action != REVOKE:
            continue
        try:
            san = san_files.find(host, lease.san)
            if revoke(host, san, lease, min(until, time.monotonic() + san.timeout)):
                finished.append(Finished(lease))
        except errors.Failure as failure:
            finished.append(Finished(lease, failure.reason, failure.hint))
    _delete_drafts(host)
    return finished


def _delete_drafts(host: Host) -> None:
    """Delete what a killed run had not written to its end."""
    for name in host.names(leases.FOLDER):
        path = f"{leases.FOLDER}/{name}"
        status = host.stat(path) if name.startswith(".") else None
        if status and time.time() - status.st_mtime > _DRAFT_AGE:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(host.path(path))


def _log(host: Host, event: str, lease: Lease, result: str, began: float) -> None:
    fields = {
        "san": lease.san,
        "volume": lease.volume,
        "snapshot": lease.snapshot,
        "lease": lease.lease,
        "result": result,
        "seconds": f"{time.monotonic() - began:.1f}",
    }
    if event == "revoke":
        fields["presented"] = f"{time.time() - lease.began:.0f}"
    audit.change_at_san(host, event, fields)
