"""How are numbers said to Prometheus?

Its text exposition format, version 0.0.4, as a node exporter's textfile collector reads it: per
metric a HELP and a TYPE line, then the samples; label values with \\, " and line ends escaped. A
name ends in its base unit (https://prometheus.io/docs/practices/naming/).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Sample(NamedTuple):
    """One number."""

    labels: Mapping[str, str]
    value: float


class Metric(NamedTuple):
    """A gauge, with all of its samples."""

    name: str
    help: str
    samples: Iterable[Sample]


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
