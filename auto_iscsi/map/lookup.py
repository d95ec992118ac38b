"""From a key to a map entry: the flow that everything else serves.

key → target → settings → session (or login) → disk (or wait) → what is on it → entry. On the warm
path the session and its disk are there: a few files are read, and no process is started.
"""

from __future__ import annotations

import os
import time

from auto_iscsi import errors, keys
from auto_iscsi.config import settings_cache
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine import mounts
from auto_iscsi.machine.host import Host
from auto_iscsi.map import available, entry, verification
from auto_iscsi.map.request import Place, Request, limit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Callable

    from auto_iscsi.config.settings import Settings
    from auto_iscsi.volumes.mountable import Mountable

_READING = 60.0  # seconds to read the configuration: what lookup_timeout is unless it says more
_MOUNTING = 3.0  # seconds that automount takes from our answer to the mount
_STEP = 0.02  # seconds between two looks at the mounts
_RECENT = 300.0  # seconds; a mount of the shipped master line cannot have expired by then


def lookup(
    host: Host,
    text: str,
    log: Callable[[str], object] = str,
    place: Place | None = None,
    began: float = 0.0,
) -> str:
    """Return the map entry for the key `text`, logging in when need be; raise Failure.

    `log` is given at most one line, which belongs in the log beside the entry. `place`: where a
    SAN has presented what the key names; without it, the key is the name of a target. `began`: when
    the SAN was asked (time.monotonic()); lookup_timeout counts from there.
    """
    key = place.key if place else keys.parse(text)
    began = began or time.monotonic()
    with limit(_READING, key.target):
        resolved = settings_cache.find(host, key.target)
    settings = place.adapt(resolved.settings) if place else resolved.settings
    if not settings.enabled:
        raise errors.Disabled(
            f"{key.target}: enabled = no", f"auto-iscsi explain {key.target} names the line"
        )
    left = max(1.0, settings.lookup_timeout - (time.monotonic() - began))
    others: Sequence[str] = ()
    if settings.with_:
        from auto_iscsi.map import other_targets

        with limit(left, key.target) as until:
            others = other_targets.list_names(host, key.target, settings, until)
        left = max(1.0, settings.lookup_timeout - (time.monotonic() - began))
    with (
        limit(left, key.target) as until,
        claims.hold_target(host, key.target, until, others),
    ):
        if place:
            place.begin(settings, until)
        request = Request(host, key, settings, until, claims.read(host, key.target))
        if others:
            request = request._replace(others=other_targets.requests(request, others, _settings_of))
        remount, seen = _was_mounted_meanwhile(request)
        try:
            content = (
                _through_sessions(request)
                or available.without_session(request)
                or _brought_up(request)
            )
            if others:
                claims.tie(host, key.target, others)
        except errors.TwinVolumes:
            from auto_iscsi.map import undo_login

            undo_login.log_out(request)
            raise
        settings_cache.keep(host, key.target, resolved)
        line = entry.format_entry(content, settings, remount)
        notes = content.notes
        if not remount:
            notes = (*_notes_on_last_mount(request, content, seen), *notes)
        if notes:
            log(f"{key.target}: {'; '.join(notes)}")
        return line


class _Mounts(NamedTuple):
    """What is mounted, as one look shows it."""

    point: str  #: where automount mounts the key; "": it was not automount that started us
    mounted: Sequence[mounts.Mount]


def _look_at_mounts(request: Request) -> _Mounts:
    mounted = mounts.list_all(request.host)
    return _Mounts(available.mount_point(request, mounted), mounted)


def _was_mounted_meanwhile(request: Request) -> tuple[bool, _Mounts | None]:
    """Tell whether automount has mounted the key on the word of a run just before this one.

    Return the last look at the mounts, too; None if there was no need for one.

    When the last one who waits for a key is interrupted and somebody asks again, automount starts
    us again, beside the mount that is under way. It mounts once more then, and the user gets EBUSY
    and ENOENT, unless the entry says remount. So we wait for a mount that is to be expected.
    """
    age = claims.age(request.claim)
    if age >= _MOUNTING:
        return False, None
    seen = _look_at_mounts(request)
    until = request.within(_MOUNTING - age)
    while seen.point:
        if any(m.point == seen.point and m.fstype != "autofs" for m in seen.mounted):
            return True, seen
        if time.monotonic() >= until:
            break
        time.sleep(_STEP)
        seen = _look_at_mounts(request)
    return False, seen


def _notes_on_last_mount(
    request: Request, content: Mountable, seen: _Mounts | None
) -> tuple[str, ...]:
    """Return a line for the log if automount could not mount what the last lookup gave it.

    `seen`: the mounts, if there was a look at them already.
    """
    claim = request.claim
    was_used = claim.used > claim.looked_up
    if claim.asked_by != os.getpgrp() or was_used or claims.age(claim) >= _RECENT:
        return ()
    seen = seen or _look_at_mounts(request)
    if not seen.point:
        return ()
    from auto_iscsi.map import last_mount

    return last_mount.notes(request, content, *seen)


def _settings_of(host: Host, target: str) -> Settings:
    return settings_cache.find(host, target).settings


def bring_up(request: Request) -> Mountable:
    """Return what one of a lookup's other targets shows; raise Failure."""
    try:
        return _through_sessions(request) or _brought_up(request)
    except errors.TwinVolumes:
        from auto_iscsi.map import undo_login

        undo_login.log_out(request)
        raise


def _through_sessions(request: Request) -> Mountable | None:
    """Return what the sessions that are up show, None when there is work to do first."""
    try:
        current = available.through_sessions(request)
        if current.mountable and claims.is_locked(request.host, f"iscsiadm/{request.target}"):
            _wait_for_logout(request)
            current = available.through_sessions(request)
    except errors.Failure:
        # It rests on what the kernel remembers of a disk, which can be another volume by now, or
        # was not ready when the kernel and udev looked at it.
        up = [s for s in sessions.find_all(request.host, request.target) if s.up]
        disks = available.selected_disks(request, up)
        if verification.delete_swapped(request, [disk.path for disk in disks]):
            return None
        if any(verification.is_to_be_found_anew(request, disk) for disk in disks):
            return None
        from auto_iscsi.disks import reread

        selected = available.selected_disks(request, up)
        if any(reread.lacks_partitions(request.host, request.target, d) for d in selected):
            return None
        raise
    if current.mountable is None:
        return None
    return _allow(request, current.mountable, current.up, request.claim)


def _wait_for_logout(request: Request) -> None:
    """Wait for the iscsiadm that a killed reaper left behind; raise Busy."""
    from auto_iscsi.iscsi import iscsiadm

    if not iscsiadm.wait_until_idle(request.host, request.target, request.until):
        raise iscsiadm.still_running(request.target)


def _brought_up(request: Request) -> Mountable:
    """Bring the target up; return what it shows then, or raise Failure."""
    from auto_iscsi.map import bring_up

    while True:
        content = _allow(request, *bring_up.bring_up(request))
        if content:
            return content
        # A disk was another volume by now, or cannot be read any more, and was deleted: a rescan
        # finds what is there.


def _allow(
    request: Request,
    content: Mountable,
    up: Sequence[sessions.Session],
    claim: claims.Claim | None = None,
) -> Mountable | None:
    """Verify what was found, renew the lease, and return what may be mounted; raise Failure.

    None: a disk was another volume by now, or cannot be read any more, and was deleted. `claim`:
    the claim as it still is, if that is known.
    """
    disks = verification.disks_of(content)
    if verification.delete_swapped(request, disks):
        return None
    try:
        content = verification.hide_members(request, content, up)
        if request.is_other:
            verification.protect(request, content)
        elif request.others and not content.is_final:
            content = _with_others(request, content)
        else:
            content = verification.allow_by_journal(request, content)
    except errors.NoDisk:
        verification.delete_unreadable(request, disks)
        return None
    claim = claims.renew_lease(request.host, request.target, up, claim)
    if claim.asked:
        from auto_iscsi.iscsi import pending_logins

        tmo = request.settings.replacement_timeout
        pending_logins.settle(request.host, request.target, 0.0, tmo)
    return content


def _with_others(request: Request, content: Mountable) -> Mountable:
    """Return what may be mounted with the physical volumes of the other targets; raise Failure."""
    from auto_iscsi.map import other_targets

    if other_targets.is_one_down(request, content) and (
        mounted := available.without_session(request)
    ):
        return mounted  # automount has been restarted: it mounts nothing anew
    others = other_targets.bring_up(request, content, bring_up)
    content = content._replace(
        filesystems=(*content.filesystems, *others.members), notes=(*content.notes, *others.notes)
    )
    try:
        return verification.allow_by_journal(request, content)
    except errors.NoDisk:
        raise
    except errors.Failure as failure:  # then the notes tell why something is missing
        raise type(failure)("; ".join((failure.reason, *others.notes)), failure.hint) from None
