"""The tree of a system that a lookup kept: used as long as it is still true, and no longer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from auto_iscsi import errors, keys
from auto_iscsi.config import config_files, schema
from auto_iscsi.disks.scsi_disks import Device
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.machine.host import Host
from auto_iscsi.map import available, kept_tree, lookup
from auto_iscsi.map.request import TREES, Request
from auto_iscsi.volumes.mountable import Filesystem, Mountable
from tests.tree.tree import Content, Link, make_tree

TARGET = "iqn.2001-05.com.example:vm-beta"
SESSION = "/sys/class/iscsi_session/session7"
CONF = "fstype = auto\npartition = system\noptions = nocheck, ro\n"
DISK = f"{SESSION}/device/target3:0:0/3:0:0:0/block/sdb"
FILE = f"{TREES}/{TARGET}"
BY_PATH = f"disk/by-path/ip-10.0.0.1:3260-iscsi-{TARGET}-lun-0"
#: A session with a disk, which has two partitions; an overlay of ours, which is the root, lies on
#: the second one.
HOST: dict[str, Content] = {
    f"{SESSION}/targetname": TARGET,
    f"{SESSION}/state": "LOGGED_IN",
    f"{SESSION}/tpgt": "1",
    "/sys/class/iscsi_connection/connection7:0/persistent_address": "10.0.0.1",
    "/sys/class/iscsi_connection/connection7:0/persistent_port": "3260",
    f"{DISK.rpartition('/block')[0]}/type": "0",
    f"{DISK}/diskseq": "40",
    f"{DISK}/ro": "1",
    f"{DISK}/dev": "8:16",
    f"{DISK}/size": "16384",
    f"{DISK}/sdb1/partition": "1",
    f"{DISK}/sdb1/dev": "8:17",
    "/run/udev/data/b8:16": f"S:{BY_PATH}\nS:disk/by-diskseq/40\nE:ID_PART_TABLE_TYPE=gpt",
    "/run/udev/data/b8:17": f"S:{BY_PATH}-part1\nE:ID_FS_TYPE=ext4\nE:ID_FS_USAGE=filesystem",
    f"/dev/{BY_PATH}": Link("../../sdb"),
    f"/dev/{BY_PATH}-part1": Link("../../sdb1"),
    "/dev/sdb": "",
    "/dev/sdb1": "",
    "/sys/class/block/dm-3/dev": "253:3",
    "/sys/block/dm-3/dm/name": "ai-sdb2-77",
    "/sys/block/dm-3/dm/uuid": "AUTOISCSI-ai-sdb2-77",
    "/sys/block/dm-3/ro": "1",
    "/sys/class/block/sdb1/dev": "8:17",
    "/proc/self/mountinfo": "",
}
LINK = f"ip-10.0.0.1:3260-iscsi-{TARGET}-lun-0-part1"
TREE = Mountable(
    (
        Filesystem("/", Device("dm-3", "ai-sdb2-77", "253:3", "", "/dev/mapper"), "xfs", ("ro",)),
        Filesystem("/boot", Device("sdb1", LINK, "8:17", ""), "ext4", ("ro", "nosuid"), "", True),
        Filesystem("/srv", Device("sdb1", LINK, "8:17", ""), "xfs", ("ro",)),
    ),
    ("a note",),
)
ENTRY = (
    '/ -ro,fstype=xfs ":/dev/mapper/ai-sdb2-77" '
    f'/boot -ro,nosuid,fstype=auto ":/dev/disk/by-path/{LINK}" '
    f'/srv -ro,fstype=xfs ":/dev/disk/by-path/{LINK}"'
)


def kept(root: Path, notes: tuple[str, ...] = TREE.notes) -> Request:
    """Lay out a host on which a lookup has kept TREE; return what the next lookup works for."""
    make_tree(root, {**HOST, config_files.FILE: CONF})
    host = Host(str(root))
    settings = schema.resolve(config_files.load(host), TARGET)
    request = Request(
        host, keys.Key(TARGET, TARGET), settings, time.monotonic() + 30, claims.Claim()
    )
    there = str(next(root.glob("sys/class/iscsi_session/session7"))).replace(str(root), "", 1)
    disk = DISK.replace(SESSION, there)
    filesystems = [f._replace(device=f.device._replace(disk=disk)) for f in TREE.filesystems]
    kept_tree.keep(request, TREE._replace(filesystems=tuple(filesystems), notes=notes))
    return request


def test_a_kept_tree_is_the_answer(tmp_path: Path) -> None:
    kept(tmp_path)
    assert (tmp_path / FILE[1:]).stat().st_mode & 0o777 == 0o600
    notes: list[str] = []
    assert lookup.lookup(Host(str(tmp_path)), TARGET, notes.append) == ENTRY
    assert notes == [f"{TARGET}: a note"]


def test_a_kept_tree_without_notes(tmp_path: Path) -> None:
    kept(tmp_path, ())
    assert lookup.lookup(Host(str(tmp_path)), TARGET) == ENTRY


@pytest.mark.parametrize(
    "change",
    [
        {f"{DISK}/diskseq": "99"},
        {f"{DISK}/ro": "0"},
        {"/sys/class/block/dm-3/dev": "253:9"},
        {"/sys/block/dm-3/dm/name": "ai-sdb2-78"},
        {"/sys/block/dm-3/dm/uuid": "LVM-1"},
        {"/sys/block/dm-3/ro": "0"},
        {f"/dev/disk/by-path/{LINK}": Link("../../sdc1")},
        {config_files.FILE: CONF.replace("nocheck, ro", "ro, nodev")},
        {config_files.FILE: CONF + "journal = skip\n"},
        {FILE: "garbage"},
        {FILE: ""},
    ],
    ids=lambda change: next(iter(change)).rpartition("/")[2],
)
def test_a_tree_that_is_no_longer_true_is_not_used(
    tmp_path: Path, change: dict[str, Content]
) -> None:
    kept(tmp_path)
    for path in change:
        (tmp_path / path[1:]).unlink()
    make_tree(tmp_path, change)
    with pytest.raises(errors.Failure):  # nothing can be mounted here
        lookup.lookup(Host(str(tmp_path)), TARGET)


@limits(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_counts_as_missing(tmp_path: Path, data: st.DataObject) -> None:
    if not (tmp_path / "run").exists():
        kept(tmp_path)
        (tmp_path / "good").write_bytes((tmp_path / FILE[1:]).read_bytes())
    good = (tmp_path / "good").read_bytes()
    place = data.draw(st.integers(0, len(good) - 2))
    damage: Callable[[bytes], bytes] = data.draw(
        st.sampled_from(
            [
                lambda old: old[:place],
                lambda old: old[:place] + bytes([old[place] ^ 1]) + old[place + 1 :],
                lambda old: old[:place] + b"\tx\n" + old[place:],
            ]
        )
    )
    (tmp_path / FILE[1:]).write_bytes(damage(good))
    host = Host(str(tmp_path))
    settings = schema.resolve(config_files.load(host), TARGET)
    request = Request(host, keys.Key(TARGET, TARGET), settings, 0.0, claims.Claim())
    assert kept_tree.find_mounted(request, "", ()) is None
    assert kept_tree.find(request, ()) is None


@pytest.mark.parametrize("state", ["FAILED", None])
def test_a_mounted_tree_is_the_answer_though_its_session_is_dead(
    tmp_path: Path, state: str | None
) -> None:
    request = kept(tmp_path)
    root = f"1 0 253:3 / {tmp_path}/{TARGET} ro - xfs /dev/mapper/ai-sdb2-77 ro\n"
    (tmp_path / "proc/self/mountinfo").write_text(root)
    (tmp_path / f"{SESSION}/state"[1:]).write_text(state or "FREE")
    if state is None:
        (tmp_path / f"{SESSION}/targetname"[1:]).write_text("iqn.2001-05.com.example:other")
    content = available.without_session(request)
    assert content and [each.offset for each in content.filesystems] == ["/", "/boot", "/srv"]
    (tmp_path / "proc/self/mountinfo").write_text("")
    assert available.without_session(request) is None


def test_a_tree_on_several_targets_is_used_only_while_all_are_up(tmp_path: Path) -> None:
    request = kept(tmp_path)
    up = sessions.find_all(request.host, TARGET)
    tree = kept_tree.find(request, up)
    assert tree is not None
    other = request._replace(key=keys.Key("iqn.x:other", "iqn.x:other"), is_other=True)
    request = request._replace(others=(other,))
    assert kept_tree.find(request, up) is None  # it was kept for another value of `with`
    kept_tree.keep(request, tree)
    assert kept_tree.find(request, up) is None


def test_the_file_stays_as_long_as_its_devices(tmp_path: Path) -> None:
    kept(tmp_path)
    host = Host(str(tmp_path))
    kept_tree.forget_gone(host, [])
    assert host.names(TREES) == [TARGET]
    os.unlink(tmp_path / "sys/class/block/dm-3/dev")
    kept_tree.forget_gone(host, [])
    assert host.names(TREES) == [TARGET]
    os.unlink(tmp_path / "sys/class/block/sdb1/dev")
    kept_tree.forget_gone(host, [TARGET])
    assert host.names(TREES) == [TARGET]
    kept_tree.forget_gone(host, [])
    assert host.names(TREES) == []
