"""End the sessions of one target that nobody needs any more.

The target is held as a lookup holds it. The steps: decide once more; take the disks exclusively,
so that nobody can mount them from then on, and flush them; log out; wait until the session and its
disks are gone; delete the node records that we made; forget the claim. When a reaper is killed
after any of these steps, the next one goes on from there. Each wait has a limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Collection
from typing import NamedTuple

from auto_iscsi import errors, portals
from auto_iscsi.config import config_files, schema
from auto_iscsi.disks import multipath, our_devices, readiness, scsi_disks
from auto_iscsi.iscsi import (
    audit,
    claims,
    iscsiadm,
    node_records,
    pending_logins,
    record_ledger,
    sessions,
)
from auto_iscsi.machine import bounded, mounts
from auto_iscsi.machine.host import Host
from auto_iscsi.reaper import decisions
from auto_iscsi.volumes import device_mapper, overlay

_FLUSH = 5.0  # seconds
_LOGOUT = 30.0  # seconds; iscsid itself waits 15 for the target's answer
_GONE = 10.0  # seconds from iscsiadm's answer until sysfs no longer has the session
_BENIGN = (iscsiadm.SUCCESS, iscsiadm.SESS_NOT_FOUND, iscsiadm.NO_OBJS_FOUND)


class Ended(NamedTuple):
    """The result for one target."""

    target: str
    sids: tuple[int, ...] = ()  #: the sessions that ended
    problem: str = ""  #: why a session that was to end did not
    hint: str = ""
    notes: tuple[str, ...] = ()  #: what an administrator should know


def end_sessions(host: Host, target: str) -> Ended:
    """End the sessions of one target that can be ended; a failure is part of the result."""
    handle = claims.lock(host, f"lock/{target}", time.monotonic())
    if handle is None:  # a lookup holds the target: somebody wants it
        return Ended(target)
    try:
        asked = claims.read(host, target).asked
        if asked:
            pending_logins.settle(host, target, 0.0, recovery_tmo(host, target))
        return _end_held(host, target, asked)
    except errors.Failure as failure:
        return Ended(target, (), failure.reason, failure.hint)
    except OSError as error:  # of this target only: the others are to be ended all the same
        reason = f"{error.filename or 'system call'}: {error.strerror}"
        return Ended(target, (), f"{target}: {reason}", "df -h /run; journalctl -k")
    finally:
        claims.unlock(host, f"lock/{target}", handle)


def _end_held(host: Host, target: str, asked: tuple[str, ...]) -> Ended:
    """End the sessions of a target that we hold. `asked`: the records of pending logins."""
    decided = decisions.decide(host, target)
    staying = [d.session.sid for d in decided if d.session and d.action != decisions.END]
    ended: list[int] = []
    problems: list[tuple[str, str]] = []
    for decision in decided:
        if decision.session and decision.action == decisions.END:
            problem = (
                _remove_overlays(host, target, decision)
                or _unmap(host, decision, staying)
                or _logout(host, target, decision)
            )
            if problem:
                problems.append(problem)
                continue
            if sessions.read(host, decision.session.sid) is None:
                ended.append(decision.session.sid)
    if problems:
        reason, hint = problems[0]
        return Ended(target, tuple(ended), reason, hint)
    return _forget(host, target, tuple(ended), asked)


def _remove_overlays(
    host: Host, target: str, decision: decisions.Decision
) -> tuple[str, str] | None:
    """Remove our overlays of a session's disks; return a problem and what to do.

    Those of a session that is down stay until it is logged out: only then do reads that wait for it
    end. remove_orphans() removes them after that. But multipath removes no map under an overlay.
    """
    session = decision.session
    assert session
    try:
        for disk in scsi_disks.list_all(host, session):
            if not (session.up or multipath.map_of(host, disk.path)):
                continue
            for node in our_devices.list_of_disk(host, disk.path):
                overlay.remove(host, target, node, time.monotonic() + _LOGOUT)
    except errors.Busy as failure:
        return failure.reason, failure.hint
    return None


def remove_orphans(host: Host) -> list[Ended]:
    """Remove our devices whose sessions are gone; return those that cannot be removed.

    One that is still mounted stays: status reports the mount, and only umount(8) ends it.
    """
    failed = []
    mounted = [mount for mount, _ in mounts.list_all_namespaces(host)]
    used = {name for mount in mounted for name in (mount.number, mount.source)}
    for node in our_devices.orphans(host):
        number = host.read(f"/sys/block/{node}/dev")
        path = f"{device_mapper.FOLDER}/{our_devices.name(host, node)}"  # of a btrfs
        if not used.isdisjoint((number, path)) or host.names(f"/sys/block/{node}/holders"):
            continue
        try:
            overlay.remove(host, our_devices.name(host, node), node, time.monotonic() + _LOGOUT)
        except errors.Busy as failure:
            failed.append(Ended(our_devices.name(host, node), (), failure.reason, failure.hint))
    return failed


def remove_without_table(host: Host) -> None:
    """Remove our devices that never got a table, because their dmsetup or cryptsetup was killed.

    As long as one of these runs, it can be about to load one.
    """
    if host.stat("/sys/module/dm_mod") is None:  # dmsetup would load it
        return
    until = time.monotonic() + _LOGOUT
    with contextlib.suppress(errors.BrokenInstallation):
        names = device_mapper.list_without_table(host, until)
        if names and not any(map(host.runs, device_mapper.MAKERS)):
            for name in device_mapper.list_without_table(host, until):
                if name in names:
                    device_mapper.run(host, until, "remove", "--retry", name)


def _unmap(host: Host, decision: decisions.Decision, staying: list[int]) -> tuple[str, str] | None:
    """Have multipath remove its maps of a session's disks; return a problem and what to do.

    A map that joins them with another volume stays: whoever uses that volume uses it through this
    map. The logout takes our path out of it.
    """
    for disk in decision.disks:
        for holder in filter(
            lambda name: multipath.is_map(host, name), host.names(f"/sys/block/{disk}/holders")
        ):
            if staying:
                others = ", ".join(map(str, staying))
                return f"{disk} is in a multipath map with session {others}, which stays", ""
            if multipath.foreign_path(host, f"/sys/block/{disk}", holder):
                continue
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


def _devices_to_hold(host: Host, session: sessions.Session) -> list[str]:
    """Return a session's disks, or our overlays in the place of a disk that they still hold."""
    devices = []
    for disk in scsi_disks.list_all(host, session):
        if multipath.joined_with(host, disk.path):  # that map stays: see _unmap()
            continue
        ours = our_devices.list_of_disk(host, disk.path)
        devices += [n for n in ours if not host.names(f"/sys/block/{n}/holders")] or [disk.name]
    return devices


def _logout(host: Host, target: str, decision: decisions.Decision) -> tuple[str, str] | None:
    """Log out of a session that nobody uses; return a problem and what to do."""
    session = decision.session
    assert session
    disks = [f"/dev/{name}" for name in _devices_to_hold(host, session)]
    with bounded.hold_exclusively(host, disks, _FLUSH, flush=session.up) as results:
        if errno.EBUSY in results:  # somebody whom we cannot see uses it
            claim = claims.read(host, target)
            claims.write(host, target, claim._replace(used=claims.now()))
            return None
        mute = [
            disk
            for disk, result in zip(disks, results)
            if result not in (bounded.FREE, errno.ENXIO)  # ENXIO: offline
            and not (result == errno.EIO and _is_unwritable(host, disk))
        ]
        if session.up and mute:
            return f"session {session.sid} is up, yet {', '.join(mute)} does not answer", ""
        if not sessions.still_exists(host, session):
            return None
        limit = iscsiadm.Limit(_LOGOUT, time.monotonic() + 2 * _LOGOUT)
        log_out = iscsiadm.log_out_unbound if session.state == sessions.UNBOUND else iscsiadm.logout
        answer = log_out(host, target, session, limit)
    if answer.status == iscsiadm.SUCCESS:
        audit.logout(host, target, session.portal, session.sid, decision.reason)
    if answer.status not in _BENIGN:
        return f"logout of session {session.sid}: {answer.why}", answer.hint
    if not sessions.wait_until_gone(host, session, time.monotonic() + _GONE):
        return f"session {session.sid} is still there after its logout", "journalctl -u iscsid"
    return None


def _is_unwritable(host: Host, disk: str) -> bool:
    """Tell whether nothing can be written to a disk now, so that there is nothing to wait for.

    Such a disk is not ready, or behind a path in standby. The question also ends the time for which
    Linux takes a path for one in standby that no longer is: until a command of somebody's reaches
    the disk (drivers/scsi/device_handler/scsi_dh_alua.c). The next flush works then.
    """
    return bool(readiness.why_not_ready(host, os.path.basename(disk)))


def _forget(host: Host, target: str, ended: tuple[int, ...], asked: tuple[str, ...]) -> Ended:
    """Delete our records of a target, and the claim, when none of our sessions is left.

    A record of `asked` can be half made: a lookup was killed while it made it.
    """
    claim = claims.read(host, target)
    present = sessions.find_all(host, target)
    if any(map(claim.owns, present)) or claim.asked:
        return Ended(target, ended)
    notes: list[str] = []
    problem = _delete_records(host, target, claim.records, asked, notes)
    if problem:
        return Ended(target, ended, *problem, tuple(notes))
    if present:  # sessions of somebody else
        claims.write(host, target, claim._replace(opened=(), records=()))
    else:
        claims.forget(host, target)
    return Ended(target, ended, notes=tuple(notes))


def _delete_records(
    host: Host, target: str, names: Collection[str], asked: tuple[str, ...], notes: list[str]
) -> tuple[str, str] | None:
    """Delete records that we made; return a problem and what to do. `notes` gets those that stay.

    A record that somebody has changed, or made anew, is not ours any more. One of `asked` can be
    half made.
    """
    limit = iscsiadm.Limit(_LOGOUT, time.monotonic() + 2 * _LOGOUT)
    existing = {record_ledger.name_of(r): r for r in node_records.find_all(host, target)}
    made = claims.Claim(records=tuple(names), asked=asked)
    for name in names:
        record = existing.get(name)
        if record:
            if record_ledger.is_made_by_lookup(host, target, record, made):
                answer = iscsiadm.delete_record(host, target, record, limit)
                if answer.status == iscsiadm.SESS_EXISTS:
                    continue
                if answer.status not in _BENIGN:
                    return f"node record of {record.portal}: {answer.why}", answer.hint
            else:
                notes.append(f"{target}: node record of {record.portal} stays: somebody changed it")
        record_ledger.drop(host, target, name)
    return None


def delete_leftover_records(host: Host, target: str) -> Ended:
    """Delete records of ours that no claim names: those of an earlier boot.

    A record through which there is a session stays until that is gone.
    """
    handle = claims.lock(host, f"lock/{target}", time.monotonic())
    if handle is None:
        return Ended(target)
    try:
        claim = claims.read(host, target)
        in_use = [session.portal for session in sessions.find_all(host, target)]
        names = [
            name
            for name in record_ledger.read(host, target)
            if name not in (*claim.records, *claim.asked)
            and not any(portal.has_same_address(_portal(name)) for portal in in_use)
        ]
        notes: list[str] = []
        problem = _delete_records(host, target, names, (), notes)
        return Ended(target, (), *(problem or ("", "")), tuple(notes))
    except errors.Failure as failure:
        return Ended(target, (), failure.reason, failure.hint)
    except OSError as error:
        return Ended(target, (), f"{error.filename}: {error.strerror}", f"ls -l {error.filename}")
    finally:
        claims.unlock(host, f"lock/{target}", handle)


def _portal(name: str) -> portals.Portal:
    return portals.from_record(name) or portals.Portal("")


def recovery_tmo(host: Host, target: str) -> float:
    """Return how many seconds a session of ours waits for a lost connection."""
    try:
        return schema.resolve(config_files.load(host, remember=False), target).replacement_timeout
    except errors.BadConfiguration:
        return float(schema.TABLE["replacement_timeout"].default)
