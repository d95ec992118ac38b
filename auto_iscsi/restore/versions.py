"""Find the versions of a file over the snapshots of a volume."""

from __future__ import annotations

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
    """Visit each snapshot, at most `jobs` at a time; return what each has, in the same order."""
    root = visits.mount_root(host)

    def visit(entry: Entry) -> Visited:
        try:
            with visits.visited(host, root, entry, keep) as folder:
                return Visited(entry, tuple(_versions(folder, pattern, with_digest)))
        except errors.Failure as failure:
            return Visited(entry, (), failure)

    results: dict[str, Visited] = {}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        begun = [pool.submit(visit, entry) for entry in entries]
        try:
            for number, one in enumerate(concurrent.futures.as_completed(begun), 1):
                result = one.result()
                results[result.entry.key] = result
                say(f"{number} of {len(entries)} snapshots")
        except BaseException:  # ^C: what has begun ends its session, nothing else begins
            pool.shutdown(cancel_futures=True)
            raise
    return [results[entry.key] for entry in entries]


def _versions(root: int, pattern: str, with_digest: bool) -> list[Version]:
    """Return the version of each path below a snapshot's root that a pattern means."""
    is_pattern = not paths.WILDCARDS.isdisjoint(pattern)
    versions = []
    for path in paths.matching(root, pattern) if is_pattern else [pattern]:
        try:
            with paths.opened(root, path) as handle:
                versions.append(_version(path, handle, with_digest))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise errors.Failure(f"{path}: {(error.strerror or '').lower()}") from error
    return versions


def _version(path: str, handle: int, with_digest: bool) -> Version:
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
