"""Does a stranger's journal lead automount to the host's own directories?

automount mounts at a path, and follows a symbolic link in the middle of it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from auto_iscsi.config import schema
from auto_iscsi.disks.scsi_disks import Device
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import mountable, system
from tests.tree.tree import Content, make_tree

TARGET = "iqn.2001-05.com.example:server"
BLOCK = 1024  # bytes
NAMES = {"/p1": frozenset({"LABEL=root"}), "/p2": frozenset({"LABEL=data"})}
TABLE = "LABEL=root / ext4\nLABEL=data /srv/data ext4\n"


def run(*words: object) -> str:
    return subprocess.run(
        [str(word) for word in words],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout.strip()


def with_journal(image: Path, *changes: str) -> None:
    """Write changes, commands of debugfs(8), to the journal of an ext4 and to nothing else."""
    changed, data = image.with_suffix(".changed"), image.with_suffix(".data")
    before = image.read_bytes()
    changed.write_bytes(before)
    for change in changes:
        run("debugfs", "-w", "-R", change, changed)
    after = changed.read_bytes()
    blocks = [
        at // BLOCK
        for at in range(0, len(before), BLOCK)
        if before[at : at + BLOCK] != after[at : at + BLOCK]
    ]
    data.write_bytes(b"".join(after[at * BLOCK : (at + 1) * BLOCK] for at in blocks))
    commands = image.with_suffix(".commands")
    commands.write_text(f"jo\njw -b {','.join(map(str, blocks))} {data}\njc\n")
    run("debugfs", "-w", "-f", commands, image)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[mountable.Mountable]:
    """A server of two filesystems; by the root's journal, /srv is a link to the host's /etc."""
    if os.geteuid():
        pytest.skip("needs root")  # and loop devices
    contents: list[dict[str, Content]] = [
        {"/etc/fstab": TABLE, "/srv/data": None},
        {"/a_file": ""},
    ]
    filesystems, loops = [], []
    try:
        for number, files in enumerate(contents, 1):
            image, folder = tmp_path / f"{number}.image", tmp_path / f"{number}"
            make_tree(folder, files)
            features = "^metadata_csum,^64bit"  # debugfs writes a journal of no later format
            run(
                "mke2fs", "-q", "-t", "ext4", "-b", BLOCK, "-O", features, "-d", folder, image, "8M"
            )
            if number == 1:
                with_journal(image, "rmdir srv/data", "rmdir srv", "symlink srv /etc")
            loops.append(run("losetup", "--find", "--show", image))
            status = os.stat(loops[-1]).st_rdev
            device = Device(loops[-1][5:], "", f"{os.major(status)}:{os.minor(status)}")
            filesystems.append(mountable.Filesystem(f"/p{number}", device, "ext4", ("ro",)))
        yield mountable.Mountable(tuple(filesystems))
    finally:
        for loop in loops:
            run("losetup", "--detach", loop)


def show(server: mountable.Mountable, journal: str, act: bool) -> list[str]:
    settings = schema.resolve([], TARGET)._replace(
        fstype="ext4", partition="system", journal=journal
    )
    shown = system.show(Host(), TARGET, server, NAMES, settings, time.monotonic() + 30, act)
    return [each.offset for each in shown.filesystems]


@pytest.mark.parametrize("journal", ["auto", "replay"])
def test_a_tree_has_the_places_that_the_mount_will_have(
    server: mountable.Mountable, journal: str
) -> None:
    assert show(server, journal, act=False) == ["/", "/srv/data"]  # nothing is written for a report
    assert show(server, journal, act=True) == [""]  # the root alone


def test_where_one_filesystem_is_mounted_in_another_nobody_can_write(
    server: mountable.Mountable,
) -> None:
    writable = [each._replace(options=("rw", "noload")) for each in server.filesystems]
    layout = server._replace(filesystems=tuple(writable))
    settings = schema.resolve([], TARGET)._replace(fstype="ext4", partition="system")
    shown = system.show(Host(), TARGET, layout, NAMES, settings, time.monotonic() + 30, True)
    assert [(each.offset, each.options) for each in shown.filesystems] == [
        ("/", ("ro", "noload")),
        ("/srv/data", ("ro", "noload")),
    ]
