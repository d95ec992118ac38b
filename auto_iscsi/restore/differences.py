"""Compare a file of a snapshot with the same file of another one, or with a local file."""

from __future__ import annotations

import difflib
import os
import stat
from typing import Callable, NamedTuple

from auto_iscsi import errors
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import copying, paths, visits
from auto_iscsi.san import when
from auto_iscsi.san.catalogue import Entry


class Side(NamedTuple):
    """One of the two files."""

    label: str
    content: bytes | None  #: None: there is no such file
    place: str = ""  #: of a snapshot's: VOLUME:/path

    @property
    def is_binary(self) -> bool:
        """Whether it is no text (a zero byte among its first ones, as diff(1) has it)."""
        return b"\0" in (self.content or b"")[:8192]


class Comparison(NamedTuple):
    """Two files, the older one first."""

    old: Side
    new: Side
    lines: list[str]  #: a unified diff; none: they are the same


def compare(
    host: Host, place: str, other: str, newer: str, say: Callable[[str], None]
) -> Comparison:
    """Compare a file; raise Failure.

    place: VOLUME[@WHEN]:/path, the older file. other: the newer one, @WHEN or a local file. If
    `newer` is not "", it names the newer file, and `other` the @WHEN of the older one.
    """
    volume, text, path = when.split_place(place)
    if newer:
        if text or not other.startswith("@"):
            raise errors.Failure(
                f"{place} {other} {newer} does not say what the older file is",
                f"write {volume}:{path} @WHEN @WHEN, or {volume}@WHEN:{path} @WHEN",
            )
        text, other = other[1:], newer
    say(f"looking for the snapshots of {volume}")
    entry = when.snapshot(host, volume, text)
    if not other.startswith("@"):
        new = _of_file(other, f"{entry.volume}:{path}")  # first: a wrong path needs no visit
        with visits.visited(host, entry, say) as root:
            old = _of_snapshot(root, entry, path)
        return Comparison(old, new, lines(old, new))
    newer_entry = when.snapshot(host, volume, other[1:])
    # One in the other: both sessions end at the same time (see visits).
    with (
        visits.visited(host, entry, say) as root,
        visits.visited(host, newer_entry, say) as newer_root,
    ):
        old = _of_snapshot(root, entry, path)
        new = _of_snapshot(newer_root, newer_entry, path)
    return Comparison(old, new, lines(old, new))


def _of_snapshot(root: int, entry: Entry, path: str) -> Side:
    """Return a file of a snapshot, whose root directory is open; raise Failure."""
    label = f"{entry.volume}@{entry.text.replace(' ', 'T')}:{path}"
    place = f"{entry.volume}:{path}"
    try:
        with paths.opened(root, path) as handle:
            return Side(label, _read(label, handle, place), place)
    except (FileNotFoundError, NotADirectoryError):
        return Side(label, None, place)
    except OSError as error:
        raise errors.Failure(f"{label}: {(error.strerror or '').lower()}") from error


def _of_file(path: str, place: str) -> Side:
    """Return a local file; raise Failure. place: what it is compared with, VOLUME:/path."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise errors.Failure(
            f"{path}: {(error.strerror or '').lower()}",
            "write the path of a file of this host, or @WHEN for another snapshot",
        ) from error
    try:
        return Side(path, _read(path, handle, place))
    finally:
        os.close(handle)


def _read(label: str, handle: int, place: str) -> bytes:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise errors.Failure(
            f"{label} is no regular file",
            "to compare two directories: auto-iscsi restore each of them, then diff -r",
        )
    if status.st_size > copying.LARGEST:
        raise errors.Failure(
            f"{label} is larger than {copying.LARGEST >> 20} MiB",
            f"auto-iscsi versions --hash {place} tells whether it has changed",
        )
    with os.fdopen(os.dup(handle), "rb") as file:
        return file.read()


def lines(old: Side, new: Side) -> list[str]:
    """Return a unified diff, none if both are the same; raise Failure when one is missing."""
    if old.content is None or new.content is None:
        missing = [side for side in (old, new) if side.content is None]
        raise errors.Failure(
            f"{' and '.join(side.label for side in missing)}: no such file",
            f"auto-iscsi versions {missing[0].place} lists the snapshots that have it",
        )
    if old.content == new.content:
        return []
    if old.is_binary or new.is_binary:
        return [f"Binary files {old.label} and {new.label} differ"]
    before, after = (_lines(content) for content in (old.content, new.content))
    return [
        line
        for compared in difflib.unified_diff(before, after, old.label, new.label, lineterm="")
        for line in compared.split("\n")
    ]


def _lines(content: bytes) -> list[str]:
    """Return the lines of a text so that two texts differ only where their bytes do.

    Not splitlines(), which takes CR LF, form feeds and others for line ends and leaves them out.
    """
    *lines, last = content.decode("utf-8", "surrogateescape").split("\n")
    return [*lines, f"{last}\n\\ No newline at end of file"] if last else lines
