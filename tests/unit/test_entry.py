"""The map entry: options and location, in the form that every build of automount accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from auto_iscsi.config import config_files, schema
from auto_iscsi.disks import scsi_disks
from auto_iscsi.iscsi.sessions import Session
from auto_iscsi.machine.host import Host
from auto_iscsi.map import entry as map_entry
from auto_iscsi.portals import Portal
from auto_iscsi.volumes import mountable
from tests.tree.tree import make_tree

TARGET = "iqn.2001-05.com.equallogic:0-8a0906-vm-beta-2010-05-03-04:00:01.50612"
PORTAL = Portal("10.0.0.1")
SHIPPED = Path(__file__).parents[2] / "etc/auto.iscsi.conf"


def entry(root: Path, text: str | None = None, portal: Portal = PORTAL, part: int = 1) -> str:
    """Return the entry for partition `part` of /dev/sdb with a configuration."""
    if text is not None:
        make_tree(root, {"/etc/auto.iscsi.conf": text})
    session = Session(1, TARGET, portal, "LOGGED_IN")
    disk = scsi_disks.Disk("sdb", 0, session, "/sys/…/sdb")
    device = scsi_disks.Device("sdb1", f"{disk.link}-part1", "8:17")
    if not part:
        device = scsi_disks.Device("sdb", disk.link, "8:16")
    settings = schema.resolve(config_files.load(Host(str(root))), TARGET)
    return map_entry.format_entry(mountable.as_configured(device, settings), settings)


@pytest.mark.parametrize("text", [None, "", SHIPPED.read_text()], ids=["none", "empty", "shipped"])
def test_as_shipped_the_entry_has_the_originals_options_and_the_targets_own_link(
    tmp_path: Path, text: str | None
) -> None:
    assert entry(tmp_path, text) == (
        '-nocheck,ro,fstype=ext3 ":/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-'
        'iqn.2001-05.com.equallogic:0-8a0906-vm-beta-2010-05-03-04:00:01.50612-lun-0-part1"'
    )


def test_with_device_kernel_the_entry_is_the_originals_byte_for_byte(tmp_path: Path) -> None:
    assert entry(tmp_path, "device = kernel") == "-nocheck,ro,fstype=ext3 :/dev/sdb1"


def test_options_and_type_come_from_the_configuration(tmp_path: Path) -> None:
    text = "options = ro, nosuid, nodev\nfstype = xfs\ndevice = kernel"
    assert entry(tmp_path, text) == "-ro,nosuid,nodev,fstype=xfs :/dev/sdb1"


def test_an_entry_without_options_still_names_the_type(tmp_path: Path) -> None:
    # automount takes an entry without fstype for NFS.
    assert entry(tmp_path, "options =\ndevice = kernel") == "-fstype=ext3 :/dev/sdb1"


def test_a_remount_of_an_ntfs_3g_names_the_type_that_can_be_remounted() -> None:
    settings = schema.resolve([], TARGET)._replace(fstype="ntfs-3g", options=("ro",))
    content = mountable.as_configured(scsi_disks.Device("sdb1", "", "8:17"), settings)
    assert map_entry.format_entry(content, settings) == "-ro,fstype=ntfs-3g :/dev/sdb1"
    again = map_entry.format_entry(content, settings, remount=True)
    assert again == "-ro,remount,fstype=fuseblk :/dev/sdb1"


def test_the_entry_of_a_whole_disk_has_no_partition(tmp_path: Path) -> None:
    assert entry(tmp_path, "partition = none\ndevice = kernel", part=0).endswith(" :/dev/sdb")


def test_an_ipv6_portal_has_no_brackets_in_the_link(tmp_path: Path) -> None:
    line = entry(tmp_path, portal=Portal("fd00::1", 3260, 1))
    assert f'":/dev/disk/by-path/ip-fd00::1:3260-iscsi-{TARGET}-lun-0-part1"' in line


@pytest.mark.parametrize(
    ("lun", "san_lun", "name"),
    [
        (0, 0, "lun-0"),
        (1, 1, "lun-1"),
        (255, 255, "lun-255"),
        (300, 300, "lun-0x012c000000000000"),
        (0x4000 + 300, 300, "lun-0x412c000000000000"),
        (0x4000, 0, "lun-0x4000000000000000"),
        (0x4000 + 16383, 16383, "lun-0x7fff000000000000"),
    ],
)
def test_a_lun_has_the_sans_number_and_the_name_that_udev_gives_it(
    lun: int, san_lun: int, name: str
) -> None:
    session = Session(1, TARGET, Portal("10.0.0.1", 3260, 1), "LOGGED_IN")
    disk = scsi_disks.Disk("sdb", lun, session, "")
    assert disk.san_lun == san_lun
    assert disk.link == f"ip-10.0.0.1:3260-iscsi-{TARGET}-{name}"


def test_the_link_spells_the_target_as_iscsid_gave_it_to_the_kernel() -> None:
    session = Session(1, TARGET.upper(), Portal("10.0.0.1"), "LOGGED_IN")
    assert TARGET.upper() in scsi_disks.Disk("sdb", 0, session, "").link


def test_the_tree_of_a_system_begins_with_its_root() -> None:
    settings = schema.resolve([], TARGET)._replace(device="kernel")
    device = scsi_disks.Device("sdb1", "", "8:17")
    places = [mountable.Filesystem(each, device, "xfs", ("ro",)) for each in ("/", "/home")]
    content = mountable.Mountable(tuple(places))
    line = "/ -ro,fstype=xfs :/dev/sdb1 /home -ro,fstype=xfs :/dev/sdb1"
    assert map_entry.format_entry(content, settings) == line
    again = map_entry.format_entry(content, settings, remount=True)
    assert again == line.replace("ro", "ro,remount", 1)
