"""Report the versions of a file: auto-iscsi versions VOLUME:/path."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from auto_iscsi import errors, wording
from auto_iscsi.admin import list_report, output
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import versions
from auto_iscsi.restore.versions import Version, Visited
from auto_iscsi.san import catalogue, when
from auto_iscsi.san.catalogue import Entry


class Options(NamedTuple):
    """What was asked for."""

    place: str  #: VOLUME:/path
    since: str  #: a day, or "" for no limit
    until: str
    jobs: int  #: snapshots that are visited at a time
    with_digest: bool
    keep: bool  #: leave the sessions that the visits open


class _Group(NamedTuple):
    """One version, and the snapshots that have it, the newest first."""

    version: Version
    entries: tuple[Entry, ...]


def report(
    host: Host, options: Options, paint: output.Paint, say: Callable[[str], None]
) -> output.Report:
    """Return the versions of a file, the newest first; status 1 if a visit failed."""
    volume, time_asked, path = when.split_place(options.place)
    if time_asked:
        raise errors.Failure(
            f"{options.place}: versions looks at all snapshots",
            "use --since and --until for a part",
        )
    entries = list_report.within(
        catalogue.refresh(host)[0].of_volume(volume), options.since, options.until
    )
    visited = versions.find(
        host, entries, path, options.jobs, options.with_digest, options.keep, say
    )
    failed = [each for each in visited if each.failure]
    missing = [each.entry for each in visited if not (each.failure or each.versions)]
    groups = _grouped(visited)
    lines = [line for group in groups for line in _group_lines(group, paint)]
    if missing:
        lines.append(f"missing in {', '.join(entry.text for entry in missing)}")
    lines += [
        f"{paint.error('not visited')}: {each.entry.text}: {wording.printable(str(each.failure))}"
        for each in failed
    ]
    number = wording.counted(len(groups), "version")
    lines.append(f"{number} of {path} in {wording.counted(len(visited), 'snapshot')} of {volume}")
    data = {
        "volume": volume,
        "path": path,
        "versions": [_data(group) for group in groups],
        "missing": [entry.key for entry in missing],
        "failed": [{"target": each.entry.key, "reason": str(each.failure)} for each in failed],
    }
    return output.Report(1 if failed or not groups else 0, lines, data)


def _grouped(visited: Sequence[Visited]) -> list[_Group]:
    """Return each version with the snapshots that have it, by path; of each, the newest first."""
    groups: list[_Group] = []
    for each in visited:  # the newest first
        for version in each.versions:
            for index, group in enumerate(groups):
                if group.version.is_same(version):
                    groups[index] = group._replace(entries=(*group.entries, each.entry))
                    break
            else:
                groups.append(_Group(version, (each.entry,)))
    return sorted(groups, key=lambda group: group.version.path)


def _group_lines(group: _Group, paint: output.Paint) -> list[str]:
    version = group.version
    changed = _written(version.mtime // 10**9)
    size = "directory" if version.kind == "directory" else wording.size(version.size)
    words = [changed, size, f"{version.mode:04o}", f"{version.owner}:{version.group}"]
    words += [version.digest[:16]] if version.digest else []
    head = f"{wording.printable(version.path)}  {'  '.join(words)}"
    entries = ", ".join(entry.text for entry in group.entries)
    return [head, f"  {paint.dim('in')} {entries}"]


def _written(seconds: int) -> str:
    """Return a time as people write it; a filesystem can have any number of seconds since 1970."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return f"{seconds} s since 1970"


def _data(group: _Group) -> dict[str, Any]:
    """Return a version for --json, in the form that auto-iscsi(8) documents."""
    version = group.version
    return {
        "path": version.path,
        "kind": version.kind,
        "size": version.size,
        "mtime_ns": version.mtime,
        "owner": version.owner,
        "group": version.group,
        "mode": f"{version.mode:04o}",
        "sha256": version.digest or None,
        "snapshots": [entry.key for entry in group.entries],
    }
