"""Which sessions has this host, who uses them, and what becomes of them?

What the reaper thinks of each is asked of it (verdicts), not judged a second time. Only sysfs and
/proc are read, and children that have a limit open the disks: none of them can hold this up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from auto_iscsi import errors, keys, wording
from auto_iscsi.admin import output
from auto_iscsi.config import config_files, schema
from auto_iscsi.disks import in_use, scsi_disks
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.machine import mounts
from auto_iscsi.machine.host import Host
from auto_iscsi.reaper import decisions

_SETTLED = 60.0  # seconds after a lookup within which a disk may still come
_LATE = 3600.0  # seconds that the reaper may be behind

#: What can be wrong with a session that we use: see codes.
PROBLEMS = (
    "session-lost",
    "lost-in-use",
    "no-disk",
    "disk-offline",
    "duplicate-session",
    "reaper-late",
    "bad-configuration",
)


class Row(NamedTuple):
    """One session, or a claim on one that is gone. Times are seconds."""

    target: str  #: folded
    session: sessions.Session | None
    ours: bool | None  #: a lookup opened it; None: only root can know
    disks: tuple[str, ...]  #: the kernel's names
    uses: tuple[str, ...]  #: what uses them, for people
    mounted: tuple[str, ...]  #: where
    used: float | None  #: ago; None: not known
    action: str  #: end, keep, report: what the reaper would do; "": not known
    reason: str
    when: float | None  #: until it can be ended, as things are; None: never
    lost: tuple[str, ...] = ()  #: of `disks`: in use, but the volume is there no more
    problems: tuple[str, ...] = ()  #: codes


def report(host: Host, paint: output.Paint) -> output.Report:
    """Return all sessions; status 1 when there are problems."""
    rows, failure = look(host)
    lines = _table(rows, paint) if rows else []
    if failure:
        lines += ["", f"{paint.doubtful('Not all is known')}: {failure}"]
    lines += [*([""] if lines else []), _summary(rows, paint)]
    problems = [
        {"code": code, "target": row.target, "session": row.session.sid if row.session else None}
        for row in rows
        for code in row.problems
    ]
    data = {
        "ok": not problems,
        "sessions": [_data(row) for row in rows],
        "problems": problems,
        "unknown": str(failure) if failure else None,
    }
    return output.Report(1 if problems else 0, lines, data)


def look(host: Host) -> tuple[list[Row], errors.Failure | None]:
    """Return all sessions, and why not everything is known about them, if so."""
    try:
        found = decisions.decide(host)
        sections = config_files.load(host, remember=False)
    except (errors.NotPermitted, errors.BadConfiguration) as failure:
        problems = ("bad-configuration",) if isinstance(failure, errors.BadConfiguration) else ()
        return list(_seen(host, problems)), failure
    places = Counter(_place(each.session) for each in found)
    rows = []
    for each in found:
        there = _without_copies(each.uses)
        uses = [str(use) for use in there]
        mounted = tuple(use.where for use in there if use.what == "mounted")
        ago = claims.now() - max(each.claim.looked_up, each.claim.used)
        used = 0.0 if mounted else ago if each.claim != claims.Claim() else None
        row = Row(
            each.target,
            each.session,
            each.ours,
            each.disks,
            tuple(uses),
            mounted,
            used,
            each.action,
            each.reason,
            each.when,
            each.lost,
        )
        if each.session and (each.ours or each.session.sid in each.claim.sids):
            twice = places[_place(each.session)] > 1
            row = row._replace(problems=tuple(_problems(host, row, twice, sections)))
        rows.append(row)
    return rows, None


def _seen(host: Host, problems: tuple[str, ...]) -> Iterator[Row]:
    """Yield what anybody can see of the sessions."""
    points: dict[str, list[str]] = {}
    for mount in mounts.list_all(host):
        points.setdefault(mount.number, []).append(mount.point)
    for session in sessions.list_all(host):
        there = scsi_disks.list_all(host, session)
        numbers = [host.read(f"{disk.path}/dev") or "" for disk in there]
        numbers += [
            host.read(f"{disk.path}/{part}/dev") or ""
            for disk in there
            for part in scsi_disks.list_partitions(host, disk).values()
        ]
        mounted = tuple(point for number in numbers for point in points.get(number, ()))
        yield Row(
            keys.fold(session.target),
            session,
            None,
            tuple(disk.name for disk in there),
            tuple(f"mounted at {point}" for point in mounted),
            mounted,
            None,
            "",
            "",
            None,
            (),
            problems,
        )


def _without_copies(uses: Sequence[in_use.Use]) -> list[in_use.Use]:
    """Return uses without the copies of our mounts in others' namespaces, which go with them."""
    points = {use.where for use in uses if use.what == "mounted"}
    return [
        use
        for use in uses
        if use.what != "mounted"
        or use.where.partition(" by process ")[0] == use.where
        or use.where.partition(" by process ")[0] not in points
    ]


def _place(session: sessions.Session | None) -> tuple[str, str]:
    return (keys.fold(session.target), str(session.portal)) if session else ("", "")


def _problems(
    host: Host, row: Row, twice: bool, sections: Sequence[config_files.Section]
) -> Iterator[str]:
    """Yield the codes of what is wrong with a session of ours, or that we use."""
    assert row.session
    if row.session.state == sessions.UNBOUND:  # the reaper ends it
        pass
    elif not row.session.up:
        yield "lost-in-use" if row.uses else "session-lost"
    elif not row.disks and (row.used or 0) > _SETTLED:
        yield "no-disk"
    elif row.lost or any(
        (host.read(f"/sys/block/{disk}/device/state") or "running") != "running"
        for disk in row.disks
    ):
        yield "disk-offline"
    if twice:
        yield "duplicate-session"
    try:
        idle = schema.resolve(sections, row.target).idle
    except errors.BadConfiguration:
        yield "bad-configuration"
    else:
        if row.action == decisions.END and (row.used or 0) > idle + _LATE:
            yield "reaper-late"


def _table(rows: Sequence[Row], paint: output.Paint) -> list[str]:
    """Return a line per target, below it one per session."""
    cells: list[Sequence[str]] = [("SESSION", "PORTAL", "STATE", "DISK", "LAST USED", "THE REAPER")]
    cells += [_cells(row) for row in rows]
    header, *texts = output.columns(cells, "  ")
    lines = [paint.aside("TARGET"), paint.aside(header)]
    last = ""
    for row, text in zip(rows, texts):
        if row.target != last:
            lines.append(row.target)
        last = row.target
        said = row.ours is not False or (row.reason == "not ours" and not row.uses)
        foreign = "" if said else paint.aside("  (not ours)")
        lines.append((paint.bad(text) if row.problems else text) + foreign)
        lines += [f"      {wording.printable(use)}" for use in row.uses]
        lines += [f"      {paint.bad('problem')}: {code}" for code in row.problems]
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    if row.session:
        place = (str(row.session.sid), str(row.session.portal), row.session.state)
    else:
        place = ("-", "-", "gone")
    used = (
        "in use" if row.uses else "-" if row.used is None else f"{wording.duration(row.used)} ago"
    )
    return (*place, ", ".join(row.disks) or "-", used, _says(row))


def _says(row: Row) -> str:
    """Return what the reaper would do, and when."""
    reason = row.reason if row.action == decisions.END or not row.uses else "in use"
    if row.action == decisions.END:
        return f"ends it: {reason}"
    if row.action == decisions.KEEP and row.when is not None:
        return f"ends it in {wording.duration(row.when)}: {reason}"
    return f"keeps it: {reason}" if row.action else "-"


def _summary(rows: Sequence[Row], paint: output.Paint) -> str:
    there = [row for row in rows if row.session]
    parts = [wording.counted(len(there), "session")]
    if any(row.ours is not None for row in there):
        parts.append(f"{sum(bool(row.ours) for row in there)} ours")
    parts.append(f"{sum(bool(row.mounted) for row in there)} mounted")
    found = Counter(code for row in rows for code in row.problems)
    if not found:
        return f"{', '.join(parts)}: {paint.good('no problems')}"
    said = ", ".join(f"{code} ({number})" for code, number in sorted(found.items()))
    number = paint.bad(wording.counted(sum(found.values()), "problem"))
    return f"{', '.join(parts)}: {number}: {said}. auto-iscsi explain CODE says what to do."


def _data(row: Row) -> dict[str, Any]:
    session = row.session
    return {
        "target": row.target,
        "session": session.sid if session else None,
        "portal": str(session.portal) if session else None,
        "state": session.state if session else None,
        "ours": row.ours,
        "disks": row.disks,
        "mounted": row.mounted,
        "uses": row.uses,
        "used_seconds_ago": None if row.used is None else round(row.used, 3),
        "action": row.action or None,
        "reason": row.reason or None,
        "when_seconds": None if row.when is None else round(row.when, 3),
        "problems": row.problems,
    }
