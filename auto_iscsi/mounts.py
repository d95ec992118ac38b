"""What is mounted, and from what?

/proc/self/mountinfo (Documentation/filesystems/proc.rst, 3.5): automount's own mount namespace.
"""

from __future__ import annotations

from auto_iscsi.host import Host
from auto_iscsi.light import NamedTuple


class Mount(NamedTuple):
    """A mounted filesystem."""

    point: str
    number: str  #: MAJOR:MINOR; 0:N for filesystems that span devices
    fstype: str
    source: str


def list_all(host: Host) -> list[Mount]:
    """Return what is mounted in our namespace."""
    found = []
    for line in (host.read("/proc/self/mountinfo") or "").splitlines():
        first, dash, second = line.partition(" - ")
        fields, rest = first.split(), second.split()
        if dash and len(fields) > 4 and len(rest) > 1:
            found.append(Mount(_plain(fields[4]), fields[2], rest[0], _plain(rest[1])))
    return found


def _plain(text: str) -> str:
    if "\\" not in text:
        return text
    import re  # costs what the rest of a warm lookup does

    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
