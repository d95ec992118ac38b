"""Write files below /run/auto-iscsi and /var/lib/auto-iscsi, which only root may read.

Each file is replaced in one step: its new content goes to a draft beside it, whose name starts with
a dot, and the draft is renamed. Whoever reads the file sees the old content or the new one. A
killed process can leave its draft behind; the reaper deletes it.
"""

from __future__ import annotations

import errno
import os

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, contextmanager, suppress
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "/run/auto-iscsi"
_NOT_WRITABLE = {
    errno.ENOSPC: "make room: df -h {0}; df -i {0}",
    errno.EDQUOT: "make room: df -h {0}; df -i {0}",
    errno.EROFS: "mount the filesystem of {0} writable",
}


def write(
    host: Host,
    name: str,
    data: bytes,
    *,
    is_locked: bool,
    below: str = FOLDER,
    durable: bool = False,
) -> None:
    """Replace the file `name` below a folder; raise NotPermitted, Failure or OSError.

    `is_locked`: the caller holds the lock that protects the file. Otherwise two processes can write
    the file at the same time, and each needs a draft of its own. `durable`: return when the file is
    on the disk.
    """
    path = host.path(f"{below}/{name}")
    folder, _, base = path.rpartition("/")
    draft = f"{folder}/.{base}" if is_locked else f"{folder}/.{base}.{os.getpid()}"
    make_folder(folder)
    with expect_refusals(path):
        handle = _open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            try:
                while data:
                    data = data[os.write(handle, data) :]
                if durable:
                    os.fsync(handle)
            finally:
                os.close(handle)
            os.rename(draft, path)
            if durable:
                sync_folder(folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft)
            raise


def open_private(path: str, flags: int) -> int:
    """Open a file that only root may read, never through a symbolic link."""
    with expect_refusals(path):
        return _open(path, flags)


def delete(path: str) -> None:
    """Delete a file that may be gone already; raise NotPermitted, Failure or OSError."""
    with expect_refusals(path), suppress(FileNotFoundError):
        os.unlink(path)


def make_folder(path: str) -> None:
    """Make a folder, and what is missing above it."""
    if not os.path.isdir(path):
        make_folder(os.path.dirname(path))
        with expect_refusals(path), suppress(FileExistsError):
            os.mkdir(path, 0o700)


def sync_folder(path: str) -> None:
    """Return when the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextmanager
def expect_refusals(path: str) -> Iterator[None]:
    """Raise NotPermitted or Failure, with the path, where the kernel refuses to write."""
    try:
        yield
    except PermissionError as error:
        raise errors.NotPermitted(f"{path}: permission denied", "run it as root") from error
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        why, folder = (error.strerror or "").lower(), os.path.dirname(path)
        hint = _NOT_WRITABLE[error.errno].format(folder)
        raise errors.Failure(f"{path}: {why}", hint) from error
