"""What holds for a key, which line said so, and what would a lookup do now?

Nothing is changed: no socket is opened, no process started, no file written. Settings, sessions
and disks are found by what the lookup itself uses.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from auto_iscsi import errors, keys, wording
from auto_iscsi.admin import disk_report, output
from auto_iscsi.config import config_files, schema
from auto_iscsi.disks import multipath, scsi_disks
from auto_iscsi.iscsi import claims, discovery, node_records, sessions
from auto_iscsi.machine.host import Host
from auto_iscsi.map import available, entry, verification
from auto_iscsi.map.request import Request
from auto_iscsi.volumes import journal, mountable

OUTCOMES = {
    "answer": "prints the entry at once",
    "mounted": "prints the entry of what is mounted: its session is down",
    "rescan": "has the kernel look for the disk anew, and waits for it up to udev_timeout",
    "login": "logs in, waits for the disk up to udev_timeout, and prints the entry",
    "discover": "asks the portals for the target, makes a record, and logs in",
    "refuse": "refuses the key",
    "unknown": "goes by the node records, which only root can read: run this as root",
}


class Explanation(NamedTuple):
    """What a lookup would do, and what it would see on the way."""

    outcome: str  #: of OUTCOMES
    steps: list[tuple[str, str]]  #: what was looked at, and what was there
    entry: str = ""
    failure: errors.Failure | None = None


def table(paint: output.Paint) -> output.Report:
    """Return every setting there is."""
    rows = [("setting", "default", "values", "meaning")]
    rows += [(n, s.said(s.default) or "-", s.values, s.help) for n, s in schema.TABLE.items()]
    first, *others = output.columns(rows)
    data = {
        name: {
            "default": row.said(row.default),
            "values": row.values,
            "help": row.help,
            "example": row.example,
        }
        for name, row in schema.TABLE.items()
    }
    return output.Report(0, [paint.aside(first), *others], data)


def report(host: Host, text: str, paint: output.Paint) -> output.Report:
    """Return everything about the key `text`; status 1 when a lookup would refuse it."""
    target, chosen = "", {}
    try:
        target = keys.parse(text).target
        chosen = schema.effective_values(config_files.load(host, remember=False), target)
        finding = _found(host, target, chosen)
    except errors.Failure as failure:
        finding = Explanation("refuse", [], failure=failure)
    lines = [wording.printable(text)]
    if chosen:
        rows = [
            (name, f"= {schema.TABLE[name].said(choice.value)}", _source(name, choice))
            for name, choice in chosen.items()
        ]
        lines += ["", *output.columns(rows, "  "), ""]
    if finding.steps:
        lines += [*output.columns(finding.steps, "  "), ""]
    if finding.failure:
        refuses = f"{paint.bad('refuses')} it ({finding.failure.code})"
        lines.append(f"A lookup {refuses}: {finding.failure.reason}")
        if finding.failure.hint:
            lines.append(f"To do: {finding.failure.hint}")
    else:
        lines.append(f"A lookup {paint.good(OUTCOMES[finding.outcome])}")
        if finding.entry:
            lines.append(finding.entry)
    return output.Report(1 if finding.failure else 0, lines, _data(text, target, chosen, finding))


def _source(name: str, choice: schema.Effective) -> str:
    title = choice.section.title if choice.section else ""
    return f"{choice.where(name)}  [{title}]" if title else choice.where(name)


def _data(
    text: str, target: str, chosen: dict[str, schema.Effective], finding: Explanation
) -> dict[str, Any]:
    failure = finding.failure
    return {
        "key": text,
        "target": target or None,
        "settings": {
            name: {
                "value": schema.TABLE[name].said(choice.value),
                "file": choice.section.file if choice.section else None,
                "line": choice.section.lines[name] if choice.section else None,
                "section": choice.section.title if choice.section else None,
            }
            for name, choice in chosen.items()
        },
        "steps": [{"step": step, "says": says} for step, says in finding.steps],
        "outcome": finding.outcome,
        "entry": finding.entry or None,
        "refused": failure
        and {
            "code": failure.code,
            "reason": failure.reason,
            "hint": failure.hint,
        },
    }


def _found(host: Host, target: str, chosen: dict[str, schema.Effective]) -> Explanation:
    """Return what a lookup would do with a target, by what the machine looks like now."""
    wanted = schema.to_settings(chosen)
    if not wanted.enabled:
        where = chosen["enabled"].where("enabled")
        return Explanation(
            "refuse", [], failure=errors.Disabled(f"{target}: enabled = no, {where}")
        )
    steps: list[tuple[str, str]] = []
    records = _records(host, target, wanted, steps)
    known = sessions.find_all(host, target)
    for session in known:
        steps.append(("session", f"{session.sid} through {session.portal}, {session.state}"))
    if not known:
        steps.append(("session", "none"))
    up = [session for session in known if session.up]
    for session in up or known:
        _disks(host, session, wanted, steps)
    steps.append(("lease", _lease(host, target)))
    request = _request(host, target, wanted)
    try:
        found = available.through_sessions(request).mountable
        found = found and verification.allow_by_journal(request, found, act=False)
    except errors.Failure as failure:
        return Explanation("refuse", steps, failure=failure)
    if found:
        steps += _reasons(found, chosen)
        return Explanation("answer", steps, entry.format_entry(found, wanted))
    found = available.without_session(request)
    if found:
        steps += _reasons(found, chosen)
        return Explanation("mounted", steps, entry.format_entry(found, wanted))
    if up:
        steps.append(("chosen", _missing(host, up, wanted, chosen)))
        return Explanation("rescan", steps)
    if records is None:
        return Explanation("unknown", steps)
    if records or known:
        return Explanation("login", steps)
    if wanted.portals:
        return Explanation("discover", steps)
    return Explanation("refuse", steps, failure=discovery.no_record(target))


def _request(host: Host, target: str, settings: schema.Settings) -> Request:
    """Return what a lookup of the target would work for; without root, without the claim."""
    try:
        claim = claims.read(host, target)
    except errors.NotPermitted:
        claim = claims.Claim()
    until = time.monotonic() + journal.READ_SECONDS
    return Request(host, keys.Key(target, target), settings, until, claim)


def _records(
    host: Host, target: str, wanted: schema.Settings, steps: list[tuple[str, str]]
) -> list[node_records.Record] | None:
    """Note the node records, in the order in which they are tried; None: only root can see them."""
    try:
        found = discovery.configured_first(node_records.find_all(host, target), wanted)
        for record in found:
            startup = node_records.values(host, record).get("node.startup", "?")
            place = f"{record.portal.with_group}, startup {startup}, {record.path}"
            steps.append(("record", place))
    except errors.NotPermitted as failure:
        steps.append(("record", f"not known: {failure.reason}"))
        return None
    if not found:
        asked = ", ".join(map(str, wanted.portals)) or "no portals are configured"
        steps.append(("record", f"none; to be asked: {asked}"))
    return found


def _disks(
    host: Host, session: sessions.Session, wanted: schema.Settings, steps: list[tuple[str, str]]
) -> None:
    found = scsi_disks.list_all(host, session)
    for disk in found:
        held = multipath.map_of(host, disk.path)
        numbered = {
            n: device.node for n, device in scsi_disks.list_devices(host, disk).items() if n
        }
        there = ", ".join(f"{number} ({name})" for number, name in sorted(numbered.items()))
        joined = f", in the multipath map {held}" if held else ""
        steps.append(("disk", f"{disk.name}, LUN {disk.san_lun}, session {session.sid}{joined}"))
        steps.append(("partitions", there or "none"))
        steps += disk_report.rows(host, disk, wanted) if session.up else []
    if not found:
        steps.append(("disk", f"none, session {session.sid}"))


def _reasons(
    found: mountable.Mountable, chosen: dict[str, schema.Effective]
) -> list[tuple[str, str]]:
    """Say which lines made it this, and what was left out of it."""
    reasons = [
        f"{name} = {schema.TABLE[name].said(chosen[name].value)} ({chosen[name].where(name)})"
        for name in ("lun", "partition", "device")
    ]
    nodes = ", ".join(part.device.node for part in found.filesystems)
    notes = [("note", note) for note in found.notes]
    return [("chosen", f"{nodes}: {', '.join(reasons)}"), *notes]


def _missing(
    host: Host,
    up: Sequence[sessions.Session],
    wanted: schema.Settings,
    chosen: dict[str, schema.Effective],
) -> str:
    """Say what the lookup would wait for."""
    found = scsi_disks.matching_devices(host, up, wanted)
    if not found:
        part = f", partition {wanted.partition}" if wanted.partition else ""
        return f"nothing yet: no LUN {wanted.lun}{part} ({chosen['lun'].where('lun')})"
    link = found[0].link_path
    leads = host.link(link)
    return f"nothing yet: {link} " + (f"leads to {leads}" if leads else "is not there")


def _lease(host: Host, target: str) -> str:
    try:
        claim = claims.read(host, target)
    except errors.NotPermitted as failure:
        return f"not known: {failure.reason}"
    if claim == claims.Claim():
        return "none"
    ago = max(0, claims.age(claim))
    numbers = ", ".join(map(str, claim.sids))
    session = f"session {numbers}" if numbers else "a login that was not seen to its end"
    return f"{session}, {'ours' if claim.ours else 'not ours'}, looked up {ago:.0f} s ago"
