"""Have these very files been read before?

ConfigObj takes as long for 1,000 sections as the rest of a lookup, and to find out what a few mean
takes as long as all else when there is nothing to do. So what was made of the files is kept, below
/run/auto-iscsi, and is used as long as they are the same: device, inode, size, mode, owner and
both times, our version and Python's. On any doubt it is not there.

It is written with marshal, which trusts its input: it is read only from a directory and a file
that are ours and that nobody else can look into.
"""

from __future__ import annotations

import marshal
import os
import stat
import sys
import time
import zlib

import auto_iscsi
from auto_iscsi.lean_stdlib import TYPE_CHECKING, contextmanager, suppress
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    Files = Sequence[tuple[str, os.stat_result]]

FOLDER = "/run/auto-iscsi"
SECTIONS = "config"
_FORMAT = 2
SETTLED = 2.0  #: seconds after which another change cannot have the same times


def read(host: Host, files: Files, name: str = SECTIONS) -> Any:
    """Return what was kept of these files under a name, None when that is not certain."""
    try:
        with _folder(host) as folder:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                status = os.fstat(handle)
                if not stat.S_ISREG(status.st_mode) or not _private(status):
                    return None
                data = os.read(handle, status.st_size + 1)
            finally:
                os.close(handle)
    except OSError:
        return None
    head = _head(files)
    start = len(head) + 4
    if len(data) != status.st_size or not data.startswith(head):
        return None
    body = memoryview(data)[start:]
    if zlib.crc32(body).to_bytes(4, "big") != data[len(head) : start]:
        return None
    try:
        return marshal.loads(body)
    except (EOFError, TypeError, ValueError):
        return None


def write(
    host: Host, files: Files, value: Any, name: str = SECTIONS, settled: float = SETTLED
) -> None:
    """Keep `value`, unless the files were changed less than `settled` seconds ago."""
    now = time.time()
    if any(now - max(s.st_mtime, s.st_ctime) < settled for _, s in files):
        return
    body = marshal.dumps(value)
    data = _head(files) + zlib.crc32(body).to_bytes(4, "big") + body
    new = f"{name}.{os.getpid()}"
    with suppress(OSError):
        for path in (FOLDER, os.path.dirname(f"{FOLDER}/{name}")):
            if not os.path.isdir(host.path(path)):
                os.mkdir(host.path(path), 0o700)
        with _folder(host) as folder:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(new, flags, 0o600, dir_fd=folder)
            try:
                complete = os.write(handle, data) == len(data)
            finally:
                os.close(handle)
            if complete:
                os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                os.unlink(new, dir_fd=folder)


def same(one: Files, other: Files) -> bool:
    """Say whether no file was changed, added or taken away between two looks."""
    return _head(one) == _head(other)


def _head(files: Files) -> bytes:
    identity = [
        (name, s.st_dev, s.st_ino, s.st_size, s.st_mode, s.st_uid, s.st_mtime_ns, s.st_ctime_ns)
        for name, s in files
    ]
    return f"{_FORMAT} {auto_iscsi.__version__} {sys.version!r} {identity!r}\0".encode()


@contextmanager
def _folder(host: Host) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(host.path(FOLDER), flags)
    try:
        if not _private(os.fstat(handle)):
            raise PermissionError
        yield handle
    finally:
        os.close(handle)


def _private(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077
