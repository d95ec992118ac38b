"""What does udev say is on a disk or a partition?

/run/udev/data/bMAJOR:MINOR (systemd src/libsystemd/sd-device/device-private.c): a line `S:LINK`
for each link below /dev, `E:NAME=VALUE` for each property. ID_FS_* and ID_PART_* are what libblkid
found when the disk appeared (udev-builtin-blkid.c). Nothing is asked of the disk.
"""

from __future__ import annotations

import re

from auto_iscsi.lean_stdlib import NamedTuple
from auto_iscsi.machine.host import Host

#: What a partition is for, by its type in a GPT or DOS table, where that is not to hold files.
PURPOSES = {
    "c12a7328-f81f-11d2-ba4b-00c04fc93ec9": "EFI system partition",
    "0xef": "EFI system partition",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "boot loader partition",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved partition",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery partition",
    "0x27": "Windows recovery partition",
}


class Content(NamedTuple):
    """What is on a device."""

    fstype: str = ""  #: as libblkid calls it; "": nothing that it knows
    usage: str = ""  #: filesystem, raid, crypto or other
    label: str = ""
    uuid: str = ""
    table: str = ""  #: of partitions: dos, gpt; "": none
    purpose: str = ""  #: of the partition, of PURPOSES; "": to hold files
    devices_missing: bool = False  #: btrfs: other devices of the filesystem are not there
    links: frozenset[str] = frozenset()  #: below /dev


def read(host: Host, number: str) -> Content | None:
    """Return what udev knows of the device MAJOR:MINOR, None when it knows none."""
    text = host.read(f"/run/udev/data/b{number}")
    if text is None:
        return None
    links, values = set(), {}
    for line in text.splitlines():
        if line.startswith("S:"):
            links.add(line[2:])
        elif line.startswith("E:"):
            name, _, values[name] = line[2:].partition("=")
    return Content(
        values.get("ID_FS_TYPE", ""),
        values.get("ID_FS_USAGE", ""),
        _plain(values.get("ID_FS_LABEL_ENC", "")),
        values.get("ID_FS_UUID", ""),
        values.get("ID_PART_TABLE_TYPE", ""),
        PURPOSES.get(values.get("ID_PART_ENTRY_TYPE", "").lower(), ""),
        values.get("ID_BTRFS_READY") == "0",
        frozenset(links),
    )


def _plain(text: str) -> str:
    r"""Undo udev's \xNN; what a terminal would obey stays out: a label can hold anything."""
    code = re.sub(r"\\x([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), text)
    text = code.encode("latin-1", "replace").decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)
