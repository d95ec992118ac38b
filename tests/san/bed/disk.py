"""What is on a disk that the SAN presents?

Filesystems are made on the host with files in them and without a mount (`mke2fs -d`,
`mkfs.xfs -p`, `mkfs.btrfs --rootdir`), and laid into a disk file at the places that its partition
table names.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from . import sparse, tables

MIB = 1 << 20
ALIGN = MIB
#: The smallest that mkfs makes, or nearly.
SIZES = {"ext2": 8, "ext3": 8, "ext4": 8, "xfs": 300, "btrfs": 128, "vfat": 8, "swap": 8, "": 8}


class Filesystem(NamedTuple):
    """A filesystem to be made; kind "" is a place without one."""

    kind: str
    files: tuple[tuple[str, str | bytes], ...]
    label: str
    uuid: str
    size: int  # MiB
    options: tuple[str, ...]


class Disk(NamedTuple):
    """A disk to be made: filesystems in partitions, or one on the whole of it (table "")."""

    parts: tuple[Filesystem, ...]
    table: str
    block_size: int
    serial: str
    slack: int  # MiB after the last partition


def fs(kind: str, files: Mapping[str, str | bytes] | None = None, *, label: str = "",
       uuid: str = "", size: int | None = None, options: Sequence[str] = ()) -> Filesystem:
    """Describe a filesystem: its type, what is in it, and options for its mkfs; size in MiB."""
    content = tuple((files or {}).items())
    return Filesystem(kind, content, label, uuid, size or SIZES[kind], tuple(options))


def tree(files: Sequence[tuple[str, str | bytes]], place: Path) -> Path:
    """Write files below a directory; a name that ends in a slash is an empty directory."""
    place.mkdir()
    for name, content in files:
        path = place / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for each in (path, *path.parents):
            if each == place:
                break
            each.chmod(0o755 if each.is_dir() else 0o644)
    place.chmod(0o755)
    return place


def prototype(place: Path) -> str:
    """Return a directory as mkfs.xfs -p reads it: (mode uid gid content…), `$` ends a directory."""
    def entries(directory: Path) -> list[str]:
        lines = []
        for path in sorted(directory.iterdir()):
            if path.is_dir():
                lines += [f"{path.name} d--755 0 0", *entries(path), "$"]
            else:
                lines.append(f"{path.name} ---644 0 0 {path}")
        return lines
    return "\n".join(["/dev/null", "0 0", "d--755 0 0", *entries(place), "$", ""])


def make(each: Filesystem, image: Path, block_size: int) -> None:
    """Make one filesystem in a file of its own."""
    with image.open("wb") as file:
        file.truncate(each.size * MIB)
    if not each.kind:
        return
    with tempfile.TemporaryDirectory(prefix="bed-fs-") as scratch:
        root = tree(each.files, Path(scratch) / "root")
        argv: list[str | Path]
        if each.kind.startswith("ext"):
            argv = ["mke2fs", "-q", "-F", "-t", each.kind, "-d", root, "-E", "root_owner=0:0"]
            argv += ["-L", each.label] if each.label else []
            argv += ["-U", each.uuid] if each.uuid else []
        elif each.kind == "xfs":
            proto = Path(scratch) / "proto"
            proto.write_text(prototype(root))
            argv = ["mkfs.xfs", "-q", "-f", "-p", proto, "-s", f"size={block_size}"]
            argv += ["-L", each.label] if each.label else []
            argv += ["-m", f"uuid={each.uuid}"] if each.uuid else []
        elif each.kind == "btrfs":
            argv = ["mkfs.btrfs", "-q", "-f", "--rootdir", root]
            argv += ["-L", each.label] if each.label else []
            argv += ["-U", each.uuid] if each.uuid else []
        elif each.kind == "vfat":
            argv = ["mkfs.vfat"]
            argv += ["-n", each.label] if each.label else []
            argv += ["-i", each.uuid.replace("-", "")] if each.uuid else []
        else:
            argv = ["mkswap", "-q"]
        made = subprocess.run([*map(str, argv), *each.options, str(image)], capture_output=True,
                              text=True, check=False)
        if made.returncode:
            raise RuntimeError(f"{argv[0]}: {made.stdout}{made.stderr}")


def build(disk: Disk, place: Path) -> None:
    """Build a disk in a sparse file."""
    if not disk.table:
        make(disk.parts[0], place, disk.block_size)
        return
    starts, end = [], ALIGN
    for part in disk.parts:
        starts.append(end)
        end += part.size * MIB
    size = end + disk.slack * MIB
    with place.open("wb") as file:
        file.truncate(size)
    for start, part in zip(starts, disk.parts):
        inside = place.with_name(place.name + ".part")
        make(part, inside, disk.block_size)
        sparse.copy_into(inside, place, start)
        inside.unlink()
    table = tables.dos if disk.table == "dos" else tables.gpt
    spans = [(start // disk.block_size, part.size * MIB // disk.block_size)
             for start, part in zip(starts, disk.parts)]
    with place.open("r+b") as file:
        for offset, data in table(spans, size // disk.block_size, disk.block_size):
            file.seek(offset)
            file.write(data)
