"""Copy only the parts of a large file that are not zero.

Disk files of hundreds of MiB are nearly all holes. SEEK_DATA leaves those out; the rest is compared
with zeros block by block, because mkfs writes zeros too.
"""

from __future__ import annotations

import os
from pathlib import Path

BLOCK = 1 << 16


def data_of(source: Path) -> list[tuple[int, int]]:
    """Return offset and size of the parts of a file that are not zero, in whole blocks."""
    extents: list[tuple[int, int]] = []
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
                if extents and sum(extents[-1]) == offset:
                    extents[-1] = (extents[-1][0], extents[-1][1] + len(block))
                else:
                    extents.append((offset, len(block)))
            offset += BLOCK
    return extents


def copy_into(source: Path, place: Path, start: int) -> None:
    """Copy a file's content to an offset in another file, which has a hole there."""
    with source.open("rb") as file, place.open("r+b") as other:
        for offset, size in data_of(source):
            file.seek(offset)
            other.seek(start + offset)
            other.write(file.read(size))
