"""Find what this host lacks to run the bed.

The bed installs nothing: tests/prepare does. Without it the tests report what is missing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: Program → the Debian package that has it.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
}
#: The same for the programs that only tests need, to make disks.
FILESYSTEMS = {
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "mkntfs": "ntfs-3g",
    "xorriso": "xorriso",
    "mksquashfs": "squashfs-tools",
}


def missing(*, filesystems: bool = False) -> list[str]:
    """Return the missing programs and rights, as text."""
    programs = {**PROGRAMS, **(FILESYSTEMS if filesystems else {})}
    lacking = [
        f"{program} (package {package})"
        for program, package in programs.items()
        if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    ]
    if os.geteuid():
        lacking.append("root (mmdebstrap and mke2fs -d keep owners only for it)")
    return lacking


def required() -> bool:
    """Say whether a missing program is a failure and no reason to skip."""
    return os.environ.get("CI") == "true" or os.environ.get("BED_REQUIRED") == "1"


def newest_deb(tree: Path) -> Path | None:
    """Return the package that `make deb` built last, or None."""
    built = sorted((tree / "dist").glob("auto-iscsi_*.deb"), key=lambda path: path.stat().st_mtime)
    return built[-1] if built else None
