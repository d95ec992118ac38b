"""Print the status as gauges for Prometheus.

The format is Prometheus' text exposition format 0.0.4, as the textfile collector of the node
exporter reads it: for each metric a HELP and a TYPE line, then its samples. Backslash, double quote
and line end are escaped in label values. The name of a metric ends in its base unit
(https://prometheus.io/docs/practices/naming/).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import auto_iscsi
from auto_iscsi.admin import output, san_report, status
from auto_iscsi.iscsi import sessions
from auto_iscsi.machine.host import Host

_OWNERS = {True: "ours", False: "other", None: "unknown"}


class Sample(NamedTuple):
    """One value of a metric."""

    labels: Mapping[str, str]
    value: float


class Metric(NamedTuple):
    """A gauge with all its samples."""

    name: str
    help: str
    samples: Iterable[Sample]


def report(host: Host) -> output.Report:
    """Return the status as text for Prometheus; status 0 even if there are problems."""
    rows, _ = status.list_rows(host)
    presented = san_report.presented(host, output.Paint(False)).data
    return output.Report(0, lines(_metrics(rows, presented, time.time())), None)


def _metrics(
    rows: Sequence[status.Row], presented: Mapping[str, Any], now: float
) -> Iterator[Metric]:
    present = [(row, row.session, _labels_of(row, row.session)) for row in rows if row.session]
    kinds = Counter((session.state, _OWNERS[row.ours]) for row, session, _ in present)
    problems = Counter(code for row in rows for code in row.problems)
    problems["not-revoked"] = len(presented["not_revoked"])
    leases = Counter((lease["san"], lease["state"]) for lease in presented["leases"])
    yield Metric(
        "auto_iscsi_info",
        "The version of auto-iscsi.",
        [Sample({"version": auto_iscsi.__version__}, 1)],
    )
    yield Metric(
        "auto_iscsi_sessions",
        "The number of iSCSI sessions of this host.",
        [
            Sample({"state": state, "owner": owner}, number)
            for (state, owner), number in sorted(kinds.items())
        ],
    )
    yield Metric(
        "auto_iscsi_session_info",
        "The owner and the disks of a session.",
        [
            Sample({**labels, "owner": _OWNERS[row.ours], "disks": ",".join(row.disks)}, 1)
            for row, _, labels in present
        ],
    )
    yield Metric(
        "auto_iscsi_session_up",
        "Whether a session is logged in.",
        [Sample(labels, session.up) for _, session, labels in present],
    )
    yield Metric(
        "auto_iscsi_session_mounts",
        "The number of mounts of the disks of a session.",
        [Sample(labels, len(row.mounted)) for row, _, labels in present],
    )
    yield Metric(
        "auto_iscsi_session_overlay_bytes",
        "The space that the overlays of the disks of a session take.",
        [Sample(labels, sum(made.store or 0 for made in row.made)) for row, _, labels in present],
    )
    yield Metric(
        "auto_iscsi_session_last_used_timestamp_seconds",
        "When a target was last looked up or seen in use, since 1970.",
        [Sample(labels, now - row.used) for row, _, labels in present if row.used is not None],
    )
    yield Metric(
        "auto_iscsi_session_end_timestamp_seconds",
        "When the reaper can end a session, as things are now, since 1970.",
        [Sample(labels, now + row.when) for row, _, labels in present if row.when is not None],
    )
    yield Metric(
        "auto_iscsi_presented",
        "The number of snapshots that are presented to this host at a SAN.",
        [Sample({"san": san, "state": state}, n) for (san, state), n in sorted(leases.items())],
    )
    yield Metric(
        "auto_iscsi_problems",
        "The number of problems, by code; auto-iscsi explain CODE explains one.",
        [Sample({"code": code}, problems[code]) for code in status.PROBLEMS],
    )


def _labels_of(row: status.Row, session: sessions.Session) -> dict[str, str]:
    return {"target": row.target, "portal": str(session.portal), "session": str(session.sid)}


def lines(metrics: Iterable[Metric]) -> list[str]:
    """Return metrics as lines of text; a metric without samples is left out."""
    text: list[str] = []
    for name, help_text, samples in metrics:
        values = [f"{name}{_labels(s.labels)} {_number(s.value)}" for s in samples]
        if values:
            text += [f"# HELP {name} {help_text}", f"# TYPE {name} gauge", *values]
    return text


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3f}"
