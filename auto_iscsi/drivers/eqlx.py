"""How is a snapshot of an EqualLogic group presented, and how is that undone (auto-iscsi-eqlx(8))?

A snapshot is a target of its own, LUN 0. Two things let an initiator in: the snapshot is online,
and an access record of its *volume* admits the initiator to the volume's snapshots. So online and
offline are the gate for one snapshot. The record serves all snapshots of the volume that we
present: the last one that goes takes it along.

What a lease makes is written into the snapshot's description before it is made: so a lease whose
driver was killed is found again, and so are the other snapshots that need the record. A description
of somebody else's is left alone.
"""

from __future__ import annotations

import os
import re
import sys
import zoneinfo
from collections.abc import Sequence
from datetime import tzinfo

from auto_iscsi.drivers import eqlx_cli, eqlx_output, protocol, wire
from auto_iscsi.drivers import eqlx_plan as plan
from auto_iscsi.drivers.eqlx_output import Access, Row, Tag
from auto_iscsi.drivers.eqlx_plan import ACL, ONLINE, READONLY, Snapshot
from auto_iscsi.drivers.protocol import Call, Subject

#: The states of a snapshot for the core; with another status, it cannot be presented now.
STATES = {"online": "ready", "offline": "offline"}
_PORTAL = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\]):\d{1,5}")


def list_snapshots(call: Call) -> protocol.Listing:
    """Return the snapshots of a volume, or of all."""
    zone = _zone(call)
    snapshots: list[protocol.Snapshot] = []
    complete = True
    with eqlx_cli.Session(call) as session:
        names = [call.volume] if call.volume else eqlx_output.volumes(session.run("volume", "show"))
        for volume in names:
            if not wire.matches(wire.NAME, volume):
                complete = False
                continue
            try:
                left_out: list[str] = []
                rows = _rows(session, volume, left_out)
            except wire.Refused as error:
                if call.volume or error.code != "not_found":
                    raise
                continue  # deleted since it was listed
            for line in left_out:
                call.log(f"{volume}: snapshot show has a line that is no snapshot: {line}")
                complete = False
            is_admitted = _is_admitted(session, volume, rows, call.initiator)
            for row in rows:
                if not wire.matches(wire.NAME, row.name):
                    complete = False
                    continue
                presented = row.status == "online" and is_admitted
                if call.presented_only and not presented:
                    continue
                tag = _show(session, volume, row).tag if row.status == "online" else None
                at = eqlx_output.created(row.name, zone)
                snapshots.append(
                    protocol.Snapshot(
                        volume,
                        row.name,
                        _id(volume, row.name),
                        created=at,
                        created_from="none" if at is None else "name",
                        state=STATES.get(row.status, "busy"),
                        presented=presented,
                        owner=tag.lease if tag else None,
                    )
                )
    return protocol.Listing(snapshots, complete)


def present(call: Call, subject: Subject) -> protocol.Presented:
    """Let the initiator in to one snapshot: read-only, access record, online, in this order."""
    call.nothing_changed()
    read_only = _is_read_only(call)
    with eqlx_cli.Session(call) as session:
        rows = _rows(session, subject.volume)
        snapshot = _show(session, subject.volume, _row(rows, subject))
        record = _record(_accesses(session, subject.volume), subject.initiator)
        portals = _portals(call, session)
        live = _iqn_of_the_volume(session, subject)
        tags = _tags(session, subject.volume, rows, snapshot)
        missing = plan.to_make(snapshot, record, read_only)
        made = plan.what_is_made(snapshot, record, missing, tags, subject)
        _check_target(snapshot.iqn, live)
        if made:
            call.about_to_change()
            _write_tag(call, session, snapshot, Tag(subject.lease, plan.whose(subject), made))
        if READONLY in missing:
            _make_read_only(session, subject)
        if ACL in missing:
            record = _admit(session, subject)
        if ONLINE in missing:
            session.run(*_at(subject.volume, subject.snapshot), "online")
            snapshot = _show(session, subject.volume, _row(_rows(session, subject.volume), subject))
            if snapshot.row.status != "online":
                status = snapshot.row.status
                raise wire.Refused("conflict", f"{subject.snapshot}: {status} after online")
        iqn = _check_target(snapshot.iqn, live)
        handle = {"acl": record.number} if record and ACL in made else None
        target = protocol.Target(iqn, portals)
        return protocol.Presented(target, already=not missing, made=made, handle=handle)


def revoke(call: Call, subject: Subject) -> protocol.Revoked:
    """Undo what the lease made: offline, read-write again, access record, description."""
    call.nothing_changed()
    with eqlx_cli.Session(call) as session:
        try:
            rows = _rows(session, subject.volume)
        except wire.Refused as error:
            if error.code != "not_found":
                raise
            return protocol.Revoked(already=True)
        row = _find(rows, subject)
        if row is None and _exists(session, subject):
            message = f"{subject.snapshot}: it exists, and snapshot show does not list it"
            raise wire.Refused("internal", message)
        snapshot = _show(session, subject.volume, row) if row else None
        tag = snapshot.tag if snapshot else None
        kept: list[str] = []
        made = plan.what_to_undo(snapshot, subject, kept)
        if not made:
            return protocol.Revoked(True, kept)
        if row and row.connections:
            raise wire.Refused("busy", f"{row.name}: the array shows {row.connections} sessions", 5)
        changes = 0
        if snapshot:
            changes += _take_offline(call, session, snapshot, made)
        if ACL in made:
            others = _tags(session, subject.volume, rows, snapshot)
            if row and tag:
                others.append((row.name, tag))
            if needed := [name for name, other in others if plan.needs(other, subject)]:
                kept.append(f"acl:{needed[0]} needs it")
            elif used := _used_without_tag(rows, others, row):
                message = f"{used} has sessions, and may need the access record of {subject.volume}"
                raise wire.Refused("busy", message, 60)
            else:
                changes += _bar(call, session, subject, kept)
        if snapshot and tag and tag.lease == subject.lease:
            call.about_to_change()
            _describe(session, snapshot, eqlx_output.NO_TAG)
            changes += 1
        return protocol.Revoked(not changes, kept)


def _is_read_only(call: Call) -> bool:
    """Return the setting `read_only`; only `no` means that snapshots are presented writable."""
    value = call.option("read_only", "yes")
    if value not in ("yes", "no"):
        raise wire.Refused("invalid", f"setting read_only: {value}: it is yes or no")
    return value == "yes"


def _id(volume: str, snapshot: str) -> str:
    return f"{volume}/{snapshot}"


def _at(volume: str, snapshot: str) -> tuple[str, ...]:
    """Return the words with which a command to a snapshot begins."""
    return "volume", "select", volume, "snapshot", "select", snapshot


def _zone(call: Call) -> tzinfo | None:
    name = call.setting("timezone", "local")
    if name == "local":
        return None
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise wire.Refused("invalid", f"timezone {name}: there is no such zone") from None


def _rows(session: eqlx_cli.Session, volume: str, left_out: list[str] | None = None) -> list[Row]:
    shown = session.run("volume", "select", volume, "snapshot", "show")
    return eqlx_output.snapshots(shown, left_out)


def _find(rows: Sequence[Row], subject: Subject) -> Row | None:
    """Return the snapshot's row: only what stands in the array's own list is typed."""
    row = next((row for row in rows if row.name == subject.snapshot), None)
    if row and subject.id != _id(subject.volume, subject.snapshot):
        raise wire.Refused("conflict", f"{subject.id} is not the id of {subject.snapshot}")
    return row


def _row(rows: Sequence[Row], subject: Subject) -> Row:
    if row := _find(rows, subject):
        return row
    raise wire.Refused("not_found", f"{subject.volume} has no snapshot {subject.snapshot}")


def _show(session: eqlx_cli.Session, volume: str, row: Row) -> Snapshot:
    shown = eqlx_output.fields(session.run(*_at(volume, row.name), "show"))
    if shown.get("name", row.name) != row.name:
        raise wire.Refused("conflict", f"{row.name}: the array shows {shown['name']} instead")
    description = shown.get("description")
    iqn = eqlx_output.iqn(shown.get("iscsi name", ""))
    return Snapshot(volume, row, iqn, description, eqlx_output.tag(description or ""))


def _iqn_of_the_volume(session: eqlx_cli.Session, subject: Subject) -> str | None:
    shown = eqlx_output.fields(session.run("volume", "select", subject.volume, "show"))
    return eqlx_output.iqn(shown.get("iscsi name", ""))


def _check_target(iqn: str | None, live: str | None) -> str:
    """Return the target's name if it is surely not the volume itself."""
    if iqn is None or live is None:
        raise wire.Refused("internal", "the array shows no iSCSI name")
    if iqn == live:
        raise wire.Refused("conflict", f"{iqn} is the volume itself")
    return iqn


def _accesses(session: eqlx_cli.Session, volume: str) -> list[Access]:
    return eqlx_output.accesses(session.run("volume", "select", volume, "access", "show"))


def _record(records: Sequence[Access], initiator: str) -> Access | None:
    """Return a record that admits the initiator to the snapshots, first one as we make it."""
    admitting = [record for record in records if record.admits(initiator)]
    ours = [record for record in admitting if record.is_as_made(initiator)]
    return next(iter([*ours, *admitting]), None)


def _is_admitted(
    session: eqlx_cli.Session, volume: str, rows: Sequence[Row], initiator: str | None
) -> bool:
    """Tell whether an initiator is admitted to a volume's snapshots; None: any is."""
    if initiator is None or not any(row.status == "online" for row in rows):
        return True
    return _record(_accesses(session, volume), initiator) is not None


def _tags(
    session: eqlx_cli.Session, volume: str, rows: Sequence[Row], this: Snapshot | None
) -> list[tuple[str, Tag]]:
    """Return the tags of the volume's other snapshots that are online, with their names."""
    name = this.row.name if this else None
    tags = []
    for row in rows:
        if row.status == "online" and row.name != name:
            try:
                other = _show(session, volume, row)
            except wire.Refused as error:
                if error.code != "not_found":
                    raise
                continue  # deleted since it was listed
            if other.tag:
                tags.append((row.name, other.tag))
    return tags


def _used_without_tag(
    rows: Sequence[Row], tags: Sequence[tuple[str, Tag]], this: Row | None
) -> str | None:
    """Return another snapshot that has sessions and no tag: nothing says which record it needs."""
    tagged = {name for name, _tag in tags}
    others = [row.name for row in rows if row.connections and row.name not in tagged]
    return next((name for name in others if not this or name != this.name), None)


def _exists(session: eqlx_cli.Session, subject: Subject) -> bool:
    try:
        session.run(*_at(subject.volume, subject.snapshot), "show")
    except wire.Refused as error:
        if error.code == "not_found":
            return False
        raise
    return True


def _portals(call: Call, session: eqlx_cli.Session) -> list[str]:
    """Return the portals: setting `portals` in [options], else the group's address."""
    own = call.option("portals", "").replace(",", " ").split()
    if not own:
        shown = eqlx_output.fields(session.run("grpparams", "show"))
        address = shown.get("group-ipaddress", "").rstrip(".")
        own = [f"[{address}]:3260" if ":" in address else f"{address}:3260"]
    for portal in own:
        if not _PORTAL.fullmatch(portal):
            raise wire.Refused("invalid", f"{portal!r} is no portal: set portals in [options]")
    return own


def _write_tag(call: Call, session: eqlx_cli.Session, snapshot: Snapshot, tag: Tag) -> None:
    """Say in the description what this lease makes; without a free one, only the log says it.

    The tag of another lease is left over where the snapshot is offline.
    """
    if snapshot.tag == tag:
        return
    free = snapshot.description in ("", eqlx_output.NO_TAG, None)
    if snapshot.tag:
        free = snapshot.tag.lease == tag.lease or snapshot.row.status == "offline"
    if not free:
        call.log(f"{snapshot.row.name}: its description is in use: not tagged")
        return
    try:
        _describe(session, snapshot, str(tag))
    except wire.Refused as error:
        if error.code in ("timeout", "unreachable"):
            raise
        call.log(f"not tagged: {error.message}")


def _describe(session: eqlx_cli.Session, snapshot: Snapshot, text: str) -> None:
    session.run(*_at(snapshot.volume, snapshot.row.name), "description", text)


def _make_read_only(session: eqlx_cli.Session, subject: Subject) -> None:
    try:
        session.run(*_at(subject.volume, subject.snapshot), "read-only")
    except wire.Refused as error:
        message = f"{error.message}; set read_only = no in [options] if this host's is enough"
        raise wire.Refused(error.code, message) from None


def _admit(session: eqlx_cli.Session, subject: Subject) -> Access:
    """Make the access record, for snapshots only, and return it as the array shows it.

    A record that would admit to the volume itself is deleted at once. Another host can make one of
    its own meanwhile, and an administrator one for this host: what may be his is left alone.
    """
    before = {record.number for record in _accesses(session, subject.volume)}
    where = ("volume", "select", subject.volume, "access")
    method = ("authmethod", "none", "apply-to", "snapshot")
    session.run(*where, "create", "initiator", subject.initiator, *method)
    records = _accesses(session, subject.volume)
    new = [record for record in records if record.number not in before]
    ours = [record for record in new if record.initiator == subject.initiator]
    if len(ours) > 1:
        message = f"{subject.volume} has {len(ours)} new access records for {subject.initiator}"
        raise wire.Refused("conflict", f"{message}, and which is ours is not known: none deleted")
    if ours and ours[0].is_as_made(subject.initiator):
        return ours[0]
    if ours:
        session.run(*where, "delete", ours[0].number)
    shown = ", ".join(record.applies or "?" for record in ours or new) or "no new record"
    message = f"access create on {subject.volume}: the array shows {shown}: taken back"
    raise wire.Refused("unsupported", message)


def _take_offline(
    call: Call, session: eqlx_cli.Session, snapshot: Snapshot, made: Sequence[str]
) -> int:
    """Set a snapshot offline and writable, as far as the lease made it online and read-only."""
    where = _at(snapshot.volume, snapshot.row.name)
    changes = 0
    if ONLINE in made and snapshot.row.status == "online":
        call.about_to_change()
        session.run(*where, "offline")
        changes += 1
    if READONLY in made and snapshot.row.permission == "read-only":
        call.about_to_change()
        session.run(*where, "read-write")
        changes += 1
    return changes


def _bar(call: Call, session: eqlx_cli.Session, subject: Subject, kept: list[str]) -> int:
    """Delete the access record that a lease made; add to `kept` why it stays.

    The numbers are read anew: the array gives a number to another record when one is deleted.
    """
    records = _accesses(session, subject.volume)
    ours = [record for record in records if record.is_as_made(subject.initiator)]
    if (number := (subject.handle or {}).get("acl")) and len(ours) > 1:
        ours = [record for record in ours if record.number == number]
    if not ours:
        return 0
    if len(ours) > 1:
        kept.append("acl:there are several such records, and which is ours is not known")
        return 0
    call.about_to_change()
    session.run("volume", "select", subject.volume, "access", "delete", ours[0].number)
    return 1


DRIVER = protocol.Driver(
    "eqlx", "own", list_snapshots=list_snapshots, present=present, revoke=revoke, max_parallel=1
)


def main() -> int:
    """Answer one request, or ssh's question for the password."""
    if eqlx_cli.MEMORY in os.environ:
        print(eqlx_cli.answer(sys.argv[1:]))
        return 0
    return protocol.serve(DRIVER)
