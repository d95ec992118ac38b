"""Give one program its own content for some files.

In a mount namespace of the program's own, files of a tmpfs are mounted over the real ones. No other
process sees them, and they vanish with the last process of the namespace (mount_namespaces(7),
mount(2)). This goes through ctypes: Python's os has no mount, and no unshare before Python 3.12.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

_LIBC = ctypes.CDLL(None, use_errno=True)
# linux/sched.h, linux/mount.h, sys/mount.h
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x20000, 0x1000, 0x4000, 0x40000, 2


def mount_over(files: Mapping[str, bytes], scratch: str) -> None:
    """Show this process, and the program that it becomes, `files` (content by path) in their place.

    Called in a child before its exec. `scratch` is any directory; it is unchanged afterwards. Raise
    OSError when something fails; then the process has to end.
    """
    leave_namespace()
    mount("tmpfs", scratch, "tmpfs", 0, "mode=0700")
    for number, (path, content) in enumerate(files.items()):
        source = f"{scratch}/{number}"
        handle = os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while content:
                content = content[os.write(handle, content) :]
        finally:
            os.close(handle)
        mount(source, path, None, _MS_BIND)
    detach(scratch)


def leave_namespace() -> None:
    """Give this process a mount namespace of its own, whose mounts nobody else sees."""
    _call("unshare", "a mount namespace", ctypes.c_int(_CLONE_NEWNS))
    mount(None, "/", None, _MS_REC | _MS_PRIVATE)


def detach(place: str) -> None:
    """Unmount what is mounted at `place`; who has it open keeps it until he closes it."""
    _call("umount2", place, os.fsencode(place), ctypes.c_int(_MNT_DETACH))


def mount(source: str | None, place: str, fstype: str | None, flags: int, data: str = "") -> None:
    """Mount as mount(2) does; raise OSError."""
    words = [None if word is None else os.fsencode(word) for word in (source, place, fstype)]
    _call("mount", place, *words, ctypes.c_ulong(flags), os.fsencode(data) or None)


def _call(function: str, subject: str, *arguments: object) -> None:
    """Call a function of the C library; raise OSError when it fails."""
    if getattr(_LIBC, function)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{function} of {subject}: {os.strerror(number)}")
