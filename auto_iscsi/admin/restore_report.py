"""Report what a restore did: auto-iscsi restore VOLUME@WHEN:/path DESTINATION."""

from __future__ import annotations

from typing import Callable

from auto_iscsi import wording
from auto_iscsi.admin import output
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import restoring
from auto_iscsi.restore.restoring import Restored
from auto_iscsi.san import when
from auto_iscsi.san.catalogue import Entry


def report(
    host: Host,
    place: str,
    options: restoring.Options,
    paint: output.Paint,
    say: Callable[[str], None],
) -> output.Report:
    """Restore; return what was done. Status 1: a file was not overwritten, or is not the same."""
    volume, text, path = when.split_place(place)
    say(f"looking for the snapshots of {volume}")
    entry = when.snapshot(host, volume, text)
    return tell(entry, path, options, restoring.restore(host, entry, path, options, say), paint)


def tell(
    entry: Entry, path: str, options: restoring.Options, done: Restored, paint: output.Paint
) -> output.Report:
    """Return what was done, in words; its last line has all numbers."""
    verb = "would restore" if options.dry_run else "restored"
    lines = [f"{verb} {wording.printable(name)}" for name in done.changes]
    lines += [
        f"{paint.warning('not overwritten')}: {wording.printable(name)} (--overwrite replaces it)"
        for name in done.kept
    ]
    lines += [
        f"{paint.error('not the same afterwards')}: {wording.printable(name)}"
        for name in done.differs
    ]
    lines += [
        f"{paint.warning('left out')}: {wording.printable(name)} (a device, FIFO or socket)"
        for name in done.left_out
    ]
    if done.suffix and not options.dry_run:
        lines.append(f"each file that was replaced is kept as NAME{done.suffix}")
    summary = (
        f"{verb} {wording.counted(len(done.changes), 'file')} of {entry.volume} of {entry.text}"
    )
    rest = [
        f"{len(names)} {what}"
        for names, what in (
            (done.kept, "not overwritten"),
            (done.differs, "not the same afterwards"),
            (done.left_out, "left out"),
        )
        if names
    ]
    lines.append("; ".join(filter(None, (f"{summary} to {options.destination}", ", ".join(rest)))))
    data = {
        "target": entry.key,
        "path": path,
        "destination": options.destination,
        "dry_run": options.dry_run,
        "restored": done.changes,
        "kept": done.kept,
        "differs": done.differs,
        "left_out": done.left_out,
        "suffix": done.suffix or None,
    }
    return output.Report(1 if done.kept or done.differs else 0, lines, data)
