"""Report what a restore did: auto-iscsi restore VOLUME@WHEN:/path DESTINATION."""

from __future__ import annotations

from auto_iscsi import wording
from auto_iscsi.admin import output
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import restoring
from auto_iscsi.san import when


def report(
    host: Host, place: str, options: restoring.Options, paint: output.Paint
) -> output.Report:
    """Restore; return what was done. Status 1: a file was not overwritten, or is not the same."""
    volume, text, path = when.split_place(place)
    entry = when.snapshot(host, volume, text)
    done = restoring.restore(host, entry, path, options)
    verb = "would restore" if options.dry_run else "restored"
    lines = [f"{verb} {wording.printable(name)}" for name in done.changes]
    lines += [
        f"{paint.warning('not overwritten')}: {wording.printable(name)} (--overwrite does that)"
        for name in done.kept
    ]
    lines += [
        f"{paint.error('not the same afterwards')}: {wording.printable(name)}"
        for name in done.differs
    ]
    if done.suffix and not options.dry_run:
        lines.append(f"what was overwritten is kept beside it as NAME{done.suffix}")
    count = wording.counted(len(done.changes), "file")
    lines.append(f"{verb} {count} of {volume} of {entry.text} to {options.destination}")
    data = {
        "target": entry.key,
        "path": path,
        "destination": options.destination,
        "dry_run": options.dry_run,
        "restored": done.changes,
        "kept": done.kept,
        "differs": done.differs,
        "suffix": done.suffix or None,
    }
    return output.Report(1 if done.kept or done.differs else 0, lines, data)
