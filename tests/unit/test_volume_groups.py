"""Logical volumes of a stranger's volume groups: what is mapped, and what is left out and named?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.config import schema
from auto_iscsi.disks import our_devices
from auto_iscsi.disks.scsi_disks import Device
from auto_iscsi.iscsi import claims
from auto_iscsi.machine.host import Host
from auto_iscsi.volumes import mountable, physical_volumes, volume_groups
from tests.tree.tree import make_tree
from tests.unit.logical_volumes import SHOWN, linear
from tests.unit.physical_volumes import PVS, TEXT, physical_volume

TARGET = "iqn.2001-05.com.example:server"
OTHER = "iqn.2001-05.com.example:server-data"


def expand(root: Path, *texts: str, partition: str, uuids: Sequence[str] = PVS[:1] * 3) -> str:
    """Expand a physical volume with each of these texts, /dev/sdb and on; return the refusal."""
    members = []
    for index, text in enumerate(texts):
        node, number = f"sd{'bcd'[index]}", f"8:{16 * (index + 1)}"
        make_tree(root, {f"/sys/dev/block/{number}/size": f"{1 << 20}\n", "/dev/x": ""})
        (root / "dev" / node).write_bytes(physical_volume(text, uuid=uuids[index]))
        device = Device(node, "", number, f"/sys/block/{node}")
        members.append(mountable.Filesystem("", device, mountable.LVM_MEMBER, ("ro",)))
    settings = schema.resolve([], TARGET)._replace(fstype="auto", partition=partition)
    layout = mountable.Mountable(tuple(members))
    with pytest.raises(errors.Failure) as refused:
        volume_groups.expand(
            Host(str(root)), TARGET, layout, settings, time.monotonic() + 30, False
        )
    return str(refused.value.reason)


def test_a_disk_that_somebody_else_logged_in_is_not_mapped(tmp_path: Path) -> None:
    assert "somebody else logged its disk in" in expand(tmp_path, TEXT, partition="vg0/root")


def test_two_luns_with_one_physical_volume_are_left_out(tmp_path: Path) -> None:
    other = TEXT.replace("i0nkLE", "others").replace("vg0", "vg1")
    reason = expand(tmp_path, TEXT, other, partition="vg0/root")
    assert "no logical volume vg0/root: there are none" in reason
    assert "vg0 is left out: sdb and sdc are the same physical volume" in reason


def of_two_targets(root: Path, *texts: str, uuids: Sequence[str] = PVS) -> str:
    """Expand physical volumes of which only the first is on TARGET; return the refusal."""
    members = []
    for index, text in enumerate(texts):
        session = f"/sys/class/iscsi_session/session{index + 1}"
        connection = f"/sys/class/iscsi_connection/connection{index + 1}:0"
        target = OTHER if index else TARGET
        disk = f"{session}/device/target2:0:0/2:0:0:0/block/sd{'bcd'[index]}"
        number = f"8:{16 * (index + 1)}"
        make_tree(
            root,
            {
                f"{session}/targetname": target,
                f"{session}/state": "LOGGED_IN",
                f"{connection}/persistent_address": "10.0.0.1",
                f"{connection}/persistent_port": "3260",
                f"{disk}/dev": number,
                f"/sys/dev/block/{number}/size": f"{1 << 20}\n",
                "/dev/x": "",
            },
        )
        node = f"sd{'bcd'[index]}"
        (root / "dev" / node).write_bytes(physical_volume(text, uuid=uuids[index]))
        offset = f"/{target}" if index else ""
        members.append(
            mountable.Filesystem(
                offset, Device(node, "", number, disk), mountable.LVM_MEMBER, ("ro",)
            )
        )
        host = Host(str(root))
        inode = (root / session[1:]).stat().st_ino
        claims.write(host, target, claims.Claim(opened=((index + 1, inode),), looked_up=1.0))
    settings = schema.resolve([], TARGET)._replace(fstype="auto", partition="vg0/striped")
    layout = mountable.Mountable(tuple(members))
    with pytest.raises(errors.Failure) as refused:
        volume_groups.expand(host, TARGET, layout, settings, time.monotonic() + 30, False)
    return str(refused.value.reason)


def test_a_volume_over_two_targets_of_ours_is_mapped(tmp_path: Path) -> None:
    assert "missing" in of_two_targets(tmp_path / "one", TEXT)
    assert "vg0/striped is not mapped yet" in of_two_targets(tmp_path / "two", TEXT, TEXT)


def test_a_physical_volume_of_two_targets_is_named_with_both(tmp_path: Path) -> None:
    reason = of_two_targets(tmp_path, TEXT, TEXT, TEXT, uuids=(PVS[0], PVS[1], PVS[1]))
    copies = f"sdc of {OTHER} and sdd of {OTHER} are the same physical volume"
    assert f"volume group vg0 is left out: {copies}" in reason


def test_a_group_of_another_target_alone_is_none_of_this_one(tmp_path: Path) -> None:
    alone = TEXT.replace("i0nkLE", "others").replace("vg0", "vg1")
    reason = of_two_targets(tmp_path, alone, TEXT.replace("vg0", "vg2"))
    assert "no logical volume vg0/striped: there are vg1/root" in reason
    assert "vg2" not in reason


def test_a_group_does_not_get_the_physical_volume_of_another_one(tmp_path: Path) -> None:
    # The second LUN says that it is PV 1 of vg0, and belongs to a group of its own.
    forged = TEXT.replace("i0nkLE", "forged").replace("vg0", "vg1")
    reason = expand(tmp_path, TEXT, forged, partition="vg0/striped", uuids=PVS)
    assert "vg0/striped" in reason and "missing" in reason


def test_a_volume_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    reason = expand(tmp_path, TEXT, partition="vg0/none")
    assert reason.endswith(
        "no logical volume vg0/none: there are vg0/root, vg0/striped, vg0/squeezed"
    )


def test_no_group_makes_more_devices_than_a_host_can_hold(tmp_path: Path) -> None:
    many = "".join(linear(f"lv{number}", 1, 0, 0, SHOWN) for number in range(300))
    text = TEXT[: TEXT.index("root {")] + many + "}\n}\n"
    make_tree(tmp_path, {"/sys/dev/block/8:16/size": f"{1 << 20}\n", "/dev/x": ""})
    (tmp_path / "dev/sdb").write_bytes(physical_volume(text))
    boot = mountable.Filesystem("/p1", Device("sdb1", "", "8:17", "/sys/block/sdb"), "ext4", ())
    device = Device("sdb", "", "8:16", "/sys/block/sdb")
    member = mountable.Filesystem("/p2", device, mountable.LVM_MEMBER, ("ro",))
    settings = schema.resolve([], TARGET)._replace(fstype="auto", partition="all")
    shown = volume_groups.expand(
        Host(str(tmp_path)),
        TARGET,
        mountable.Mountable((boot, member)),
        settings,
        time.monotonic() + 30,
        False,
    )
    assert (
        "44 logical volumes are left out, from vg0/lv256 on: at most 256 are shown" in shown.notes
    )
    assert len(shown.notes) == 257 and shown.filesystems == (boot,)


def test_the_metadata_of_a_target_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(physical_volumes, "_MOST_TEXT", len(TEXT) + 100)
    other = TEXT.replace("i0nkLE", "others").replace("vg0", "vg1")
    reason = expand(tmp_path / "other", TEXT, other, partition="vg0/none", uuids=PVS)
    assert "there are vg0/root" in reason and "vg1/root" not in reason
    assert "sdc is an LVM physical volume that cannot be read: all metadata" in reason
    reason = expand(tmp_path / "same", TEXT, TEXT, partition="vg0/none", uuids=PVS)
    assert reason.endswith("there are vg0/root, vg0/striped, vg0/squeezed")


def test_what_lies_on_top_is_removed_first(tmp_path: Path) -> None:
    disk = "/sys/block/sdb"
    make_tree(
        tmp_path,
        {
            f"{disk}/holders/dm-7/x": "",
            "/sys/block/dm-7/dm/uuid": "AUTOISCSI-lv",
            "/sys/block/dm-7/holders/dm-4/x": "",
            "/sys/block/dm-7/slaves/sdb/x": "",
            "/sys/block/dm-4/dm/uuid": "AUTOISCSI-overlay",
            "/sys/block/dm-4/slaves/dm-7/x": "",
            "/sys/block/dm-4/slaves/loop0/x": "",
        },
    )
    host = Host(str(tmp_path))
    assert our_devices.list_of_disk(host, disk) == ["dm-4", "dm-7"]
    assert our_devices.orphans(host) == []
