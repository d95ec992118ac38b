"""Copy a file out of a snapshot."""

from __future__ import annotations

import os
import stat

from auto_iscsi import errors
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import paths, visits
from auto_iscsi.san.catalogue import Entry

_BLOCK = 1 << 20  # bytes read at a time


def write_file(host: Host, entry: Entry, path: str, output: int) -> None:
    """Write the content of a file of a snapshot to a descriptor; raise Failure."""
    with visits.visited(host, visits.mount_root(host), entry, keep=False) as root:
        try:
            with paths.opened(root, path) as handle:
                if stat.S_ISDIR(os.fstat(handle).st_mode):
                    raise errors.Failure(
                        f"{path} is a directory",
                        f"auto-iscsi restore {entry.volume}:{path} DESTINATION copies it",
                    )
                while block := os.read(handle, _BLOCK):
                    while block:
                        block = block[os.write(output, block) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise errors.Failure(
                f"{entry.volume} of {entry.text}: {path}: {(error.strerror or '').lower()}",
                f"run auto-iscsi versions {entry.volume}:{path}",
            ) from error
