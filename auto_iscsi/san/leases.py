"""Which snapshots did this host have presented, and how far is each? The journal.

A lease is a file /var/lib/auto-iscsi/san/LEASE, which outlives a boot as a presented snapshot does.
It is on the disk before each step:

    PRESENTING   the driver is about to be asked; what it has done is not known
    PRESENTED    it has presented the snapshot: `target`, `made` and `handle` are as it said
    LOGGED_IN    a login was begun
    LOGGED_OUT   no session is left; the driver is about to be asked to revoke
    (no file)    revoked

Whoever writes or deletes a lease holds its volume (lock).
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from auto_iscsi import errors
from auto_iscsi.drivers import protocol, wire
from auto_iscsi.iscsi import claims
from auto_iscsi.machine import state_files
from auto_iscsi.machine.host import Host
from auto_iscsi.san import calls

FOLDER = "/var/lib/auto-iscsi/san"
PRESENTING, PRESENTED = "PRESENTING", "PRESENTED"
LOGGED_IN, LOGGED_OUT = "LOGGED_IN", "LOGGED_OUT"
STATES = (PRESENTING, PRESENTED, LOGGED_IN, LOGGED_OUT)


class Lease(NamedTuple):
    """A snapshot that is presented to this host, or is about to be. Times are time.time()."""

    lease: str
    san: str
    volume: str
    snapshot: str
    id: str
    state: str
    began: float
    changed: float  #: when it came to this state
    boot: str  #: in which it came to this state
    uid: str
    user: str
    was_presented: bool = False  #: before our first present: by somebody else
    target: protocol.Target | None = None
    made: tuple[str, ...] | None = None  #: None: not known
    handle: dict[str, str] | None = None
    attempts: int = 0  #: to revoke it, that failed
    why: str = ""  #: the last one failed

    @property
    def name(self) -> str:
        """The snapshot, as people write it."""
        return f"{self.san}: {self.volume}@{self.snapshot}"

    @property
    def key(self) -> str:
        """The key of the snapshot below the target root."""
        return f"{self.volume}@{self.snapshot}"

    @property
    def subject(self) -> calls.Snapshot:
        """The snapshot, as the driver knows it."""
        return calls.Snapshot(self.volume, self.snapshot, self.id)


class Damaged(NamedTuple):
    """A file of the journal that cannot be read."""

    lease: str
    why: str


def begin(host: Host, san: str, snapshot: protocol.Snapshot, uid: str, user: str) -> Lease:
    """Return a new lease, which is on the disk. The caller holds the volume."""
    lease = Lease(
        str(uuid.uuid4()),
        san,
        snapshot.volume,
        snapshot.snapshot,
        snapshot.id,
        PRESENTING,
        time.time(),
        time.time(),
        claims.boot(host),
        uid,
        user,
        snapshot.presented,
    )
    write(host, lease)
    return lease


def advance(host: Host, lease: Lease, state: str, **members: Any) -> Lease:
    """Write that a lease comes to a state; return it. The caller holds the volume."""
    lease = lease._replace(state=state, changed=time.time(), boot=claims.boot(host), **members)
    write(host, lease)
    return lease


def write(host: Host, lease: Lease) -> None:
    """Write a lease; return when it is on the disk."""
    members = {**lease._asdict(), "target": lease.target and lease.target._asdict()}
    claims.write_file(host, lease.lease, json.dumps(members), FOLDER, durable=True)


def end(host: Host, lease: Lease) -> None:
    """Delete a lease: it is revoked. The caller holds the volume."""
    folder = host.path(FOLDER)
    state_files.delete(f"{folder}/{lease.lease}")
    state_files.sync_folder(folder)


def read(host: Host, name: str) -> Lease | Damaged | None:
    """Return a lease by its name; None when it is revoked."""
    try:
        text = host.read(f"{FOLDER}/{name}")
    except errors.NotPermitted:
        raise
    except errors.Failure as failure:
        return Damaged(name, failure.reason)
    if text is None:
        return None
    try:
        members = json.loads(text)
        target = members["target"]
        if target is not None:
            portals = tuple(target.pop("portals"))
            members["target"] = protocol.Target(**target, portals=portals)
        if isinstance(members["made"], list):
            members["made"] = tuple(members["made"])
        lease = Lease(**members)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return Damaged(name, f"{FOLDER}/{name} cannot be read: {error}")
    if lease.lease != name or not _is_sound(lease):
        return Damaged(name, f"{FOLDER}/{name} is not the lease that its name says")
    return lease


def _is_sound(lease: Lease) -> bool:
    """Tell whether each value of a lease is one that write() writes: nobody else looks at it."""
    texts = (lease.boot, lease.uid, lease.user, lease.why)
    names = (lease.san, lease.volume, lease.snapshot)
    times = (lease.began, lease.changed)
    target = lease.target
    return (
        lease.state in STATES
        and all(isinstance(text, str) for text in texts)
        and all(wire.matches(wire.NAME, name) for name in names)
        and wire.matches(wire.OPAQUE, lease.id)
        and all(isinstance(each, (int, float)) and math.isfinite(each) for each in times)
        and isinstance(lease.attempts, int)
        and isinstance(lease.was_presented, bool)
        and (
            lease.made is None
            or (isinstance(lease.made, tuple) and wire.are_made(list(lease.made)))
        )
        and (lease.handle is None or wire.is_handle(lease.handle))
        and (
            target is None
            or (
                wire.matches(wire.IQN, target.iqn)
                and all(isinstance(portal, str) for portal in target.portals)
                and isinstance(target.lun, int)
                and isinstance(target.shared, bool)
            )
        )
    )


def list_all(host: Host) -> tuple[list[Lease], list[Damaged]]:
    """Return all leases, the oldest first, and the files that cannot be read."""
    sound, damaged = [], []
    for name in host.names(FOLDER):
        if wire.matches(wire.LEASE, name):
            lease = read(host, name)
            if isinstance(lease, Lease):
                sound.append(lease)
            elif lease:
                damaged.append(lease)
    return sorted(sound, key=lambda each: each.began), damaged


def find(host: Host, san: str, snapshot_id: str) -> Lease | None:
    """Return the lease of a snapshot."""
    for lease in list_all(host)[0]:
        if (lease.san, lease.id) == (san, snapshot_id):
            return lease
    return None


def targets_by_key(host: Host) -> dict[str, str]:
    """Return the targets of what is presented, by their keys in small letters."""
    known = list_all(host)[0]
    return {lease.key.lower(): lease.target.iqn for lease in known if lease.target}


def find_of_target(host: Host, target: str, lun: int | None = None) -> list[Lease]:
    """Return the leases whose snapshots are at a target, a folded name; with `lun`, at that LUN."""
    return [
        lease
        for lease in list_all(host)[0]
        if lease.target and lease.target.iqn == target and lun in (None, lease.target.lun)
    ]


@contextlib.contextmanager
def hold_volume(host: Host, san: str, volume: str, until: float) -> Iterator[None]:
    """Hold a volume of a SAN against other presents and revokes; raise Busy at `until`.

    Per volume, because an array can have one list of initiators for all snapshots of a volume.
    """
    name = f"{calls.FOLDER}/{san}@{volume}"
    handle = claims.lock(host, name, until)
    if handle is None:
        raise errors.Busy(f"{san}: {volume}: another run presents or revokes", "try again")
    try:
        yield
    finally:
        claims.unlock(host, name, handle)
