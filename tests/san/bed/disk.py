"""Make a disk for the SAN: a partition table, and filesystems with files in them.

The filesystems are made on the host without a mount (`mke2fs -d`, `mkfs.xfs -p`,
`mkfs.btrfs --rootdir`, mtools, ntfscp, xorriso, mksquashfs), and copied to the offsets of their
partitions in a disk file.
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
#: In MiB, about the smallest size that mkfs accepts.
SIZES = {
    "ext2": 8,
    "ext3": 8,
    "ext4": 8,
    "xfs": 300,
    "btrfs": 128,
    "vfat": 8,
    "ntfs": 8,
    "iso9660": 8,
    "squashfs": 8,
    "swap": 8,
    "": 8,
}


class Filesystem(NamedTuple):
    """A filesystem to be made; kind "" leaves the space empty."""

    kind: str
    files: tuple[tuple[str, str | bytes], ...]
    label: str
    uuid: str
    size: int  # MiB
    options: tuple[str, ...]
    efi: bool


class Disk(NamedTuple):
    """A disk to be made: filesystems in partitions, or one on the whole of it (table "")."""

    parts: tuple[Filesystem, ...]
    table: str
    block_size: int
    serial: str
    slack: int  # MiB after the last partition


def fs(
    kind: str,
    files: Mapping[str, str | bytes] | None = None,
    *,
    label: str = "",
    uuid: str = "",
    size: int | None = None,
    options: Sequence[str] = (),
    efi: bool = False,
) -> Filesystem:
    """Describe a filesystem: its type, what is in it, and options for its mkfs; size in MiB.

    `efi`: its partition is an EFI system partition.
    """
    content = tuple((files or {}).items())
    return Filesystem(kind, content, label, uuid, size or SIZES[kind], tuple(options), efi)


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
    """Describe a directory for mkfs.xfs -p: mode, uid, gid and content; `$` ends a directory."""

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
            argv += ["-b", f"{block_size}"] if block_size > 1024 else []
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
            argv = ["mkfs.vfat", "-S", f"{block_size}"]
            argv += ["-n", each.label] if each.label else []
            argv += ["-i", each.uuid.replace("-", "")] if each.uuid else []
        elif each.kind == "ntfs":
            argv = ["mkntfs", "-q", "-F", "-f", "-s", f"{block_size}", "-p", "0"]
            argv += ["-L", each.label] if each.label else []
        elif each.kind == "iso9660":
            argv = ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", each.label or "ISO"]
            run_tool(argv, [*each.options, "-o", image, root])
            return
        elif each.kind == "squashfs":
            run_tool(["mksquashfs", root, image], ["-noappend", "-all-root", *each.options])
            return
        else:
            argv = ["mkswap", "-q"]
        run_tool(argv, [*each.options, image])
        for name, _ in each.files if each.kind in ("vfat", "ntfs") else ():
            data = root / name
            if each.kind == "ntfs":  # ntfscp makes no directories
                run_tool(["ntfscp", "-q", "-f"], [image, data, name])
            elif not name.endswith("/"):
                for parent in reversed(list(Path(name).parents)[:-1]):
                    run_tool(["mmd", "-D", "s", "-i", image], [f"::{parent}"])
                run_tool(["mcopy", "-i", image], [data, f"::{name}"])


def run_tool(program: Sequence[str | Path], words: Sequence[str | Path]) -> None:
    """Run a program that makes a filesystem or fills it."""
    argv = [*map(str, program), *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]}: {done.stdout}{done.stderr}")


def extend(image: Path, size: int) -> None:
    """Extend a file to its full size: some tools make it as short as its content."""
    if image.stat().st_size < size:
        with image.open("r+b") as file:
            file.truncate(size)


def build(disk: Disk, place: Path) -> None:
    """Build a disk in a sparse file."""
    if not disk.table:
        make(disk.parts[0], place, disk.block_size)
        extend(place, disk.parts[0].size * MIB)
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
        extend(inside, part.size * MIB)
        sparse.copy_into(inside, place, start)
        inside.unlink()
    table = tables.dos if disk.table == "dos" else tables.gpt
    spans = [
        (start // disk.block_size, part.size * MIB // disk.block_size)
        for start, part in zip(starts, disk.parts)
    ]
    with place.open("r+b") as file:
        for offset, data in table(
            spans, size // disk.block_size, disk.block_size, [part.efi for part in disk.parts]
        ):
            file.seek(offset)
            file.write(data)
