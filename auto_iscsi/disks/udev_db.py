"""Read the database of udev, which holds the links and properties of each block device.

The file /run/udev/data/bMAJOR:MINOR (systemd src/libsystemd/sd-device/device-private.c) has a line
`S:LINK` for each link below /dev and a line `E:NAME=VALUE` for each property. udev writes the file
when it has applied its rules to the device. No disk is read here.
"""

from __future__ import annotations

from auto_iscsi.lean_stdlib import NamedTuple
from auto_iscsi.machine.host import Host

_QUEUE = "/run/udev/queue"


class Record(NamedTuple):
    """The links and properties of one device."""

    links: frozenset[str]  #: paths below /dev, such as disk/by-path/NAME
    properties: dict[str, str]

    @property
    def is_empty(self) -> bool:
        """Whether udev found neither a filesystem or the like nor a partition table there."""
        return not any(name.startswith(("ID_FS_", "ID_PART_TABLE_")) for name in self.properties)


def read(host: Host, number: str) -> Record:
    """Return what udev has recorded for the device MAJOR:MINOR; an empty record for nothing."""
    links, properties = [], {}
    # Not splitlines(), which also ends a line at U+2028 and the like: udev leaves these in a label,
    # and a stranger's label would have lines of its own here.
    for line in (host.read(f"/run/udev/data/b{number}") or "").split("\n"):
        if line.startswith("S:"):
            links.append(line[2:])
        elif line.startswith("E:"):
            name, _, properties[name] = line[2:].partition("=")
    return Record(frozenset(links), properties)


def is_busy(host: Host) -> bool:
    """Tell whether udev has events to work on (systemd src/udev/udevd.c)."""
    return host.read(_QUEUE) is not None
