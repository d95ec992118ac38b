"""What holds for a key, which line said so, and what would a lookup do now?

Nothing is changed: no socket is opened, no process started, no file written. Settings, sessions
and disks are found by what the lookup itself uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from auto_iscsi import (
    claims,
    config,
    discovery,
    disks,
    errors,
    keys,
    layout,
    mapentry,
    mounts,
    multipath,
    nodes,
    output,
    sessions,
    settings,
    survey,
)
from auto_iscsi.host import Host

OUTCOMES = {
    "answer": "prints the entry at once",
    "mounted": "prints the entry of what is mounted: its session is down",
    "rescan": "has the kernel look for the disk anew, and waits for it up to udev_timeout",
    "login": "logs in, waits for the disk up to udev_timeout, and prints the entry",
    "discover": "asks the portals for the target, makes a record, and logs in",
    "refuse": "refuses the key",
    "unknown": "goes by the node records, which only root can read: run this as root",
}


class Finding(NamedTuple):
    """What a lookup would do, and what it would see on the way."""

    outcome: str  #: of OUTCOMES
    steps: list[tuple[str, str]]  #: what was looked at, and what was there
    entry: str = ""
    failure: errors.Failure | None = None


def table(paint: output.Paint) -> output.Report:
    """Return every setting there is."""
    rows = [("setting", "default", "values", "meaning")]
    rows += [(n, s.said(s.default) or "-", s.values, s.help) for n, s in settings.TABLE.items()]
    first, *others = output.columns(rows)
    data = {
        name: {
            "default": row.said(row.default), "values": row.values, "help": row.help,
            "example": row.example,
        }
        for name, row in settings.TABLE.items()
    }  # fmt: skip
    return output.Report(0, [paint.aside(first), *others], data)


def report(host: Host, text: str, paint: output.Paint) -> output.Report:
    """Return everything about the key `text`; status 1 when a lookup would refuse it."""
    target, chosen = "", {}
    try:
        target = keys.parse(text).target
        chosen = settings.choices(config.load(host, remember=False), target)
        finding = _found(host, target, chosen)
    except errors.Failure as failure:
        finding = Finding("refuse", [], failure=failure)
    lines = [output.printable(text)]
    if chosen:
        rows = [
            (name, f"= {settings.TABLE[name].said(choice.value)}", _source(name, choice))
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


def _source(name: str, choice: settings.Choice) -> str:
    title = choice.section.title if choice.section else ""
    return f"{choice.where(name)}  [{title}]" if title else choice.where(name)


def _data(
    text: str, target: str, chosen: dict[str, settings.Choice], finding: Finding
) -> dict[str, Any]:
    failure = finding.failure
    return {
        "key": text,
        "target": target or None,
        "settings": {
            name: {
                "value": settings.TABLE[name].said(choice.value),
                "file": choice.section.file if choice.section else None,
                "line": choice.section.lines[name] if choice.section else None,
                "section": choice.section.title if choice.section else None,
            }
            for name, choice in chosen.items()
        },
        "steps": [{"step": step, "says": says} for step, says in finding.steps],
        "outcome": finding.outcome,
        "entry": finding.entry or None,
        "refused": failure and {
            "code": failure.code, "reason": failure.reason, "hint": failure.hint,
        },
    }  # fmt: skip


def _found(host: Host, target: str, chosen: dict[str, settings.Choice]) -> Finding:
    """Return what a lookup would do with a target, by what the machine looks like now."""
    wanted = settings.together(chosen)
    if not wanted.enabled:
        where = chosen["enabled"].where("enabled")
        return Finding("refuse", [], failure=errors.Disabled(f"{target}: enabled = no, {where}"))
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
    try:
        found = _present(host, target, wanted, up)
        found = found and layout.journaled(host, target, found, wanted, act=False)
    except errors.Failure as failure:
        return Finding("refuse", steps, failure=failure)
    if found:
        steps += _reasons(found, chosen)
        return Finding("answer", steps, mapentry.of(found, wanted))
    found = layout.still_mounted(host, known, mounts.list_all(host), wanted)
    if found:
        steps += _reasons(found, chosen)
        return Finding("mounted", steps, mapentry.of(found, wanted))
    if up:
        steps.append(("chosen", _missing(host, up, wanted, chosen)))
        return Finding("rescan", steps)
    if records is None:
        return Finding("unknown", steps)
    if records or known:
        return Finding("login", steps)
    if wanted.portals:
        return Finding("discover", steps)
    return Finding("refuse", steps, failure=discovery.no_record(target))


def _present(
    host: Host, target: str, wanted: settings.Settings, up: Sequence[sessions.Session]
) -> mapentry.Layout | None:
    try:
        return layout.present(host, target, wanted)[0]
    except errors.NotPermitted:  # not root: without the lease's hint at a session
        return layout.find(host, up, wanted)


def _records(
    host: Host, target: str, wanted: settings.Settings, steps: list[tuple[str, str]]
) -> list[nodes.Record] | None:
    """Note the node records, in the order in which they are tried; None: only root can see them."""
    try:
        found = discovery.in_order(nodes.find_all(host, target), wanted)
        for record in found:
            startup = nodes.values(host, record).get("node.startup", "?")
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
    host: Host, session: sessions.Session, wanted: settings.Settings, steps: list[tuple[str, str]]
) -> None:
    found = disks.list_all(host, session)
    for disk in found:
        held = multipath.holder(host, disk.path)
        numbered = {n: device.node for n, device in disks.devices(host, disk).items() if n}
        there = ", ".join(f"{number} ({name})" for number, name in sorted(numbered.items()))
        joined = f", in the multipath map {held}" if held else ""
        steps.append(("disk", f"{disk.name}, LUN {disk.unit}, session {session.sid}{joined}"))
        steps.append(("partitions", there or "none"))
        steps += survey.rows(host, disk, wanted) if session.up else []
    if not found:
        steps.append(("disk", f"none, session {session.sid}"))


def _reasons(
    found: mapentry.Layout, chosen: dict[str, settings.Choice]
) -> list[tuple[str, str]]:
    """Say which lines made it this, and what was left out of it."""
    reasons = [
        f"{name} = {settings.TABLE[name].said(chosen[name].value)} ({chosen[name].where(name)})"
        for name in ("lun", "partition", "device")
    ]
    nodes = ", ".join(part.device.node for part in found.parts)
    notes = [("note", note) for note in found.notes]
    return [("chosen", f"{nodes}: {', '.join(reasons)}"), *notes]


def _missing(
    host: Host,
    up: Sequence[sessions.Session],
    wanted: settings.Settings,
    chosen: dict[str, settings.Choice],
) -> str:
    """Say what the lookup would wait for."""
    found = disks.candidates(host, up, wanted)
    if not found:
        part = f", partition {wanted.partition}" if wanted.partition else ""
        return f"nothing yet: no LUN {wanted.lun}{part} ({chosen['lun'].where('lun')})"
    link = found[0].place
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
