"""List what the reaper would do with each session, and why: `auto-iscsi reap --dry-run`."""

from __future__ import annotations

from typing import Callable

from auto_iscsi import wording
from auto_iscsi.admin import output
from auto_iscsi.machine.host import Host
from auto_iscsi.reaper import decisions

_HEADER = ("target", "session", "disks", "decision", "reason")


def report(host: Host, paint: output.Paint) -> output.Report:
    """Return the reaper's decision on each session. Nothing is changed."""
    made = decisions.decide(host)
    if not made:
        return output.Report(0, ["no sessions"], None)
    header, *lines = output.columns([_HEADER, *map(_row, made)])
    paints: dict[str, Callable[[str], str]]
    paints = {decisions.END: paint.warning, decisions.KEEP: str, decisions.REPORT: paint.error}
    lines = [paints[d.action](wording.printable(line)) for d, line in zip(made, lines)]
    return output.Report(0, [paint.dim(header), *lines], None)


def _row(decision: decisions.Decision) -> tuple[str, ...]:
    session = decision.session
    name = f"{session.sid} {session.state}" if session else "-"
    disks = " ".join(decision.disks) or "-"
    return (decision.target, name, disks, _action(decision), decision.reason)


def _action(decision: decisions.Decision) -> str:
    if decision.action == decisions.KEEP and decision.when is not None:
        return f"end in {wording.duration(decision.when)}"
    return decision.action
