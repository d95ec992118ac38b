"""Mounts of other users: what they call theirs is no mount of another kind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from auto_iscsi.admin import host_check
from auto_iscsi.machine import master_map, mounts
from auto_iscsi.machine.host import Host
from auto_iscsi.reaper import unmounting
from tests.tree.tree import make_tree

AUTOFS = "/etc/auto.iscsi /iscsiauto autofs rw,fd=5,pgrp={},timeout=300 0 0\n"
#: What Python takes for white space, and the kernel does not escape in a name.
SPACES = ["\u2003", "\u00a0", "\x1c", "\x0b"]
ENDS = ["\u2028", "\x85", "\x1e", "\r"]


@pytest.mark.parametrize("space", SPACES)
def test_the_name_of_a_users_mount_is_no_mount_of_automount(tmp_path: Path, space: str) -> None:
    forged = space.join(("x", "/iscsiauto", "autofs", "pgrp=1,timeout=3"))
    line = f"{forged} /home/jo/m fuse.x rw,user_id=1000 0 0\n"
    make_tree(tmp_path, {"/proc/self/mounts": line})
    assert master_map.list_autofs_mounts(Host(str(tmp_path))) == {}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("end", ENDS)
def test_a_users_folder_makes_no_mount_of_a_disk(tmp_path: Path, space: str, end: str) -> None:
    forged = space.join(("36", "35", "8:16", "/", "/iscsiauto/iqn.x"))
    line = f"40 35 0:50 / /home/jo/{end}{forged} rw - fuse.x y rw,user_id=1000\n"
    make_tree(tmp_path, {"/proc/self/mountinfo": line})
    (mount,) = mounts.list_all(Host(str(tmp_path)))
    place = f"/home/jo/{end}{forged}"
    assert mount == mounts.Mount(place, "0:50", "fuse.x", "y", "rw,user_id=1000")


@pytest.mark.parametrize(("name", "lives"), [("sleep", True), ("automount", False)])
def test_only_automount_is_sent_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lives: bool
) -> None:
    monkeypatch.setattr(unmounting, "_EXPIRY", 0.0)
    process = subprocess.Popen(["sleep", "60"])
    try:
        make_tree(
            tmp_path,
            {
                "/proc/self/mounts": AUTOFS.format(process.pid),
                f"/proc/{process.pid}/comm": f"{name}\n",
            },
        )
        unmounting._expire(Host(str(tmp_path)), "/iscsiauto", {"/iscsiauto/iqn.x"})
        if lives:
            assert process.poll() is None
        else:
            assert process.wait(20) != 0
    finally:
        process.kill()
        process.wait()


def test_a_process_that_ends_while_it_is_looked_at_hides_no_mount(tmp_path: Path) -> None:
    """Its file in /proc is open then, and reading it is ESRCH."""
    child = subprocess.Popen(["sleep", "60"])
    comm = os.open(f"/proc/{child.pid}/comm", os.O_RDONLY)
    child.kill()
    child.wait()
    line = "40 35 8:16 / /mnt ro - ext4 /dev/sdb ro\n"
    make_tree(
        tmp_path,
        {
            "/proc/self/mountinfo": "",
            "/proc/77/mountinfo": line,
            "/proc/77/ns/mnt": "",
            "/proc/78/comm": "iscsid\n",
            "/proc/78/mountinfo": line,
        },
    )
    (tmp_path / "proc/78/ns").mkdir()
    os.link(tmp_path / "proc/77/ns/mnt", tmp_path / "proc/78/ns/mnt")  # one namespace
    (tmp_path / "proc/77/comm").symlink_to(f"/proc/{os.getpid()}/fd/{comm}")
    host = Host(str(tmp_path))
    assert host.runs("iscsid")
    assert host_check.find_processes(host, ("iscsid",)) == [78]
    assert [mount.point for mount, _ in mounts.list_all_namespaces(host)] == ["/mnt"]
    os.close(comm)
