"""List the snapshots of each volume, with their times: auto-iscsi list [VOLUME[@WHEN]]."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from auto_iscsi import errors, wording
from auto_iscsi.admin import output
from auto_iscsi.disks import scsi_disks
from auto_iscsi.iscsi import discovery, sessions
from auto_iscsi.machine import mounts
from auto_iscsi.machine.host import Host
from auto_iscsi.san import catalogue, links, when

_SECTOR = 512  # bytes


class _Row(NamedTuple):
    """One snapshot."""

    entry: catalogue.Entry
    age: float  #: seconds
    size: int | None  #: bytes of its disks; None: it has no session
    mounted: tuple[str, ...]  #: the mount points


class Options(NamedTuple):
    """What to list."""

    subject: str  #: "" for all volumes, VOLUME, or VOLUME@WHEN
    since: str  #: a day, or "" for no limit
    until: str  #: likewise
    offline: bool  #: ask no portal and no SAN


def report(host: Host, options: Options, paint: output.Paint) -> output.Report:
    """Return the snapshots that are meant, the newest of each volume first.

    Raise NoSnapshot or Ambiguous when the options mean none, or more than one.
    """
    known, failures = (catalogue.read(host), []) if options.offline else catalogue.refresh(host)
    try:
        links.update(host, known)
    except errors.Failure as failure:
        failures.append(f"/snapshots is not up to date: {failure.reason}")
    entries, unnamed = list(known.entries), known.unnamed
    volume, at, asked = options.subject.partition("@")
    if volume:
        entries, unnamed = known.of_volume(volume), ()
    if at:
        entries = [when.select(entries, volume, asked, catalogue.now(entries))]
    entries = within(entries, options.since, options.until)
    rows = _rows(host, entries)
    lines = _lines(rows, unnamed, paint)
    lines += [paint.dim(wording.printable(failure)) for failure in failures]
    if not (known.entries or unnamed or failures):
        lines.append(f"  to do: {_next_step(host)}")
    data = {
        "snapshots": [_data(row) for row in rows],
        "unnamed": [{"target": each.target, "why": each.why} for each in unnamed],
        "failures": failures,
    }
    return output.Report(0, lines, data)


def within(entries: Sequence[catalogue.Entry], since: str, until: str) -> list[catalogue.Entry]:
    """Return the snapshots from the day `since` to the day `until`, both included."""
    now = catalogue.now(entries)
    first, last = (_day(option, text, now) for option, text in (("since", since), ("until", until)))
    return [
        entry
        for entry in entries
        if (first is None or entry.time.date() >= first)
        and (last is None or entry.time.date() <= last)
    ]


def _day(option: str, text: str, now: datetime) -> Any:
    day = when.parse_day(text, now) if text else None
    if text and day is None:
        raise errors.NoSnapshot(
            f"--{option} {text}: {text} is no day", "write 2010-05-03, today or monday"
        )
    return day


def _rows(host: Host, entries: Sequence[catalogue.Entry]) -> list[_Row]:
    points: dict[str, list[str]] = {}
    if any(entry.has_session for entry in entries):
        for mount in mounts.list_all(host):
            key = mount.point.rpartition("/")[2].lower()
            if mount.fstype != "autofs":
                points.setdefault(key, []).append(mount.point)
    now = catalogue.now(entries).timestamp()
    return [
        _Row(
            entry,
            now - entry.time.timestamp(),
            _size(host, entry.target) if entry.has_session else None,
            tuple(points.get(entry.key.lower(), ())),
        )
        for entry in entries
    ]


def _size(host: Host, target: str) -> int | None:
    """Return the size of a target's disks in bytes, None if they cannot be seen."""
    sizes: dict[int, int] = {}
    for session in sessions.find_all(host, target):
        for disk in scsi_disks.list_all(host, session):
            sizes[disk.san_lun] = int(host.read(f"{disk.path}/size") or 0) * _SECTOR
    return sum(sizes.values()) or None


def _lines(
    rows: Sequence[_Row], unnamed: Sequence[catalogue.Unnamed], paint: output.Paint
) -> list[str]:
    cells = [
        (
            row.entry.volume,
            row.entry.text,
            wording.duration(row.age),
            wording.size(row.size) if row.size else "-",
            _state(row),
            row.entry.key,
        )
        for row in rows
    ]
    header = ("VOLUME", "TIME", "AGE", "SIZE", "STATE", "KEY")
    lines = output.table(header, cells, paint) if cells else []
    volumes = len({row.entry.volume for row in rows})
    lines.append(
        f"{wording.counted(len(rows), 'snapshot')} of {wording.counted(volumes, 'volume')}"
    )
    if unnamed:
        lines += ["", paint.dim("Without a volume and a time, so not in the list:")]
        lines += [f"  {each.target}: {wording.printable(each.why)}" for each in unnamed]
    return lines


def _next_step(host: Host) -> str:
    """Say what a host lacks that knows no target."""
    if catalogue.asks_anybody(host):
        return f"present a snapshot to this host at the SAN: it is {discovery.initiator_name(host)}"
    return discovery.KNOW_IT


def _state(row: _Row) -> str:
    if row.mounted:
        return "mounted"
    if row.entry.has_session:
        return "session"
    if row.entry.san:
        return "presented" if row.entry.is_presented else "at the SAN"
    return "gone" if row.entry.is_gone else "-"


def _data(row: _Row) -> dict[str, Any]:
    """Return a row for --json, in the form that auto-iscsi(8) documents."""
    return {
        "volume": row.entry.volume,
        "time": row.entry.time.isoformat(),
        "age_seconds": round(row.age),
        "key": row.entry.key,
        "target": row.entry.target or None,
        "san": row.entry.san or None,
        "presented": row.entry.is_presented,
        "size": row.size,
        "session": row.entry.has_session,
        "gone": row.entry.is_gone,
        "mounted": row.mounted,
        "template": row.entry.template,
    }
