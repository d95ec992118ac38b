"""Report the versions of a file, one of them, or how two differ: versions, cat --json, diff."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from auto_iscsi import errors, wording
from auto_iscsi.admin import list_report, output
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import differences, versions
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
    of_all: bool  #: print a line for each snapshot


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
    say(f"looking for the snapshots of {volume}")
    entries = list_report.within(
        catalogue.refresh(host)[0].of_volume(volume), options.since, options.until
    )
    visited = versions.find(
        host, entries, path, options.jobs, options.with_digest, options.keep, say
    )
    failed = [each for each in visited if each.failure]
    missing = [each.entry for each in visited if not (each.failure or each.versions)]
    groups = _grouped(visited)
    if options.of_all:
        lines = _snapshot_lines(visited, groups, paint)
    else:
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


def report_content(entry: Entry, version: Version, content: bytes) -> output.Report:
    """Return a file of a snapshot: what it is, and its content."""
    text = base64.b64encode(content).decode()
    data = {"target": entry.key, **_version_data(version), "content_base64": text}
    return output.Report(0, [], data)


def report_differences(compared: differences.Comparison) -> output.Report:
    """Return what differs in a file; status 1 if anything does."""
    lines = [wording.printable(line.replace("\t", "    ")) for line in compared.lines]
    data = {
        "old": compared.old.label,
        "new": compared.new.label,
        "differs": bool(lines),
        "binary": compared.old.is_binary or compared.new.is_binary,
        "diff": compared.lines,
    }
    return output.Report(1 if lines else 0, lines, data)


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
    head = f"{wording.printable(group.version.path)}  {'  '.join(_cells(group.version))}"
    entries = ", ".join(entry.text for entry in group.entries)
    return [head, f"  {paint.dim('in')} {entries}"]


def _snapshot_lines(
    visited: Sequence[Visited], groups: Sequence[_Group], paint: output.Paint
) -> list[str]:
    """Return a table with a line for each snapshot; the newest version has number 1."""
    header = ["SNAPSHOT", "VERSION", "CHANGED", "SIZE", "MODE", "OWNER", "SHA-256", "PATH"]
    numbers: dict[tuple[str, str], int] = {}  # by path and snapshot
    of_path: dict[str, int] = {}
    for group in groups:
        of_path[group.version.path] = of_path.get(group.version.path, 0) + 1
        for entry in group.entries:
            numbers[group.version.path, entry.key] = of_path[group.version.path]
    rows = []
    for each in visited:
        for version in each.versions:
            cells = _cells(version)
            cells += [""] * (header.index("PATH") - 2 - len(cells))
            number = numbers[version.path, each.entry.key]
            rows.append([each.entry.text, f"{number}", *cells, wording.printable(version.path)])
        if not each.versions:
            state = "not visited" if each.failure else "missing"
            rows.append([each.entry.text, state, *[""] * (len(header) - 2)])
    if not any(version.digest for each in visited for version in each.versions):
        column = header.index("SHA-256")
        header, *rows = ([*row[:column], *row[column + 1 :]] for row in (header, *rows))
    return output.table(header, rows, paint) if rows else []


def _cells(version: Version) -> list[str]:
    """Return what tells a version from others, for a person."""
    changed = _written(version.mtime // 10**9)
    size = "directory" if version.kind == "directory" else wording.size(version.size)
    words = [changed, size, f"{version.mode:04o}", f"{version.owner}:{version.group}"]
    return [*words, version.digest[:16]] if version.digest else words


def _written(seconds: int) -> str:
    """Return a time as people write it; a filesystem can have any number of seconds since 1970."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return f"{seconds} s since 1970"


def _data(group: _Group) -> dict[str, Any]:
    """Return a version for --json, in the form that auto-iscsi(8) documents."""
    snapshots = [entry.key for entry in group.entries]
    digest = group.version.digest or None
    return {**_version_data(group.version), "sha256": digest, "snapshots": snapshots}


def _version_data(version: Version) -> dict[str, Any]:
    return {
        "path": version.path,
        "kind": version.kind,
        "size": version.size,
        "mtime_ns": version.mtime,
        "owner": version.owner,
        "group": version.group,
        "mode": f"{version.mode:04o}",
    }
