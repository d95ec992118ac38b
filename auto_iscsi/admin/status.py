"""Report the iSCSI sessions of this host: what uses each one, and what the reaper would do.

The reaper's decisions come from the reaper's own module (decisions). Nothing is changed. What could
hang has a deadline: opening disks, asking them for their identity and whether they can be read.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from auto_iscsi import errors, keys, wording
from auto_iscsi.admin import output, san_report
from auto_iscsi.config import config_files, schema
from auto_iscsi.disks import in_use, our_devices, readiness, scsi_disks, twins
from auto_iscsi.iscsi import claims, node_records, sessions
from auto_iscsi.machine import mounts
from auto_iscsi.machine.host import Host
from auto_iscsi.reaper import decisions
from auto_iscsi.volumes import overlay

_DISK_TIME = 60.0  # seconds after a lookup in which a missing disk may still appear
_STORE_TIME = 5.0  # seconds in which device-mapper has to say how large the overlays are
_LATE = 3600.0  # seconds by which the reaper may be late
_AT_ONCE = 64  # disks that are asked at the same time
_NOT_READY = "disk-not-ready"

#: The codes of what can be wrong with a session that lookups use; see codes.
PROBLEMS = (
    "session-lost",
    "lost-in-use",
    "no-disk",
    "disk-offline",
    _NOT_READY,
    "duplicate-session",
    "twin-volumes",
    "reaper-late",
    "not-revoked",
    "bad-configuration",
)


class Made(NamedTuple):
    """A device-mapper device that a lookup made on a session's disks."""

    name: str
    kind: str  #: see our_devices.kind()
    store: int | None  #: of an overlay, the bytes that its store takes; None: not known


class Row(NamedTuple):
    """One session, or a claim or mount whose session is gone. Times are in seconds."""

    target: str  #: folded
    session: sessions.Session | None  #: None: the session is gone
    ours: bool | None  #: whether a lookup opened it; None: not known without root
    disks: tuple[str, ...]  #: the kernel's names
    uses: tuple[str, ...]  #: what uses the disks, in words
    mounted: tuple[str, ...]  #: the mount points
    used: float | None = None  #: how long ago it was last used; None: not known
    action: str = ""  #: what the reaper would do: decisions.END, KEEP or REPORT; "": not known
    reason: str = ""
    when: float | None = None  #: how long until it can be ended, as things are; None: never
    lost: tuple[str, ...] = ()  #: those of `disks` that are in use although their volume is gone
    not_ready: tuple[str, ...] = ()  #: those of `disks` that cannot be read, each with the reason
    unreadable: bool = False  #: one of these cannot be read through any other session either
    made: tuple[Made, ...] = ()  #: our devices on `disks`
    twins: tuple[str, ...] = ()  #: other volumes that multipathd takes for one of `disks`, in words
    problems: tuple[str, ...] = ()  #: of PROBLEMS


def report(host: Host, paint: output.Paint) -> output.Report:
    """Return all sessions; status 1 if there are problems."""
    rows, failure = list_rows(host)
    lines = _table(rows, paint) if rows else []
    presented = san_report.presented(host, paint)
    lines += [*([""] if lines else []), *presented.lines] if presented.lines else []
    if failure:
        lines += ["", f"{paint.warning('Some information is missing')}: {failure}"]
    lines += [*([""] if lines else []), _summary(rows, paint)]
    problems = [
        {"code": code, "target": row.target, "session": row.session.sid if row.session else None}
        for row in rows
        for code in row.problems
    ]
    problems += [
        {"code": "not-revoked", "target": target, "session": None}
        for target in presented.data["not_revoked"]
    ]
    data = {
        "ok": not problems,
        "sessions": [_data(row) for row in rows],
        "presented": presented.data["leases"],
        "problems": problems,
        "unknown": str(failure) if failure else None,
    }
    return output.Report(1 if problems else 0, lines, data)


def list_rows(host: Host) -> tuple[list[Row], errors.Failure | None]:
    """Return all sessions, and the reason if some information about them is missing."""
    try:
        made = decisions.decide(host)
        sections = config_files.load(host, remember=False)
    except errors.NotPermitted as failure:
        return list(_visible_rows(host, ())), failure
    except errors.BadConfiguration as failure:
        return list(_visible_rows(host, (failure.code,))), failure
    present = [decision.session for decision in made if decision.session]
    per_path = Counter(_path(host, session) for session in present)
    rows = [_row(decision) for decision in made]
    used = [d.ours or (d.session is not None and d.session.sid in d.claim.sids) for d in made]
    all_twins = twins.find_all(host)
    rows = [row._replace(twins=twins.describe_all(host, all_twins, row.session)) for row in rows]
    rows = _with_devices(host, _with_reasons(host, rows, used))
    for index, row in enumerate(rows):
        if row.session and used[index]:
            is_duplicate = _is_duplicate(host, row.session, per_path)
            problems = tuple(_find_problems(host, row, row.session, is_duplicate, sections))
            rows[index] = row._replace(problems=problems)
        elif not row.session and row.mounted:
            rows[index] = row._replace(problems=("lost-in-use",))
    return rows, None


def _with_devices(host: Host, rows: Sequence[Row]) -> list[Row]:
    """Add to each row our devices on its disks, and how many bytes the store of each takes."""
    per_row = [
        {
            node
            for disk in row.disks
            for node in our_devices.list_of_disk(host, f"/sys/block/{disk}")
        }
        for row in rows
    ]
    kinds = {node: our_devices.kind(host, node) for node in set().union(*per_row)}
    sizes: dict[str, int] = {}
    if our_devices.OVERLAY in kinds.values():
        with contextlib.suppress(errors.BrokenInstallation):  # dmsetup is not installed any more
            sizes = overlay.store_sizes(host, time.monotonic() + _STORE_TIME)
    names = {node: our_devices.name(host, node) for node in kinds}
    return [
        row._replace(
            made=tuple(
                sorted(Made(names[node], kinds[node], sizes.get(names[node])) for node in nodes)
            )
        )
        for row, nodes in zip(rows, per_row)
    ]


def _with_reasons(host: Host, rows: Sequence[Row], used: Sequence[bool]) -> list[Row]:
    """Add to the rows of sessions that lookups use why a disk of them cannot be read.

    A disk has five seconds to answer. One that cannot be asked, or does not answer, has no reason.
    """

    def reason(disk: str) -> str:
        if not host.names(f"/sys/block/{disk}/device/scsi_generic"):
            return ""
        return readiness.why_not_ready(host, disk) or ""

    asked = [
        (disk, (row.target, (host.link(f"/sys/block/{disk}/device") or "").rpartition(":")[2]))
        for row, is_used in zip(rows, used)
        if is_used and row.session and row.session.up
        for disk in row.disks
    ]
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        whys = dict(zip(dict(asked), pool.map(reason, dict(asked))))
    readable = {unit for disk, unit in asked if not whys[disk]}
    unread = {disk for disk, unit in asked if unit not in readable}
    return [
        row._replace(
            not_ready=tuple(f"{disk}: {whys[disk]}" for disk in row.disks if whys.get(disk)),
            unreadable=any(disk in unread for disk in row.disks),
        )
        for row in rows
    ]


def _row(decision: decisions.Decision) -> Row:
    """Return a decision as a row, still without problems."""
    uses = _without_copies(decision.uses)
    mounted = tuple(use.where for use in uses if use.what == "mounted")
    claim = decision.claim
    used = claims.now() - claim.last_used if claim != claims.Claim() else None
    return Row(
        decision.target,
        decision.session,
        decision.ours,
        decision.disks,
        uses=tuple(map(str, uses)),
        mounted=mounted,
        used=0.0 if mounted else used,
        action=decision.action,
        reason=decision.reason,
        when=decision.when,
        lost=decision.lost,
    )


def _visible_rows(host: Host, problems: tuple[str, ...]) -> Iterator[Row]:
    """Yield what any user can see of the sessions, each with `problems`."""
    points: dict[str, list[str]] = {}
    for mount in mounts.list_all(host):
        points.setdefault(mount.number, []).append(mount.point)
    for session in sessions.list_all(host):
        disks = scsi_disks.list_all(host, session)
        folders = [disk.path for disk in disks]
        for disk in disks:
            nodes = scsi_disks.list_partitions(host, disk).values()
            folders += [f"{disk.path}/{node}" for node in nodes]
        numbers = [host.read(f"{folder}/dev") or "" for folder in folders]
        mounted = tuple(point for number in numbers for point in points.get(number, ()))
        yield Row(
            keys.fold(session.target),
            session,
            ours=None,
            disks=tuple(disk.name for disk in disks),
            uses=tuple(f"mounted at {point}" for point in mounted),
            mounted=mounted,
            problems=problems,
        )


def _without_copies(uses: Sequence[in_use.Use]) -> list[in_use.Use]:
    """Return uses without the copies of a mount of ours in other mount namespaces.

    Such a copy disappears together with our mount.
    """
    points = {use.where for use in uses if use.what == "mounted"}

    def is_copy(use: in_use.Use) -> bool:
        point, by_process, _ = use.where.partition(" by process ")
        return use.what == "mounted" and bool(by_process) and point in points

    return [use for use in uses if not is_copy(use)]


def _path(host: Host, session: sessions.Session) -> tuple[str, ...]:
    """Return target, portal, interface and initiator name of a session."""
    initiator = sessions.initiator(host, session)
    return (keys.fold(session.target), str(session.portal), *initiator)


def _is_duplicate(
    host: Host, session: sessions.Session, per_path: Counter[tuple[str, ...]]
) -> bool:
    """Tell whether there are more sessions on the path of a session than open-iscsi is to open."""
    target, _, interface, _ = path = _path(host, session)
    count = per_path[path]
    return count > 1 and count > node_records.configured_sessions(
        host, target, session.portal, interface
    )


def _find_problems(
    host: Host,
    row: Row,
    session: sessions.Session,
    is_duplicate: bool,
    sections: Sequence[config_files.Section],
) -> Iterator[str]:
    """Yield the codes of what is wrong with a session that lookups use."""
    used = row.used or 0
    if session.state == sessions.UNBOUND:  # no problem: the reaper ends it
        pass
    elif not session.up:
        yield "lost-in-use" if row.uses else "session-lost"
    elif not row.disks and used > _DISK_TIME:
        yield "no-disk"
    elif row.lost or any(not _is_running(host, disk) for disk in row.disks):
        yield "disk-offline"
    elif row.unreadable:
        yield _NOT_READY
    if is_duplicate:
        yield "duplicate-session"
    if row.twins:
        yield "twin-volumes"
    try:
        idle = schema.resolve(sections, row.target).idle
    except errors.BadConfiguration as failure:
        yield failure.code
    else:
        if row.action == decisions.END and used > idle + _LATE:
            yield "reaper-late"


def _is_running(host: Host, disk: str) -> bool:
    """Return whether the kernel sends commands to a disk, that is, has not taken it offline."""
    return (host.read(f"/sys/block/{disk}/device/state") or "running") == "running"


def _table(rows: Sequence[Row], paint: output.Paint) -> list[str]:
    """Return a line for each target, and below it a line for each of its sessions."""
    names = ("SESSION", "PORTAL", "STATE", "DISK", "LAST USED", "THE REAPER")
    header, *texts = output.columns([names, *map(_cells, rows)], "  ")
    lines = [paint.dim("TARGET"), paint.dim(header)]
    last_target = ""
    for row, text in zip(rows, texts):
        if row.target != last_target:
            lines.append(row.target)
        last_target = row.target
        is_foreign = row.ours is False and (row.reason != "not ours" or row.uses)
        mark = paint.dim("  (not ours)") if is_foreign else ""
        lines.append((paint.error(text) if row.problems else text) + mark)
        details = (*row.uses, *map(_device, row.made), *row.not_ready, *row.twins)
        lines += [f"      {wording.printable(detail)}" for detail in details]
        lines += [f"      {paint.error('problem')}: {code}" for code in row.problems]
    return lines


def _device(made: Made) -> str:
    size = "" if made.store is None else f": {wording.size(made.store)}"
    return f"{made.kind} {made.name}{size}"


def _cells(row: Row) -> tuple[str, ...]:
    if row.session:
        cells = (str(row.session.sid), str(row.session.portal), row.session.state)
    else:
        cells = ("-", "-", "gone")
    reaper = wording.printable(_reaper(row))  # it can name a process, which names itself
    return (*cells, ", ".join(row.disks) or "-", _last_used(row), reaper)


def _last_used(row: Row) -> str:
    if row.uses:
        return "in use"
    return "-" if row.used is None else f"{wording.duration(row.used)} ago"


def _reaper(row: Row) -> str:
    """Return what the reaper would do, when and why."""
    if row.action == decisions.END:
        return f"ends it: {row.reason}"
    reason = "in use" if row.uses else row.reason  # the uses are on lines of their own
    if row.action == decisions.KEEP and row.when is not None:
        return f"ends it in {wording.duration(row.when)}: {reason}"
    return f"keeps it: {reason}" if row.action else "-"


def _summary(rows: Sequence[Row], paint: output.Paint) -> str:
    present = [row for row in rows if row.session]
    parts = [wording.counted(len(present), "session")]
    if any(row.ours is not None for row in present):
        parts.append(f"{sum(bool(row.ours) for row in present)} ours")
    parts.append(f"{sum(bool(row.mounted) for row in present)} mounted")
    codes = Counter(code for row in rows for code in row.problems)
    if not codes:
        return f"{', '.join(parts)}: {paint.ok('no problems')}"
    number = paint.error(wording.counted(sum(codes.values()), "problem"))
    listed = ", ".join(f"{code} ({count})" for code, count in sorted(codes.items()))
    return f"{', '.join(parts)}: {number}: {listed}. auto-iscsi explain CODE says what to do."


def _data(row: Row) -> dict[str, Any]:
    """Return a row for --json, in the form that auto-iscsi(8) documents."""
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
        "twins": row.twins,
        "devices": [{"name": made.name, "kind": made.kind} for made in row.made],
        "overlays": [
            {"name": made.name, "bytes": made.store}
            for made in row.made
            if made.kind == our_devices.OVERLAY
        ],
        "used_seconds_ago": None if row.used is None else round(row.used, 3),
        "action": row.action or None,
        "reason": row.reason or None,
        "when_seconds": None if row.when is None else round(row.when, 3),
        "not_ready": row.not_ready,
        "problems": row.problems,
    }
