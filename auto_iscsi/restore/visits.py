"""Visit snapshots as a user does, through automount, and end what a visit opened.

A session that was there before the visit stays, and so does one that somebody else has asked for
since.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator

from auto_iscsi import errors, keys
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.machine import master_map, mounts
from auto_iscsi.machine.host import Host
from auto_iscsi.reaper import logout
from auto_iscsi.san import leases, presenting
from auto_iscsi.san.catalogue import Entry

_EXPIRY = 10.0  # seconds that automount gets to unmount a tree


def mount_root(host: Host) -> str:
    """Return where automount mounts targets (/iscsiauto); raise Failure when it does not."""
    served = master_map.list_autofs_mounts(host)
    roots = [line.root for line in master_map.list_lines(host) if line.root in served]
    if not roots:
        raise errors.Failure(
            "automount does not serve our map", "run auto-iscsi doctor: it names what is missing"
        )
    return roots[0]


@contextlib.contextmanager
def visited(host: Host, root: str, entry: Entry, keep: bool) -> Iterator[int]:
    """Yield a descriptor of the root directory of a snapshot; raise Failure.

    Without `keep`, a session that the visit has opened ends with the block.
    """
    before = {keys.fold(session.target) for session in sessions.list_all(host)}
    point = f"{root}/{entry.key}"
    try:
        folder = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.Failure(
            f"{point}: {(error.strerror or '').lower()}",
            f"journalctl -u autofs says why; or run auto-iscsi lookup {entry.key}",
        ) from error
    # What was not presented before is only known by its target now.
    target = leases.targets_by_key(host).get(entry.san_key.lower(), entry.target)
    claim = claims.read(host, target)
    try:
        yield folder
    finally:
        os.close(folder)
        if not (target in before or keep):
            opened = [name for name in claim.others if name not in before]
            _end(host, root, point, target, claim, opened)
            if entry.san:
                until = time.monotonic() + presenting.FINISHING
                presenting.finish(host, until, {target})


def _end(
    host: Host, root: str, point: str, target: str, visit: claims.Claim, others: Collection[str]
) -> None:
    """Unmount a snapshot and end its session, unless somebody else uses it.

    others: the targets that the setting `with` names, and that had no session before.
    """
    inside = [m for m in mounts.list_all(host) if f"{m.point}/".startswith(f"{point}/")]
    null = os.open(os.devnull, os.O_RDWR)
    try:
        if any(mount.fstype == "autofs" and mount.point != point for mount in inside):
            _expire(host, root, point)
        else:
            for mount in reversed(inside):
                if mount.fstype != "autofs":
                    until = time.monotonic() + _EXPIRY
                    host.run("umount", mount.point, out=null, err=null, until=until)
    finally:
        os.close(null)
    if not _give_back(host, target, visit):
        return
    given_back = [target]
    for name in others:
        claim = claims.read(host, name)
        # This visit looked it up a moment before the target itself.
        if claim.looked_up <= visit.looked_up and _give_back(host, name, claim):
            given_back.append(name)
    for name in given_back:
        logout.end_sessions(host, name)


def _give_back(host: Host, target: str, visit: claims.Claim) -> bool:
    """End the lease of a target; return False when somebody has asked for it since the visit."""
    handle = claims.lock(host, f"lock/{target}", time.monotonic())
    if handle is None:
        return False
    try:
        claim = claims.read(host, target)
        if claim.looked_up != visit.looked_up:
            return False
        claims.write(host, target, claims.given_back(claim))
        return True
    finally:
        claims.unlock(host, f"lock/{target}", handle)


def _expire(host: Host, root: str, point: str) -> None:
    """Have automount unmount what nobody uses (automount(8), SIGUSR1); wait for a tree to go."""
    served = master_map.list_autofs_mounts(host).get(root)
    if served is None or host.read(f"/proc/{served.pid}/comm") != "automount":
        return
    with contextlib.suppress(OSError):
        os.kill(served.pid, signal.SIGUSR1)
    until = time.monotonic() + _EXPIRY
    while time.monotonic() < until:
        if not any(m.point == point and m.fstype != "autofs" for m in mounts.list_all(host)):
            return
        time.sleep(0.1)
