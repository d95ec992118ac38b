"""How does one program see other files than everybody else does?

In a mount namespace of its own, with files of a tmpfs mounted over the real ones: they end with
the last process in it, and nobody else ever sees them (mount_namespaces(7), mount(2)). Through
ctypes: os has no mount, and no unshare before Python 3.12.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

_LIBC = ctypes.CDLL(None, use_errno=True)
# linux/sched.h, linux/mount.h, sys/mount.h
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x20000, 0x1000, 0x4000, 0x40000, 2


def show_to_child(files: Mapping[str, bytes], scratch: str) -> None:
    """Have this process, and what it becomes, see `files` in the place of what is there.

    For a child before its exec. `scratch` is any directory, which is as it was afterwards. Raises
    OSError; then the process has to end.
    """
    _call("unshare", "a mount namespace", ctypes.c_int(_CLONE_NEWNS))
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", scratch, "tmpfs", 0, "mode=0700")
    for number, (path, content) in enumerate(files.items()):
        source = f"{scratch}/{number}"
        handle = os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while content:
                content = content[os.write(handle, content) :]
        finally:
            os.close(handle)
        _mount(source, path, None, _MS_BIND)
    _call("umount2", scratch, os.fsencode(scratch), ctypes.c_int(_MNT_DETACH))


def _mount(source: str | None, place: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, place, kind)]
    _call("mount", place, *words, ctypes.c_ulong(flags), os.fsencode(data) or None)


def _call(name: str, about: str, *args: object) -> None:
    if getattr(_LIBC, name)(*args):
        number = ctypes.get_errno()
        raise OSError(number, f"{name} of {about}: {os.strerror(number)}")
