"""How is the status said to Prometheus?

Its text exposition format, version 0.0.4, as a node exporter's textfile collector reads it: per
metric a HELP and a TYPE line, then the samples; label values with \\, " and line ends escaped. A
name ends in its base unit (https://prometheus.io/docs/practices/naming/).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import auto_iscsi
from auto_iscsi.admin import output, status
from auto_iscsi.machine.host import Host

_OWNERS = {True: "ours", False: "other", None: "unknown"}


class Sample(NamedTuple):
    """One number."""

    labels: Mapping[str, str]
    value: float


class Metric(NamedTuple):
    """A gauge, with all of its samples."""

    name: str
    help: str
    samples: Iterable[Sample]


def report(host: Host) -> output.Report:
    """Return the status as text for Prometheus; always status 0: it is the reader who judges."""
    rows, _ = status.look(host)
    return output.Report(0, lines(_families(rows, time.time())), None)


def _families(rows: Sequence[status.Row], now: float) -> Iterator[Metric]:
    there = [(row, _labels_of(row)) for row in rows if row.session]
    kinds = Counter((row.session.state, _OWNERS[row.ours]) for row, _ in there if row.session)
    found = Counter(code for row in rows for code in row.problems)
    yield Metric(
        "auto_iscsi_info",
        "The version of auto-iscsi.",
        [Sample({"version": auto_iscsi.__version__}, 1)],
    )
    yield Metric(
        "auto_iscsi_sessions",
        "iSCSI sessions of this host.",
        [
            Sample({"state": state, "owner": owner}, number)
            for (state, owner), number in sorted(kinds.items())
        ],
    )
    yield Metric(
        "auto_iscsi_session_info",
        "A session, with what does not change.",
        [
            Sample({**labels, "owner": _OWNERS[row.ours], "disks": ",".join(row.disks)}, 1)
            for row, labels in there
        ],
    )
    yield Metric(
        "auto_iscsi_session_up",
        "Whether a session is logged in.",
        [Sample(labels, row.session is not None and row.session.up) for row, labels in there],
    )
    yield Metric(
        "auto_iscsi_session_mounts",
        "Where disks of a session are mounted.",
        [Sample(labels, len(row.mounted)) for row, labels in there],
    )
    yield Metric(
        "auto_iscsi_session_last_used_timestamp_seconds",
        "When a target was last looked up or seen in use, since 1970.",
        [Sample(labels, now - row.used) for row, labels in there if row.used is not None],
    )
    yield Metric(
        "auto_iscsi_session_end_timestamp_seconds",
        "When the reaper can end a session, as things are, since 1970.",
        [Sample(labels, now + row.when) for row, labels in there if row.when is not None],
    )
    yield Metric(
        "auto_iscsi_problems",
        "What is wrong, by code: auto-iscsi explain CODE.",
        [Sample({"code": code}, found[code]) for code in status.PROBLEMS],
    )


def _labels_of(row: status.Row) -> dict[str, str]:
    assert row.session
    return {
        "target": row.target,
        "portal": str(row.session.portal),
        "session": str(row.session.sid),
    }


def lines(metrics: Iterable[Metric]) -> list[str]:
    """Return metrics as lines of text; a metric without samples is left out."""
    found = []
    for metric in metrics:
        said = [f"{metric.name}{_labels(s.labels)} {_number(s.value)}" for s in metric.samples]
        if said:
            found += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} gauge", *said]
    return found


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3f}"
