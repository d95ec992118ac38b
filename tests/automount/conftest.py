"""Loop devices to be mounted, and a host with automount for each test, of which nothing is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.automount.browse import BUILT, Browse, loop_device

DISKS: list[str] = []  # MAJOR:MINOR of each


def missing() -> str:
    """Return what these tests would need and this machine has not, "" when it has all."""
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
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have loop devices, whose important files say disk-0, disk-1, …"""
    if what := missing():
        pytest.skip(f"needs {what}")
    folder = tmp_path_factory.mktemp("disks")
    with contextlib.ExitStack() as stack:
        for number in range(8):
            device = loop_device(folder / f"{number}", f"disk-{number}")
            DISKS.append(stack.enter_context(device))
        yield
        DISKS.clear()


@pytest.fixture
def browse(disks: None) -> Iterator[Browse]:
    """A host with a SAN that has nothing yet."""
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-") as folder:
        host = Browse(Path(folder), DISKS)
        try:
            yield host
        finally:
            host.close()
