"""A host with automount for each test, and loop devices as its disks; both are removed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.automount.browse import BUILT, Browse, Disks


def missing() -> str:
    """Return what these tests need and this machine lacks, "" if it has everything."""
    if os.geteuid():
        return "root"
    for program in ("automount", "mke2fs", "fsck.ext3", "losetup", "unshare", "nsenter"):
        if not shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin"):
            return program
    known = Path("/proc/filesystems").read_text().split()
    for filesystem in ("autofs", "overlay", "ext3"):
        if filesystem not in known and not modprobe(filesystem):
            return f"{filesystem} in the kernel"
    return "" if BUILT.exists() else "make build"


def modprobe(name: str) -> bool:
    return os.system(f"modprobe -q {name} 2>/dev/null") == 0


@pytest.fixture(scope="session")
def disks() -> Iterator[Disks]:
    """Loop devices, each made when a test asks for it."""
    if what := missing():
        pytest.skip(f"needs {what}")
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-") as folder:
        made = Disks(Path(folder))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def browse(disks: Disks) -> Iterator[Browse]:
    """A host with a SAN that has nothing yet."""
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-") as folder:
        host = Browse(Path(folder), disks)
        try:
            yield host
        finally:
            host.close()
