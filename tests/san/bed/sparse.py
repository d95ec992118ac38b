"""Which parts of a large file are worth copying?

Disks of hundreds of MiB are nearly all holes: SEEK_DATA leaves those out, and what is left is
looked at in blocks, because mkfs writes zeros too.
"""

from __future__ import annotations

import os
from pathlib import Path

BLOCK = 1 << 16


def data_of(source: Path) -> list[tuple[int, int]]:
    """Return offset and size of what is not zero in a file, in whole blocks."""
    found: list[tuple[int, int]] = []
    size = source.stat().st_size
    with source.open("rb") as file:
        offset = 0
        while offset < size:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                break
            offset -= offset % BLOCK
            file.seek(offset)
            block = file.read(BLOCK)
            if block.strip(b"\0"):
                if found and sum(found[-1]) == offset:
                    found[-1] = (found[-1][0], found[-1][1] + len(block))
                else:
                    found.append((offset, len(block)))
            offset += BLOCK
    return found


def copy_into(source: Path, place: Path, start: int) -> None:
    """Copy what a file holds to an offset of another one, which has holes there."""
    with source.open("rb") as file, place.open("r+b") as other:
        for offset, size in data_of(source):
            file.seek(offset)
            other.seek(start + offset)
            other.write(file.read(size))
