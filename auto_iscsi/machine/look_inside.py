"""Mount filesystems where nobody else sees them, and look at files in them.

A child process calls this (bounded.run), in a mount namespace of its own, so that its mounts end
with it. No symbolic link is ever followed: what is mounted is a stranger's, and a link can lead out
of it to the host's own files.
"""

from __future__ import annotations

import os
import stat

from auto_iscsi.machine import private_files

_READ_ONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8  # linux/mount.h
_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_mounted(source: str, point: str, fstype: str, options: str) -> int:
    """Mount a device read-only, and return a descriptor of its root directory; raise OSError.

    `point` is a directory, and unchanged afterwards: the mount lives as long as the descriptor.
    """
    flags = _READ_ONLY | _NOSUID | _NODEV | _NOEXEC
    private_files.mount(source, point, fstype, flags, options)
    try:
        return os.open(point, _WALK)
    finally:
        private_files.detach(point)


def open_directory(root: int, path: str) -> int:
    """Return a descriptor of a directory below the descriptor `root`; raise OSError.

    Each part of `path` has to be a real directory.
    """
    current = os.dup(root)
    for part in filter(None, path.split("/")):
        if part in (".", ".."):
            os.close(current)
            raise OSError(f"{path} leads through {part}")
        try:
            below = os.open(part, _WALK, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current


def is_directory(root: int, path: str) -> bool:
    """Tell whether `path` below the descriptor `root` is a real directory."""
    try:
        os.close(open_directory(root, path))
    except (OSError, ValueError):
        return False
    return True


def read_file(root: int, folder: str, name: str, largest: int) -> bytes | None:
    """Return the content of a file below the descriptor `root`; raise OSError.

    None when it is none, no regular file, or larger than `largest` bytes.
    """
    directory = -1
    try:
        directory = open_directory(root, folder)
        # Without O_NONBLOCK, the open would wait for the other end of a named pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return None
        handle = os.open(name, flags, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    finally:
        if directory >= 0:
            os.close(directory)
    try:
        data = b""
        while len(data) <= largest and (part := os.read(handle, largest + 1 - len(data))):
            data += part
    finally:
        os.close(handle)
    return data if len(data) <= largest else None
