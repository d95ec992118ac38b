"""Which snapshots do the SANs' drivers list, presented or not?

`ask` asks the drivers, each at most once in five seconds (san/calls). `remembered` returns what
each answered last since the boot.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

from auto_iscsi import errors
from auto_iscsi.config import san_files
from auto_iscsi.config.san_files import San
from auto_iscsi.drivers import wire
from auto_iscsi.machine.host import Host
from auto_iscsi.san import calls, leases

_USABLE = ("ready", "offline")  # states of a snapshot that can be presented (docs/san-driver.md)


class Listed(NamedTuple):
    """A snapshot that a driver lists."""

    san: str
    volume: str
    key: str  #: VOLUME@SNAPSHOT
    created: float | None  #: seconds since 1970; None: the SAN does not tell
    target: str  #: to which this host had it presented; "" if it had not
    is_presented: bool  #: to this host, by whomever


def split_key(text: str) -> tuple[str, str] | None:
    """Return volume and snapshot of a key VOLUME@SNAPSHOT, None for any other text."""
    volume, _, snapshot = text.partition("@")
    is_key = wire.matches(wire.NAME, volume) and wire.matches(wire.NAME, snapshot)
    return (volume, snapshot) if is_key else None


def ask(host: Host, until: float) -> list[str]:
    """Ask each SAN's driver; return why, for each that did not answer. until: time.monotonic()."""
    sans, failures = [], []
    for name in san_files.list_names(host):
        try:
            sans.append(san_files.find(host, name))
        except errors.Failure as failure:
            failures.append(failure.reason)
    return failures + [failure.reason for failure in ask_each(host, sans, until).values()]


def ask_each(host: Host, sans: Sequence[San], until: float) -> dict[str, errors.Failure]:
    """Ask the drivers of several SANs at the same time; return by SAN why it did not answer."""

    def ask_one(san: San) -> errors.Failure | None:
        try:
            calls.recent_snapshots(host, san, min(until, time.monotonic() + san.timeout))
        except errors.Failure as failure:
            return failure
        return None

    if not sans:
        return {}
    with futures.ThreadPoolExecutor(len(sans)) as pool:
        answers = list(pool.map(ask_one, sans))
    return {san.name: answer for san, answer in zip(sans, answers) if answer}


def remembered(host: Host) -> Iterator[Listed]:
    """Yield what the drivers listed last; nothing of a SAN whose file is wrong, or root's alone."""
    try:
        known = leases.list_all(host)[0]
    except errors.NotPermitted:
        return
    targets = {(lease.san, lease.id): lease.target for lease in known}
    for name in san_files.list_names(host):
        try:
            snapshots = calls.remembered(host, san_files.find(host, name))
        except (errors.BadConfiguration, errors.NotPermitted):
            continue
        for each in snapshots:
            target = targets.get((name, each.id))
            if each.state in _USABLE:
                yield Listed(
                    name,
                    each.volume,
                    f"{each.volume}@{each.snapshot}",
                    each.created,
                    target.iqn if target else "",
                    each.presented or target is not None,
                )


def state(host: Host) -> list[tuple[object, ...]]:
    """Return what tells whether `remembered` has changed."""
    names = san_files.list_names(host)
    paths = [san_files.path_of(name) for name in names]
    paths += [calls.list_file(name) for name in names]
    known = [(s.st_ino, s.st_size, s.st_mtime_ns) if (s := host.stat(p)) else () for p in paths]
    return [*known, *((each.lease, each.state) for each in leases.list_all(host)[0])]
