"""What is mounted, and from what?

/proc/PID/mountinfo (Documentation/filesystems/proc.rst, 3.5): a process's own mount namespace,
which is what the inode of /proc/PID/ns/mnt stands for (namespaces(7)).
"""

from __future__ import annotations

from auto_iscsi import errors
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple, suppress
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator


class Mount(NamedTuple):
    """A mounted filesystem."""

    point: str
    number: str  #: MAJOR:MINOR; 0:N for filesystems that span devices
    fstype: str
    source: str


def list_all(host: Host, process: str = "self") -> list[Mount]:
    """Return what is mounted in our namespace, or in that of another process."""
    found = []
    for line in (host.read(f"/proc/{process}/mountinfo") or "").splitlines():
        first, dash, second = line.partition(" - ")
        fields, rest = first.split(), second.split()
        if dash and len(fields) > 4 and len(rest) > 1:
            found.append(Mount(_plain(fields[4]), fields[2], rest[0], _plain(rest[1])))
    return found


def everywhere(host: Host) -> Iterator[tuple[Mount, str]]:
    """Yield what is mounted from a device in any namespace, and in whose, if not in ours."""
    seen = set()
    for process in ("self", *filter(str.isdecimal, host.names("/proc"))):
        with suppress(errors.Failure):  # it has ended, or is not ours to look into
            namespace = host.stat(f"/proc/{process}/ns/mnt")
            number = namespace.st_ino if namespace else 0
            if number in seen:
                continue
            found = list_all(host, process)
            if not found:  # a zombie has none: somebody else may tell
                continue
            seen.add(number)
            who = ""
            if process != "self":
                who = f"process {process} ({host.read(f'/proc/{process}/comm')})"
            for mount in found:
                if mount.source.startswith("/") or not mount.number.startswith("0:"):
                    yield mount, who


def _plain(text: str) -> str:
    if "\\" not in text:
        return text
    import re  # costs what the rest of a warm lookup does

    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
