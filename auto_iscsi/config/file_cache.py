"""List the configuration files, and keep what was read from them until one of them changes.

ConfigObj parses 1,000 sections in the time that the rest of a lookup takes, and to interpret even a
few takes as long as all else that a warm lookup does. So the result is kept below /run/auto-iscsi
and is used as long as the files have the same device, inode, size, mode, owner, modification and
change time, and our version and Python's are the same. In any doubt the cache counts as empty.

The cache is written with marshal, which trusts its input: it is read only from a directory and a
file that are ours and that nobody else can access.
"""

from __future__ import annotations

import binascii
import marshal
import os
import stat
import sys
import time

import auto_iscsi
from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, contextmanager, suppress
from auto_iscsi.machine import state_files
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    Files = Sequence[tuple[str, os.stat_result]]

FILE = "/etc/auto.iscsi.conf"
FOLDER = "/etc/auto.iscsi.conf.d"
SECTIONS = "config"
_FORMAT = 2
SETTLE_TIME = 2.0  #: seconds after a change until the next one is sure to have other times


def list_names(host: Host) -> list[str]:
    """Return the names of the files that a lookup reads, in order, whether they exist or not."""
    return [FILE, *(f"{FOLDER}/{name}" for name in host.names(FOLDER) if name.endswith(".conf"))]


def list_existing(host: Host) -> Files:
    """Return the names of the files that exist, with their status (stat(2))."""
    files = ((name, host.stat(name)) for name in list_names(host))
    return [(name, status) for name, status in files if status]


def with_folder(host: Host, files: Files) -> Files:
    """Return the files and their folder: what only root may be able to write, if root is /."""
    if host.root != "/":
        return []
    folder = host.stat(FOLDER)
    return [*files, *([(FOLDER, folder)] if folder else [])]


def are_safe(host: Host, files: Files) -> bool:
    """Tell whether nobody but root can write the files or their folder."""
    statuses = [status for _, status in with_folder(host, files)]
    return not any(status.st_uid or status.st_mode & 0o022 for status in statuses)


def read(host: Host, files: Files, name: str = SECTIONS) -> Any:
    """Return the value that was kept for these files under a name, None in any doubt."""
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
    if binascii.crc32(body).to_bytes(4, "big") != data[len(head) : start]:
        return None
    try:
        return marshal.loads(body)
    except (EOFError, TypeError, ValueError):
        return None


def write(
    host: Host, files: Files, value: Any, name: str = SECTIONS, settled: float = SETTLE_TIME
) -> None:
    """Keep `value` if possible, and if no file was changed in the last `settled` seconds."""
    now = time.time()
    if any(now - max(status.st_mtime, status.st_ctime) < settled for _, status in files):
        return
    body = marshal.dumps(value)
    data = _head(files) + binascii.crc32(body).to_bytes(4, "big") + body
    with suppress(OSError, errors.Failure):
        state_files.write(host, name, data, is_locked=False)


def are_same(one: Files, other: Files) -> bool:
    """Return whether two lists have the same files, and none was changed in between."""
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
    handle = os.open(host.path(state_files.FOLDER), flags)
    try:
        if not _private(os.fstat(handle)):
            raise PermissionError
        yield handle
    finally:
        os.close(handle)


def _private(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077
