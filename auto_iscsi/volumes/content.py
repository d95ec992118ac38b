r"""Describe what is on a disk or partition, by what udev recorded about it.

The properties ID_FS_* and ID_PART_* are what libblkid found when the disk appeared (systemd
src/udev/udev-builtin-blkid.c); ID_BTRFS_READY is set by udev's 64-btrfs.rules. udev writes a byte
of a label that could do harm as \xNN.
"""

from __future__ import annotations

import re

from auto_iscsi.disks import udev_db
from auto_iscsi.lean_stdlib import NamedTuple

#: Partitions that do not hold anybody's files, by their type in a GPT or DOS partition table.
PURPOSES = {
    "c12a7328-f81f-11d2-ba4b-00c04fc93ec9": "EFI system partition",
    "0xef": "EFI system partition",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "boot loader partition",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved partition",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery partition",
    "0x27": "Windows recovery partition",
}


class Content(NamedTuple):
    """What is on a disk or partition."""

    fstype: str = ""  #: as libblkid names it; "": nothing that libblkid knows
    usage: str = ""  #: filesystem, raid, crypto or other
    label: str = ""
    uuid: str = ""
    table: str = ""  #: the type of the partition table: dos, gpt; "": none
    purpose: str = ""  #: of a partition, one of PURPOSES; "": it holds files
    devices_missing: bool = False  #: btrfs: other devices of the filesystem are missing


def from_udev(record: udev_db.Record) -> Content:
    """Return the content that libblkid found on a device."""
    values = record.properties
    return Content(
        values.get("ID_FS_TYPE", ""),
        values.get("ID_FS_USAGE", ""),
        _decode(values.get("ID_FS_LABEL_ENC", "")),
        values.get("ID_FS_UUID", ""),
        values.get("ID_PART_TABLE_TYPE", ""),
        PURPOSES.get(values.get("ID_PART_ENTRY_TYPE", "").lower(), ""),
        values.get("ID_BTRFS_READY") == "0",
    )


def _decode(label: str) -> str:
    r"""Return a label without udev's \xNN, and with "?" for what could control a terminal."""
    code = re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), label)
    text = code.encode("latin-1", "replace").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)
