"""What the reaper would do with each session, and why: `auto-iscsi reap --dry-run`."""

from __future__ import annotations

from typing import Callable

from auto_iscsi import wording
from auto_iscsi.admin import output
from auto_iscsi.machine.host import Host
from auto_iscsi.reaper import decisions


def report(host: Host, paint: output.Paint) -> output.Report:
    """Return what would become of each session, and why. Nothing is changed."""
    rows = [("target", "session", "disks", "verdict", "because")]
    marks = []
    for each in decisions.decide(host):
        session = f"{each.session.sid} {each.session.state}" if each.session else "-"
        rows.append((each.target, session, " ".join(each.disks) or "-", _when(each), each.reason))
        marks.append(each.action)
    first, *others = output.columns(rows)
    paints: dict[str, Callable[[str], str]]
    paints = {decisions.END: paint.doubtful, decisions.KEEP: str, decisions.REPORT: paint.bad}
    lines = [paints[mark](wording.printable(line)) for mark, line in zip(marks, others)]
    return output.Report(0, [paint.aside(first), *lines] if lines else ["no sessions"], None)


def _when(verdict: decisions.Decision) -> str:
    if verdict.action == decisions.KEEP and verdict.when is not None:
        return f"end in {wording.duration(verdict.when)}"
    return verdict.action
