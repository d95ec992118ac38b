"""Open files of a snapshot without leaving it.

A symbolic link in a snapshot is a stranger's: one to /etc/passwd would lead to this host's own. So
each link is followed here, below the root of the snapshot, as the server itself followed it
(openat2(2), RESOLVE_IN_ROOT, which Python does not have).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from auto_iscsi import errors, globs

_MOST_LINKS = 40  # Linux: include/linux/namei.h, MAXSYMLINKS
_MOST_MATCHES = 1000  # files that a pattern may mean
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: O_NONBLOCK: a FIFO that takes the place of a file must not hold us.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

WILDCARDS = frozenset("*?[")
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@contextlib.contextmanager
def opened(root: int, path: str) -> Iterator[int]:
    """Yield a descriptor of a file or directory; raise OSError, or Failure for anything else.

    root: a descriptor of the root of the snapshot. path: from there, with or without a slash.
    """
    with parent(root, path) as (folder, name):
        if not name:
            yield folder
            return
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise errors.Failure(f"{path} is neither a file nor a directory")
        handle = os.open(name, _FOLDER if stat.S_ISDIR(mode) else _FILE, dir_fd=folder)
        try:
            yield handle
        finally:
            os.close(handle)


@contextlib.contextmanager
def parent(root: int, path: str) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of the directory that a path ends in, and the last name, no link.

    The name is "" where the path leads to that directory itself.
    """
    folders = [os.dup(root)]
    pending = path.split("/")[::-1]
    links = 0
    try:
        while True:
            name = pending.pop() if pending else ""
            is_last = not any(each not in ("", ".") for each in pending)
            if name == "..":
                if len(folders) > 1:
                    os.close(folders.pop())
            elif name not in ("", "."):
                if target := _link(folders[-1], name):
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    while target[0] == "/" and len(folders) > 1:
                        os.close(folders.pop())
                    pending += target.split("/")[::-1]
                    continue
                if is_last:
                    yield folders[-1], name
                    return
                folders.append(os.open(name, _FOLDER, dir_fd=folders[-1]))
            if not pending:
                yield folders[-1], ""
                return
    finally:
        for folder in folders:
            os.close(folder)


def _link(folder: int, name: str) -> str:
    """Return where a symbolic link leads, "" for anything else."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return ""
        raise


def matching(root: int, pattern: str) -> list[str]:
    """Return the paths that a pattern means (fnmatch, name by name), sorted; raise Failure.

    A directory that cannot be read is a Failure: what is in it would be missing without a word.
    """
    paths = [""]
    for part in pattern.strip("/").split("/"):
        if not WILDCARDS.intersection(part):
            paths = [f"{path}/{part}" for path in paths]
            continue
        after: list[str] = []
        for path in paths:
            after += sorted(f"{path}/{name}" for name in _matching_names(root, path, part))
            if len(after) > _MOST_MATCHES:
                raise errors.Failure(
                    f"{pattern} means more than {_MOST_MATCHES} files", "write a longer pattern"
                )
        paths = after
    return paths


def _matching_names(root: int, path: str, part: str) -> list[str]:
    """Return the names in a directory that match, of more than _MOST_MATCHES only so many.

    What is no directory has none. Raise Failure.
    """
    names: list[str] = []
    try:
        with opened(root, path) as folder:
            if not stat.S_ISDIR(os.fstat(folder).st_mode):
                return []
            with os.scandir(folder) as listing:  # a stranger's directory can have any size
                for name in (each.name for each in listing):
                    is_hidden = name[0] == "." and part[0] != "."
                    if not is_hidden and globs.matches(part, name):
                        names.append(name)
                        if len(names) > _MOST_MATCHES:
                            break
    except errors.Failure:  # a FIFO, a device or the like
        return []
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise errors.Failure(f"{path or '/'}: {(error.strerror or '').lower()}") from error
    return names
