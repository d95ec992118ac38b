"""Restore a file or a tree of a snapshot with rsync(1), here or on another host.

Nothing that is there is overwritten unless that is asked for, and then it is kept beside the new
one under a name of its own. rsync copies symbolic links as links. It would follow one at the
destination that is in the place of a directory: whoever owns a directory there could have root
write anywhere. So restoring stops at such a link. Afterwards rsync compares both sides once more,
by checksum.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Collection, Sequence
from typing import Callable, NamedTuple

from auto_iscsi import errors, wording
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import paths, visits
from auto_iscsi.san.catalogue import Entry

#: Owners by number, modes, times, hard links, ACLs, extended attributes, holes.
_ALL = ("-aHAXS", "--numeric-ids", "--no-devices", "--no-specials")
#: How rsync(1) marks, in --itemize-changes, a file whose content it would send.
_SENT = (">f", "<f", "cL", "hf", ">L", "<L")
_MADE_FOLDER = "cd+"  #: likewise, a directory that it would make
_SKIPPED = 'non-regular file "'  #: what it prints after "skipping", before such a name
_NOT_ALL = 23  # rsync(1), EXIT VALUES: what a list is asked of is not there
#: Has rsync print how many bytes it has sent, and each line at once.
_WATCHED = ("--info=progress2", "--outbuf=L")
_BYTES = re.compile(r"\s+(\d[^\s%]*)\s+\d+%\s")  #: how such a line begins; \d with separators
_TIDYING = 5.0  # seconds that rsync gets to tidy up when it has to end
_SUFFIX = ".before-restore-%Y-%m-%d-%H%M%S"


class Options(NamedTuple):
    """How to restore."""

    destination: str  #: a path, or [USER@]HOST:PATH
    overwrite: bool
    backup: bool  #: keep what is overwritten
    dry_run: bool


class Restored(NamedTuple):
    """What was done."""

    changes: tuple[str, ...]  #: names that were restored, or would be
    kept: tuple[str, ...]  #: names that are there, differ, and were not overwritten
    suffix: str  #: of the backups; "": none is made
    differs: tuple[str, ...]  #: names that are not the snapshot's afterwards
    left_out: tuple[str, ...] = ()  #: devices, FIFOs and sockets, as rsync prints their names


class _Progress:
    """What rsync has copied up to now."""

    def __init__(self, number: int, say: Callable[[str], None]) -> None:
        self._number = number  # files that it will copy
        self._say = say
        self._files = self._bytes = 0

    def read(self, line: str) -> None:
        """Take a line of rsync's output, and say how much is copied."""
        if match := _BYTES.match(line):
            self._bytes = int(re.sub(r"\D", "", match[1]))
        elif line.startswith(_SENT):  # as soon as it begins to send it
            self._files += 1
        self._say(
            f"restoring file {self._files} of {self._number}, {wording.size(self._bytes)} copied"
        )


def restore(
    host: Host, entry: Entry, path: str, options: Options, say: Callable[[str], None]
) -> Restored:
    """Restore a file or directory; raise Failure when it cannot be read, or rsync fails."""
    if not shutil.which("rsync"):
        raise errors.BrokenInstallation("rsync is not installed", "install rsync")
    with visits.visited(host, entry, say) as root:
        try:
            with paths.parent(root, path) as (folder, name):
                return restore_from(folder, name, path, options, say)
        except OSError as error:
            raise errors.Failure(
                f"{entry.volume} of {entry.text}: {path}: {(error.strerror or '').lower()}",
                f"run auto-iscsi versions {entry.volume}:{path}",
            ) from error


def restore_from(
    folder: int, name: str, path: str, options: Options, say: Callable[[str], None]
) -> Restored:
    """Restore `name` in an open folder of the snapshot; "" means that folder itself."""
    if name:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise errors.Failure(
                f"{path} is neither a file nor a directory",
                f"restore {os.path.dirname(path.rstrip('/')) or '/'}: what is in it comes without "
                "devices, FIFOs and sockets",
            )
        is_folder = stat.S_ISDIR(mode)
    else:
        is_folder = True
    source = f"/proc/{os.getpid()}/fd/{folder}/{name}".rstrip("/") + ("/" if is_folder else "")
    destination = _destination(options.destination, os.path.basename(path.rstrip("/")), is_folder)
    _refuse_in_place(destination)
    suffix = time.strftime(_SUFFIX) if options.overwrite and options.backup else ""
    say(f"comparing {path} with {options.destination}")
    whole = _itemized(["--dry-run", "--checksum"], source, destination)
    missing = _itemized(["--dry-run", "--ignore-existing"], source, destination)
    if not options.overwrite:
        _refuse_inside(destination, _folders(whole) - _folders(missing))
    differing, fresh = _sent(whole), _sent(missing)
    left_out = tuple(_left_out(whole))
    kept = [] if options.overwrite else sorted(set(differing) - set(fresh))
    if options.dry_run:
        changes = differing if options.overwrite else fresh
        return Restored(tuple(changes), tuple(kept), suffix, (), left_out)
    how = ["--checksum"] if options.overwrite else ["--ignore-existing"]
    if suffix:
        how += ["--backup", f"--suffix={suffix}"]
    number = len(differing if options.overwrite else fresh)
    progress = _Progress(number, say)
    changes = _sent(_itemized([*how, *_WATCHED], source, destination, progress.read))
    say(f"comparing {path} with {options.destination} once more")
    after = _sent(_itemized(["--dry-run", "--checksum"], source, destination))
    differs = tuple(sorted(set(after) - set(kept)))
    return Restored(tuple(changes), tuple(kept), suffix, differs, left_out)


def _destination(text: str, name: str, is_folder: bool) -> str:
    """Return the path for rsync.

    A directory that is there, and a path that ends in a slash, get the name in them.
    """
    is_remote = _remote_host(text) is not None
    into = text.endswith("/") or (not is_remote and os.path.isdir(text))
    if is_remote and not text.partition(":")[2]:
        raise errors.Failure(f"{text} names no place on that host", "write HOST:/path")
    if into:
        text = f"{text.rstrip('/') or '/'}/{name}".replace("//", "/")
    if not is_remote:
        text = os.path.abspath(text)
        if not os.path.isdir(os.path.dirname(text)):
            raise errors.Failure(
                f"{os.path.dirname(text)}: no such directory", f"mkdir -p {os.path.dirname(text)}"
            )
    return f"{text}/" if is_folder else text


def _remote_host(place: str) -> str | None:
    """Return the host of HOST:/path, None for a path on this host."""
    host, colon, _ = place.partition(":")
    return host if colon and "/" not in host else None


def _refuse_in_place(destination: str) -> None:
    """Raise Failure where rsync would follow what is at the destination, or write into it."""
    place = destination.rstrip("/")
    is_folder = destination != place
    if not place or place.endswith(":"):  # the root directory
        return
    kind = _kind(place)
    if kind == "l" and (is_folder or _kind(f"{place}/.") == "d"):
        raise errors.Failure(
            f"{place} is a symbolic link, and restore follows none",
            "write the path that the link leads to, with the name",
        )


def _refuse_inside(destination: str, names: Collection[str]) -> None:
    """Raise Failure for what is no directory at the destination, but one in the snapshot."""
    if names:
        first = min(names).rstrip("/")
        raise errors.Failure(
            f"{destination.rstrip('/')}/{first} is a symbolic link or a file, and in the snapshot "
            f"a directory ({wording.counted(len(names), 'such name')})",
            "restore to another place; --overwrite replaces it, and keeps it beside",
        )


def _kind(place: str) -> str:
    """Return what is at a path here or on another host: l, d, - as ls(1) has it; "" for nothing."""
    result = _rsync(["--list-only", "--links"], [place])
    if result.returncode == _NOT_ALL:
        return ""
    _raise_failure(result, place)
    return result.stdout[:1]


def _itemized(
    how: Sequence[str],
    source: str,
    destination: str,
    read: Callable[[str], None] = lambda _: None,
) -> list[tuple[str, str]]:
    """Run rsync; return code and name of what it changed, or would change. Raise Failure.

    read: gets each line at once.
    """
    words = [*_ALL, "--itemize-changes", "--out-format=%i %n", *how]
    result = _rsync(words, [source, destination], read)
    _raise_failure(result, destination)
    # Not splitlines(): names in a snapshot can have characters that end a line there.
    pairs = (line.partition(" ") for line in result.stdout.split("\n"))
    return [(code, name) for code, _, name in pairs]


def _sent(items: Sequence[tuple[str, str]]) -> list[str]:
    """Return the names whose content was sent."""
    return sorted(name for code, name in items if code.startswith(_SENT))


def _left_out(items: Sequence[tuple[str, str]]) -> list[str]:
    """Return the names of what is neither a file, a directory nor a link."""
    return sorted(
        text[len(_SKIPPED) : -1]
        for code, text in items
        if code == "skipping" and text.startswith(_SKIPPED)
    )


def _folders(items: Sequence[tuple[str, str]]) -> set[str]:
    """Return the names of the directories that were made."""
    return {name for code, name in items if code.startswith(_MADE_FOLDER)}


def _rsync(
    words: Sequence[str], places: Sequence[str], read: Callable[[str], None] = lambda _: None
) -> subprocess.CompletedProcess[str]:
    """Run rsync; `read` gets each line at once. When this is interrupted, rsync ends, too."""
    # Its errors go to a file: nobody reads a second pipe while the first one is read.
    with tempfile.TemporaryFile("w+", errors="surrogateescape") as complaints:
        lines = []
        with subprocess.Popen(
            ["rsync", *words, "--", *places],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            errors="surrogateescape",
        ) as process:
            try:
                for line in process.stdout or ():
                    read(line)
                    lines.append(line)
            except BaseException:  # ^C, which need not reach rsync: timeout -s INT
                _stop(process)
                raise
        complaints.seek(0)
        return subprocess.CompletedProcess(
            process.args, process.returncode, "".join(lines), complaints.read()
        )


def _stop(process: subprocess.Popen[str]) -> None:
    """End rsync, so that it uses the snapshot no more; it deletes the file that is half copied."""
    process.terminate()
    try:
        process.wait(_TIDYING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _raise_failure(result: subprocess.CompletedProcess[str], place: str) -> None:
    """Raise Failure with rsync's reason unless it succeeded."""
    if result.returncode != 0:
        # ssh frames its warning of a changed host key with @.
        lines = [line.strip("@ ") for line in result.stderr.splitlines()]
        status = result.returncode
        end = f"exit status {status}" if status > 0 else f"ended by signal {-status}"
        reason = next(filter(None, lines), end)
        host = _remote_host(place)
        hint = f"ssh {host} rsync --version" if host is not None else "see rsync(1), EXIT VALUES"
        raise errors.Failure(f"rsync to {place}: {reason}", hint)
