"""Remember, also across a boot, which node records are ours.

A node record that a lookup made can hold a CHAP secret, and it is still there after a boot, when
the claims in /run are gone. So /var/lib/auto-iscsi/records/TARGET names it from before it is made
until after it was deleted. A line is

    NAME SECONDS FINGERPRINT

with the record's name (ADDRESS,PORT,TPGT), the time when it was noted, and inode, time and size of
its files. A record that somebody has changed or made anew has another fingerprint: it is not ours
any more, and stays. Neither iscsid nor a login writes to a record (seen with open-iscsi 2.1.8).

The fingerprint is `-` until the record is complete. If the host went down before that, the record
is ours if it was written within two minutes of the note, and has the settings that only we make.
All files of a target are written by whoever holds the target (claims).
"""

from __future__ import annotations

import os
import time

from auto_iscsi.iscsi import claims, node_records
from auto_iscsi.lean_stdlib import NamedTuple, suppress
from auto_iscsi.machine.host import Host

FOLDER = "/var/lib/auto-iscsi/records"
#: Settings of each record of ours, with a CHAP secret from the first moment on (chap).
MARKS = {"node.startup": "manual", "node.session.initial_login_retry_max": "1"}
_MAKING = 120.0  # seconds: login_timeout, and the half minute that iscsiadm waits for its database
_INCOMPLETE = "-"


class Entry(NamedTuple):
    """What is known of one record."""

    noted: float  #: time.time()
    fingerprint: str


def read(host: Host, target: str) -> dict[str, Entry]:
    """Return the entries of a target, by the names of the records."""
    entries = {}
    for line in (host.read(f"{FOLDER}/{target}") or "").splitlines():
        with suppress(ValueError):
            name, noted, fingerprint = line.split(" ")
            entries[name] = Entry(float(noted), fingerprint)
    return entries


def note(host: Host, target: str, name: str) -> None:
    """Note that a record is about to be made. This is on the disk before the record can be."""
    entries = {**read(host, target), name: Entry(time.time(), _INCOMPLETE)}
    _write(host, target, entries, durable=True)


def complete(host: Host, target: str, name: str) -> None:
    """Note how a record looks that was made."""
    entries = read(host, target)
    for record in node_records.find_all(host, target):
        if name_of(record) == name and name in entries:
            entries[name] = entries[name]._replace(fingerprint=_fingerprint(host, record))
    _write(host, target, entries)


def drop(host: Host, target: str, name: str) -> None:
    """Forget a record that no longer exists, or that is not ours any more."""
    entries = read(host, target)
    if entries.pop(name, None):
        _write(host, target, entries)


def forget(host: Host, target: str) -> None:
    """Delete the file of a target."""
    with suppress(FileNotFoundError):
        os.unlink(host.path(f"{FOLDER}/{target}"))


def is_ours(host: Host, target: str, record: node_records.Record) -> bool:
    """Return whether we made a record, and nobody has changed it or made it anew since."""
    entry = read(host, target).get(name_of(record))
    if entry is None:
        return False
    if entry.fingerprint != _INCOMPLETE:
        return entry.fingerprint == _fingerprint(host, record)
    return has_marks(host, record) and _is_written_in_time(host, record, entry)


def is_made_by_lookup(
    host: Host, target: str, record: node_records.Record, claim: claims.Claim
) -> bool:
    """Return whether a record is ours, to make anew or to delete; `claim`: the target's.

    One of `claim.asked` that was ours to make can be half made: it has no marks yet. Others of
    `claim.asked` are an administrator's. One that the ledger does not name was made by a version
    without the ledger.
    """
    name = name_of(record)
    entry = read(host, target).get(name)
    if name in claim.asked and name in claim.records:
        if entry is None:
            return True
        if entry.fingerprint == _INCOMPLETE:
            return _is_written_in_time(host, record, entry)
    if entry is not None:
        return is_ours(host, target, record)
    return name in claim.records and has_marks(host, record)


def _is_written_in_time(host: Host, record: node_records.Record, entry: Entry) -> bool:
    """Return whether a record was written so soon after its note that we can have made it."""
    statuses = map(host.stat, node_records.files(host, record))
    times = [status.st_mtime - entry.noted for status in statuses if status]
    return all(-1 < seconds < _MAKING for seconds in times)


def has_marks(host: Host, record: node_records.Record) -> bool:
    """Return whether a record has the settings that each record of ours has."""
    values = node_records.values(host, record)
    return all(values.get(name) == value for name, value in MARKS.items())


def name_of(record: node_records.Record) -> str:
    """Return the name of an existing record, as open-iscsi spells it."""
    return record.path.rpartition("/")[2]


def _fingerprint(host: Host, record: node_records.Record) -> str:
    """Return what changes when anybody writes to a record."""
    statuses = map(host.stat, node_records.files(host, record))
    return ",".join(f"{s.st_ino}:{s.st_mtime_ns}:{s.st_size}" for s in statuses if s)


def _write(host: Host, target: str, entries: dict[str, Entry], durable: bool = False) -> None:
    """Replace the entries of a target."""
    if not entries:
        forget(host, target)
        return
    lines = [f"{name} {e.noted:.3f} {e.fingerprint}\n" for name, e in entries.items()]
    claims.write_file(host, target, "".join(lines), FOLDER, durable=durable)
