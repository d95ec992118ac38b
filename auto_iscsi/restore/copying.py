"""Copy a file out of a snapshot."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Callable

from auto_iscsi import errors, wording
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import paths, versions, visits
from auto_iscsi.restore.versions import Version
from auto_iscsi.san.catalogue import Entry

LARGEST = 16 << 20  # bytes of a file that is taken into memory
_BLOCK = 1 << 20  # bytes read at a time


def write_file(
    host: Host, entry: Entry, path: str, output: int, say: Callable[[str], None]
) -> None:
    """Write the content of a file of a snapshot to a descriptor; raise Failure.

    On a terminal nothing is said after the file has begun: it would overwrite the file's last line.
    """
    is_terminal = os.isatty(output)
    written = 0

    def say_beside(text: str) -> None:
        if not (is_terminal and written):
            say(text)

    with _opened(host, entry, path, say_beside) as handle:
        size = os.fstat(handle).st_size
        while block := os.read(handle, _BLOCK):
            while block:
                count = _write(output, block)
                written, block = written + count, block[count:]
            say_beside(f"{wording.size(written)} of {wording.size(size)}")


def _write(output: int, block: bytes) -> int:
    try:
        return os.write(output, block)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise errors.Failure(f"stdout: {(error.strerror or '').lower()}") from error


def read_file(
    host: Host, entry: Entry, path: str, say: Callable[[str], None]
) -> tuple[Version, bytes]:
    """Return what a file of a snapshot is, and its content; raise Failure."""
    with _opened(host, entry, path, say) as handle:
        if os.fstat(handle).st_size > LARGEST:
            raise errors.Failure(
                f"{path} is larger than {LARGEST >> 20} MiB", "run the same without --json"
            )
        with os.fdopen(os.dup(handle), "rb") as file:
            return versions.describe(path, handle, with_digest=False), file.read()


@contextlib.contextmanager
def _opened(host: Host, entry: Entry, path: str, say: Callable[[str], None]) -> Iterator[int]:
    """Yield a descriptor of a file of a snapshot; raise Failure, also for what goes wrong then."""
    with visits.visited(host, entry, say) as root:
        try:
            with paths.opened(root, path) as handle:
                if stat.S_ISDIR(os.fstat(handle).st_mode):
                    raise errors.Failure(
                        f"{path} is a directory",
                        f"auto-iscsi restore {entry.volume}:{path} DESTINATION copies it",
                    )
                yield handle
        except BrokenPipeError:  # of stdout
            raise
        except OSError as error:
            raise errors.Failure(
                f"{entry.volume} of {entry.text}: {path}: {(error.strerror or '').lower()}",
                f"run auto-iscsi versions {entry.volume}:{path}",
            ) from error
