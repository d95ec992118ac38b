"""Which device of ours is the overlay of a filesystem, where there are several on its device?"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.disks.scsi_disks import Device
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import overlay
from tests.tree.tree import Content, make_tree

TARGET = "iqn.2001-05.com.example:server"
SDB = Device("sdb", "", "8:16", "/sys/block/sdb")


def ours(node: str, name: str, *slaves: str) -> dict[str, Content]:
    """Return the files of a finished device of ours on the disk 8:16."""
    return {
        f"/sys/dev/block/8:16/holders/{node}/x": "",
        f"/sys/block/{node}/dm/name": name,
        f"/sys/block/{node}/dm/uuid": f"AUTOISCSI-{name}",
        f"/sys/block/{node}/dev": f"253:{node[3:]}",
        f"/sys/block/{node}/ro": "1",
        **{f"/sys/block/{node}/slaves/{slave}/x": "" for slave in slaves},
    }


@pytest.mark.parametrize("name", ["ai-77-p2", "ai-77-md-0b51d0f6", "ai-77-2-vg0-root"])
def test_what_other_settings_left_on_a_disk_is_not_its_overlay(tmp_path: Path, name: str) -> None:
    """partition = all showed partition 2, then partition = none is to show the whole disk."""
    make_tree(tmp_path, ours("dm-1", name, "sdb"))
    host = Host(str(tmp_path))
    assert overlay.find_laid(host, SDB) is None
    store = overlay.Store("/var/tmp", 10)  # there is none: nothing else is mounted in its place
    with pytest.raises(errors.Failure, match="no overlay: /var/tmp"):
        overlay.lay(host, TARGET, SDB, "ext4", store, time.monotonic() + 5)
    assert (tmp_path / "sys/block/dm-1/dm/name").exists()


def test_the_overlay_is_found_beside_another_device_of_ours(tmp_path: Path) -> None:
    make_tree(tmp_path, {**ours("dm-1", "ai-77-p2", "sdb"), **ours("dm-2", "ai-sdb-77", "sdb")})
    make_tree(tmp_path, {"/sys/block/dm-2/slaves/loop0/x": ""})
    laid = overlay.find_laid(Host(str(tmp_path)), SDB)
    assert laid and (laid.node, laid.link, laid.number) == ("dm-2", "ai-sdb-77", "253:2")


@pytest.mark.parametrize("is_mounted", [False, True])
def test_an_overlay_of_another_size_is_made_anew_unless_it_is_mounted(
    tmp_path: Path, is_mounted: bool
) -> None:
    """A LUN was made larger, and its filesystem with it: in the old overlay it lacks its end."""
    make_tree(tmp_path, ours("dm-2", "ai-sdb-77", "loop0"))
    status = "exit 1" if is_mounted else "rm -r $AUTO_ISCSI_ROOT/sys/block/dm-2"
    sizes = {"/sys/block/dm-2/size": "2048\n", "/sys/dev/block/8:16/size": "4096\n"}
    make_tree(tmp_path, {**sizes, "/usr/sbin/dmsetup": f"#!/bin/sh\n{status}\n"})
    (tmp_path / "usr/sbin/dmsetup").chmod(0o755)
    host, store = Host(str(tmp_path)), overlay.Store("/var/tmp", 10)
    if is_mounted:
        laid = overlay.lay(host, TARGET, SDB, "ext4", store, time.monotonic() + 5)
        assert laid.link == "ai-sdb-77"
    else:
        with pytest.raises(errors.Failure, match="no overlay: /var/tmp"):
            overlay.lay(host, TARGET, SDB, "ext4", store, time.monotonic() + 5)
        assert not (tmp_path / "sys/block/dm-2").exists()
