"""Open files of a snapshot without leaving it.

A symbolic link in a snapshot is a stranger's: one to /etc/passwd would lead to this host's own. So
each link is followed here, below the root of the snapshot, as the server itself followed it
(openat2(2), RESOLVE_IN_ROOT, which Python does not have).
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import stat
from collections.abc import Iterator

from auto_iscsi import errors

_MOST_LINKS = 40  # Linux: include/linux/namei.h, MAXSYMLINKS
_MOST_MATCHES = 1000  # files that a pattern may mean
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: O_NONBLOCK: a FIFO that takes the place of a file must not hold us.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

WILDCARDS = frozenset("*?[")


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
    """Return the paths that a pattern means (fnmatch, name by name), sorted; raise Failure."""
    paths = [""]
    for part in pattern.strip("/").split("/"):
        if not WILDCARDS.intersection(part):
            paths = [f"{path}/{part}" for path in paths]
            continue
        after = []
        for path in paths:
            with contextlib.suppress(OSError, errors.Failure), opened(root, path) as folder:
                names = fnmatch.filter(sorted(os.listdir(folder)), part)
                after += [f"{path}/{name}" for name in names if name[0] != "." or part[0] == "."]
        paths = after
        if len(paths) > _MOST_MATCHES:
            raise errors.Failure(
                f"{pattern} means more than {_MOST_MATCHES} files", "write a longer pattern"
            )
    return paths
