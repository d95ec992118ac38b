"""What is to be made for a lease on an EqualLogic group, and what is to be undone?

Pure functions: they get what the array shows and decide. A lease that shares the access record has
it in its tag, as the one that made it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from auto_iscsi.drivers import eqlx_output, wire
from auto_iscsi.drivers.eqlx_output import Access, Row, Tag
from auto_iscsi.drivers.protocol import Subject

#: What a lease can make: the access record, the snapshot online, the snapshot read-only.
ACL, ONLINE, READONLY = "acl", "online", "readonly"


class Snapshot(NamedTuple):
    """What the array says of a snapshot."""

    volume: str
    row: Row
    iqn: str | None
    description: str | None  #: None where the array shows none
    tag: Tag | None


def to_make(snapshot: Snapshot, record: Access | None, read_only: bool) -> tuple[str, ...]:
    """Return what is missing until the initiator can log in, in the order in which it is made."""
    missing = []
    is_offline = snapshot.row.status == "offline"
    if not is_offline and snapshot.row.status != "online":
        name, status = snapshot.row.name, snapshot.row.status
        raise wire.Refused("conflict", f"{name}: its status is {status}")
    if is_offline and read_only and snapshot.row.permission != "read-only":
        missing.append(READONLY)
    if record is None:
        missing.append(ACL)
    if is_offline:
        missing.append(ONLINE)
    return tuple(missing)


def what_is_made(
    snapshot: Snapshot,
    record: Access | None,
    missing: Sequence[str],
    tags: Sequence[tuple[str, Tag]],
    subject: Subject,
) -> tuple[str, ...]:
    """Return what the lease undoes at its end: what it makes, and its share of the record.

    A tag on an offline snapshot is left over from a lease whose end nobody saw: its duties pass to
    this one. The record is shared if it is as we make it, and the tag of another snapshot has it.
    """
    made = set(missing)
    if tag := snapshot.tag:
        is_left_over = snapshot.row.status == "offline" and tag.whose == whose(subject)
        if tag.lease == subject.lease or is_left_over:
            made |= set(tag.made)
    is_shared = any(needs(other, subject) for _name, other in tags)
    if is_shared and record and record.is_as_made(subject.initiator):
        made.add(ACL)
    return tuple(sorted(made))


def what_to_undo(snapshot: Snapshot | None, subject: Subject, kept: list[str]) -> tuple[str, ...]:
    """Return what the lease made and nobody else has taken over; add to `kept` what is not known.

    What the request says goes before the tag, which cannot be written everywhere. A description
    that says that the lease has ended goes before both.
    """
    tag = snapshot.tag if snapshot else None
    if snapshot and snapshot.description == eqlx_output.NO_TAG:
        return ()
    if subject.made is not None:
        made = subject.made
    elif tag and tag.lease == subject.lease:
        made = tag.made
    else:
        if snapshot and snapshot.row.status == "online" and not tag:
            kept.append("online:nothing says that this lease made it")
        made = ()
    if made and tag and tag.lease != subject.lease:
        kept.append(f"{ONLINE}:lease {tag.lease} presents it")
        made = tuple(step for step in made if step == ACL)
    return made


def whose(subject: Subject) -> str:
    """Return what stands for the initiator in a tag, which has no room for its name."""
    return hashlib.sha256(subject.initiator.encode()).hexdigest()[:8]


def needs(other: Tag, subject: Subject) -> bool:
    """Tell whether another lease of this initiator needs the volume's access record."""
    return other.whose == whose(subject) and ACL in other.made and other.lease != subject.lease
