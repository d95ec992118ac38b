"""Find the versions of a file over the snapshots of a volume."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import os
import stat
from collections.abc import Sequence
from typing import Callable, NamedTuple

from auto_iscsi import errors
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import paths, visits
from auto_iscsi.san.catalogue import Entry

_BLOCK = 1 << 20  # bytes read at a time


class Version(NamedTuple):
    """What a file was in a snapshot. Two snapshots with an equal one have the same version."""

    path: str
    kind: str  #: file or directory
    size: int  #: bytes
    mtime: int  #: ns since 1970
    owner: int
    group: int
    mode: int  #: permission bits
    digest: str  #: SHA-256 of the content, or "" if it was not asked for

    def is_same(self, other: Version) -> bool:
        """Tell whether this is the same version; a digest decides alone, if there are two."""
        if self.digest and other.digest and self.path == other.path:
            return self.digest == other.digest
        return self == other


class Visited(NamedTuple):
    """What one snapshot has."""

    entry: Entry
    versions: tuple[Version, ...]  #: one for each path that the pattern means; none: it is missing
    failure: errors.Failure | None = None  #: why it could not be visited


def find(
    host: Host,
    entries: Sequence[Entry],
    pattern: str,
    jobs: int,
    with_digest: bool,
    keep: bool,
    say: Callable[[str], None],
) -> list[Visited]:
    """Visit each snapshot, at most `jobs` at a time; return what each has, in the same order.

    A visit's session ends a moment after it (visits.end); the next visit does not wait for that.
    After ^C no visit begins any more, and those that have begun end; a second ^C leaves their
    sessions to the reaper.
    """
    root = visits.mount_root(host)
    waiting = collections.deque(entries)
    running: list[str] = []
    ending: list[concurrent.futures.Future[None]] = []
    results: dict[str, Visited] = {}

    def tell() -> None:
        visiting = f"; visiting {', '.join(running)}" if running else ""
        say(f"{len(results)} of {len(entries)} snapshots{visiting}")

    def visit(entry: Entry) -> Visited:
        try:
            begun = visits.begin(host, root, entry)
            try:
                return Visited(entry, tuple(_versions(begun.folder, pattern, with_digest)))
            finally:
                if keep:
                    os.close(begun.folder)
                else:
                    ending.append(visits.in_thread(lambda: visits.end(host, begun)))
        except errors.Failure as failure:
            return Visited(entry, (), failure)

    def work() -> None:
        while True:
            try:
                entry = waiting.popleft()
            except IndexError:
                return
            running.append(entry.text)
            tell()
            results[entry.key] = visit(entry)
            running.remove(entry.text)
            tell()

    with visits.held_interrupts() as release:
        workers = [visits.in_thread(work) for _ in range(min(jobs, len(entries)))]
        try:
            release()
            for worker in workers:
                worker.result()
            say("ending the visits")
            for each in ending:
                each.result()
        except BaseException as error:
            waiting.clear()
            is_interrupt = isinstance(error, KeyboardInterrupt)
            say("interrupted; ending the visits" if is_interrupt else "ending the visits")
            concurrent.futures.wait(workers)
            concurrent.futures.wait(ending)
            raise
    return [results[entry.key] for entry in entries]


def _versions(root: int, pattern: str, with_digest: bool) -> list[Version]:
    """Return the version of each path below a snapshot's root that a pattern means."""
    is_pattern = not paths.WILDCARDS.isdisjoint(pattern)
    versions = []
    for path in paths.matching(root, pattern) if is_pattern else [pattern]:
        try:
            with paths.opened(root, path) as handle:
                versions.append(describe(path, handle, with_digest))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise errors.Failure(f"{path}: {(error.strerror or '').lower()}") from error
    return versions


def describe(path: str, handle: int, with_digest: bool) -> Version:
    """Return the version that an open file or directory is."""
    status = os.fstat(handle)
    is_folder = stat.S_ISDIR(status.st_mode)
    digest = _digest(handle) if with_digest and not is_folder else ""
    return Version(
        path,
        "directory" if is_folder else "file",
        0 if is_folder else status.st_size,
        status.st_mtime_ns,
        status.st_uid,
        status.st_gid,
        stat.S_IMODE(status.st_mode),
        digest,
    )


def _digest(handle: int) -> str:
    digest = hashlib.sha256()
    while block := os.read(handle, _BLOCK):
        digest.update(block)
    return digest.hexdigest()
