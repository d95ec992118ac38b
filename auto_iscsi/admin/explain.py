"""Explain a key: its settings, the line that sets each one, and what a lookup would do now.

Nothing is changed: no login, no discovery, no file is written. Disks of existing sessions are read
where a lookup would read them, by child processes with a deadline. Settings, sessions and disks are
found by the functions that the lookup uses, so that both always agree.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from auto_iscsi import errors, keys, wording
from auto_iscsi.admin import disk_report, layers, output, stack_report
from auto_iscsi.config import config_files, schema
from auto_iscsi.config.settings import Settings
from auto_iscsi.disks import multipath, scsi_disks
from auto_iscsi.iscsi import claims, discovery, node_records, sessions
from auto_iscsi.iscsi.sessions import Session
from auto_iscsi.machine.host import Host
from auto_iscsi.map import available, entry, other_targets, verification
from auto_iscsi.map.request import Request
from auto_iscsi.san import catalogue, names, when
from auto_iscsi.volumes import journal
from auto_iscsi.volumes.mountable import Mountable

OUTCOMES = {
    "answer": "prints the map entry at once",
    "mounted": "prints the map entry of the mounted filesystem, although its session is down",
    "map": "maps what is not mapped yet, and prints the map entry",
    "rescan": "has the kernel scan for the disk, and waits for it up to udev_timeout",
    "login": "logs in, waits for the disk up to udev_timeout, and prints the map entry",
    "discover": "discovers the target at the portals, makes a node record, and logs in",
    "refuse": "refuses the key",
    "unknown": "depends on the node records, which only root can read: run this command as root",
}


class Step(NamedTuple):
    """A fact that the lookup would find, as a line of the report."""

    label: str  #: record, session, disk, ...
    text: str


class Explanation(NamedTuple):
    """What a lookup would do, and the facts on which that depends."""

    outcome: str  #: one of OUTCOMES
    steps: list[Step]
    entry: str = ""  #: the map entry, if it is known now
    failure: errors.Failure | None = None  #: why the key is refused
    stack: tuple[stack_report.Node, ...] = ()  #: the LUNs of sessions that are up


class _Situation(NamedTuple):
    """The settings of a target, and its records, sessions and claim as they are now."""

    host: Host
    target: str  #: folded
    effective: dict[str, schema.Effective]
    settings: Settings
    #: with node.startup, in the order in which they are tried
    records: list[tuple[node_records.Record, str]] | errors.NotPermitted
    sessions: list[Session]
    claim: claims.Claim | errors.NotPermitted

    @property
    def up(self) -> list[Session]:
        """The sessions that are logged in."""
        return [session for session in self.sessions if session.up]

    @property
    def request(self) -> Request:
        """What a lookup would work for; if the claim cannot be read, as without a claim."""
        claim = self.claim if isinstance(self.claim, claims.Claim) else claims.Claim()
        until = time.monotonic() + journal.READ_SECONDS
        key = keys.Key(self.target, self.target)
        return Request(self.host, key, self.settings, until, claim)


def report(host: Host, text: str, paint: output.Paint) -> output.Report:
    """Return the explanation of the key `text`; status 1 if a lookup would refuse it.

    VOLUME@WHEN means the target of that snapshot; raise Failure where it has none, or is not known.
    """
    if "@" in text:
        text = _target_of(host, text)
    target, effective = "", {}
    try:
        target = keys.parse(text).target
        effective = schema.effective_values(config_files.load(host, remember=False), target)
        explanation = _explain(host, target, effective)
    except errors.Failure as failure:
        explanation = Explanation("refuse", [], failure=_with_list(host, text, failure))
    lines = [wording.printable(text), *_setting_lines(effective)]
    if explanation.steps:
        reasons = {node.why for node in explanation.stack}  # of disks that cannot be read
        steps = [s for s in explanation.steps if s.label != "contents" or s.text in reasons]
        lines += [*map(wording.printable, output.columns(steps, "  ")), ""]
    if explanation.stack:
        lines += [*stack_report.draw(explanation.stack, paint), ""]
    lines += _outcome_lines(explanation, paint)
    data = _data(text, target, effective, explanation)
    return output.Report(1 if explanation.failure else 0, lines, data)


def _target_of(host: Host, text: str) -> str:
    """Return the target of the snapshot VOLUME@WHEN; raise Failure. Nobody is asked."""
    volume, _, at = text.partition("@")
    known = catalogue.read(host).of_volume(volume)
    entry = when.select(known, volume, at, catalogue.now(known))
    if not entry.target:
        raise errors.Failure(
            f"{text} is a snapshot at a SAN: it has no settings until it is presented",
            f"auto-iscsi explain {entry.san} shows the SAN's settings",
        )
    return entry.target


def _with_list(host: Host, text: str, failure: errors.Failure) -> errors.Failure:
    """Return a failure; for the name of a volume, with the command that lists its keys."""
    with contextlib.suppress(errors.Failure):
        if failure.code == "bad-key" and text.lower() in catalogue.read(host).volumes:
            hint = f"{text} is a volume: auto-iscsi list {text} shows the keys of its snapshots"
            return errors.BadKey(failure.reason, hint)
    return failure


def _explain(host: Host, target: str, effective: dict[str, schema.Effective]) -> Explanation:
    settings = schema.to_settings(effective)
    if not settings.enabled:
        where = effective["enabled"].where("enabled")
        failure = errors.Disabled(f"{target}: enabled = no, {where}")
        return Explanation("refuse", [], failure=failure)
    situation = _look(host, target, effective, settings)
    disk_steps, contents = _read_disks(situation)
    steps = [
        *_name_steps(situation),
        *_record_steps(situation),
        *_session_steps(situation),
        *disk_steps,
        Step("lease", _lease(situation.claim)),
    ]
    return _predict(situation, steps, contents)


def _look(
    host: Host, target: str, effective: dict[str, schema.Effective], settings: Settings
) -> _Situation:
    """Read the target's node records, sessions and claim, as far as this user may."""
    records: list[tuple[node_records.Record, str]] | errors.NotPermitted
    try:
        ordered = discovery.configured_first(node_records.find_all(host, target), settings)
        records = [
            (record, node_records.values(host, record).get("node.startup", "?"))
            for record in ordered
        ]
    except errors.NotPermitted as failure:
        records = failure
    claim: claims.Claim | errors.NotPermitted
    try:
        claim = claims.read(host, target)
    except errors.NotPermitted as failure:
        claim = failure
    target_sessions = sessions.find_all(host, target)
    return _Situation(host, target, effective, settings, records, target_sessions, claim)


def _name_steps(situation: _Situation) -> list[Step]:
    """Say which snapshot the target is by its name, and which template says so."""
    settings, effective = situation.settings, situation.effective
    answer = names.take_apart(situation.target, settings.snapshot_name, settings.timezone)
    if answer is None:
        return []
    is_own = answer.template in settings.snapshot_name
    where = effective["snapshot_name"].where("snapshot_name") if is_own else "built in"
    if isinstance(answer, names.Ambiguous):
        return [Step("snapshot", f"not known: {answer.template} ({where}) fits in several ways")]
    zone = catalogue.zone(settings.timezone)
    time_text = f"{answer.time.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}"
    return [Step("snapshot", f"{answer.volume}, {time_text}, by {answer.template} ({where})")]


def _record_steps(situation: _Situation) -> list[Step]:
    if isinstance(situation.records, errors.NotPermitted):
        return [Step("record", f"not known: {situation.records.reason}")]
    if not situation.records:
        portals = ", ".join(map(str, situation.settings.portals))
        return [Step("record", f"none; portals to ask: {portals or 'none are configured'}")]
    return [
        Step("record", f"{record.portal.with_group}, startup {startup}, {record.path}")
        for record, startup in situation.records
    ]


def _session_steps(situation: _Situation) -> list[Step]:
    steps = [
        Step("session", f"{session.sid} through {session.portal}, {session.state}")
        for session in situation.sessions
    ]
    return steps or [Step("session", "none")]


def _other_steps(request: Request) -> list[Step]:
    """Name the targets that the setting `with` names, each with its session."""
    steps = []
    for other in request.others:
        up = [session for session in sessions.find_all(request.host, other.target) if session.up]
        disks = [disk.name for disk in available.selected_disks(other, up)]
        numbers = ", ".join(str(session.sid) for session in up)
        what = f"session {numbers}, {', '.join(disks) or 'no disk'}" if up else "no session"
        steps.append(Step("with", f"{other.target}: {what}"))
    return steps or [Step("with", "no other target that is known here")]


def _read_disks(situation: _Situation) -> tuple[list[Step], list[disk_report.Contents]]:
    """Describe the disks of the sessions that are up, or of all if none is, and read the former."""
    steps, read = [], []
    for session in situation.up or situation.sessions:
        disks = scsi_disks.list_all(situation.host, session)
        if not disks:
            steps.append(Step("disk", f"none, session {session.sid}"))
        for disk in disks:
            steps += _one_disk(situation.host, disk)
            if session.up:
                read.append(disk_report.read(situation.host, disk))
                steps += [Step(*row) for row in disk_report.rows(read[-1], situation.settings)]
    return steps, read


def _one_disk(host: Host, disk: scsi_disks.Disk) -> list[Step]:
    map_name = multipath.map_of(host, disk.path)
    joined = f", in the multipath map {map_name}" if map_name else ""
    try:
        devices = scsi_disks.list_devices(host, disk).items()
    except errors.TwinVolumes as failure:  # its multipath map joins it with another volume
        return [Step("disk", failure.reason)]
    partitions = sorted((number, device.node) for number, device in devices if number)
    return [
        Step("disk", f"{disk.name}, LUN {disk.san_lun}, session {disk.session.sid}{joined}"),
        Step("partitions", ", ".join(f"{n} ({node})" for n, node in partitions) or "none"),
    ]


def _lease(claim: claims.Claim | errors.NotPermitted) -> str:
    if isinstance(claim, errors.NotPermitted):
        return f"not known: {claim.reason}"
    if claim == claims.Claim():
        return "none"
    age = max(0, claims.age(claim))
    numbers = ", ".join(map(str, claim.sids))
    session = f"session {numbers}" if numbers else "a login whose result is not known yet"
    return f"{session}, {'ours' if claim.ours else 'not ours'}, looked up {age:.0f} s ago"


def _predict(
    situation: _Situation, steps: list[Step], contents: Sequence[disk_report.Contents]
) -> Explanation:
    """Return what a lookup would do: the same decisions in the same order as map.lookup."""
    request = situation.request
    content = selected = refused = None
    others = other_targets.Members((), ())
    try:
        if situation.settings.with_:
            try:
                request = other_targets.for_explain(request)
            except errors.NotPermitted as failure:  # to this user, and not to a lookup
                others_step = Step("with", f"not known: {failure.reason}")
                return Explanation("unknown", [*steps, others_step])
            steps = [*steps, *_other_steps(request)]
        selected = available.through_sessions(request).mountable
        if selected and (selected.is_maybe_system or selected.is_final):
            # Its fstab decides, and the drawing shows that.
            steps = [step for step in steps if step.label != "selected"]
        if selected and request.others and not selected.is_final:
            others = other_targets.look(request, selected)
            steps = [*steps, *(Step("note", note) for note in others.notes)]
        whole = selected and selected._replace(filesystems=(*selected.filesystems, *others.members))
        content = whole and verification.allow_by_journal(request, whole, act=False)
    except errors.Failure as failure:
        refused = failure
    shown = layers.Shown(selected, content, others.members)
    stack = layers.find(situation.host, situation.target, contents, situation.settings, shown)
    if selected and other_targets.is_one_down(request, selected):
        return Explanation("login", steps, stack=stack)
    if stack_report.is_pending(stack):
        return Explanation("map", steps, stack=stack)
    if refused:
        return Explanation("refuse", steps, failure=refused, stack=stack)
    return _predict_entry(situation, steps, content)._replace(stack=stack)


def _predict_entry(
    situation: _Situation, steps: list[Step], content: Mountable | None
) -> Explanation:
    """Return what a lookup would do that is not refused through the sessions that are up."""
    request, settings = situation.request, situation.settings
    outcome = "answer"
    if not content:
        content, outcome = available.without_session(request), "mounted"
    if content:
        steps = [*steps, *_chosen(content, situation.effective)]
        return Explanation(outcome, steps, entry.format_entry(content, settings))
    if situation.up:
        return Explanation("rescan", [*steps, Step("chosen", _missing(situation))])
    if isinstance(situation.records, errors.NotPermitted):
        return Explanation("unknown", steps)
    if situation.records or situation.sessions:
        return Explanation("login", steps)
    if settings.portals:
        return Explanation("discover", steps)
    return Explanation("refuse", steps, failure=discovery.no_record(situation.target))


def _chosen(content: Mountable, effective: dict[str, schema.Effective]) -> list[Step]:
    """Name the filesystems, the settings that selected them, and what is left out."""
    settings = ", ".join(
        f"{name} = {schema.TABLE[name].as_written(effective[name].value)} "
        f"({effective[name].where(name)})"
        for name in ("lun", "partition", "device")
    )
    nodes = ", ".join(filesystem.device.node for filesystem in content.filesystems)
    return [Step("chosen", f"{nodes}: {settings}"), *(Step("note", n) for n in content.notes)]


def _missing(situation: _Situation) -> str:
    """Name the disk, the partition or the link that a lookup would wait for."""
    settings, host = situation.settings, situation.host
    for disk in available.selected_disks(situation.request, situation.up):
        if why := scsi_disks.why_unreadable(host, disk):
            return f"nothing yet: {disk.name} cannot be read: {why}"
    devices = scsi_disks.matching_devices(situation.host, situation.up, settings)
    if not devices:
        partition = f", partition {settings.partition}" if settings.partition else ""
        where = situation.effective["lun"].where("lun")
        return f"nothing yet: no LUN {settings.lun}{partition} ({where})"
    link = devices[0].link_path
    node = situation.host.link(link)
    return f"nothing yet: {link} {f'leads to {node}' if node else 'does not exist'}"


def _setting_lines(effective: dict[str, schema.Effective]) -> list[str]:
    if not effective:
        return []
    rows = [
        (name, f"= {schema.TABLE[name].as_written(value.value)}", _source(name, value))
        for name, value in effective.items()
    ]
    return ["", *output.columns(rows, "  "), ""]


def _source(name: str, value: schema.Effective) -> str:
    """Return the line that sets a setting, and the section that the line is in."""
    title = value.section.title if value.section else ""
    return f"{value.where(name)}  [{title}]" if title else value.where(name)


def _outcome_lines(explanation: Explanation, paint: output.Paint) -> list[str]:
    failure = explanation.failure
    if failure:
        lines = [f"A lookup {paint.error('refuses')} it ({failure.code}): "]
        lines[0] += wording.printable(failure.reason)
        hint = wording.printable(failure.hint)
        return [*lines, f"To do: {hint}"] if hint else lines
    lines = [f"A lookup {paint.ok(OUTCOMES[explanation.outcome])}"]
    return [*lines, explanation.entry] if explanation.entry else lines


def _data(
    text: str, target: str, effective: dict[str, schema.Effective], explanation: Explanation
) -> dict[str, Any]:
    """Return the report for --json, in the form that auto-iscsi(8) documents."""
    failure = explanation.failure
    return {
        "key": text,
        "target": target or None,
        "settings": {
            name: {
                "value": schema.TABLE[name].as_written(value.value),
                "file": value.section.file if value.section else None,
                "line": value.section.lines[name] if value.section else None,
                "section": value.section.title if value.section else None,
            }
            for name, value in effective.items()
        },
        "steps": [{"step": step.label, "says": step.text} for step in explanation.steps],
        "stack": [stack_report.data(node) for node in explanation.stack],
        "outcome": explanation.outcome,
        "entry": explanation.entry or None,
        "refused": failure
        and {"code": failure.code, "reason": failure.reason, "hint": failure.hint},
    }
