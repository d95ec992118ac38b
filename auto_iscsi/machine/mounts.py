"""List the mounted filesystems, in our mount namespace or in all of them.

/proc/PID/mountinfo (Documentation/filesystems/proc.rst, 3.5) shows the mount namespace of a
process; the inode of /proc/PID/ns/mnt identifies the namespace (namespaces(7)). Any user can mount,
with FUSE or in a namespace of his own, and choose the names. The kernel escapes space, tab, newline
and backslash in them (fs/proc_namespace.c, mangle). Python's splitlines() and split() also take
other characters for white space: with these, a name would be read as a mount of its own.
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
    options: str = ""  #: those of the filesystem itself


def list_all(host: Host, process: str = "self") -> list[Mount]:
    """Return the mounts in our namespace, or in that of another process."""
    mounts = []
    for line in (host.read(f"/proc/{process}/mountinfo") or "").split("\n"):
        first, dash, second = line.partition(" - ")
        fields, rest = first.split(" "), second.split(" ")
        if dash and len(fields) > 4 and len(rest) > 1:
            point, source = _unescaped(fields[4]), _unescaped(rest[1])
            options = rest[2] if len(rest) > 2 else ""
            mounts.append(Mount(point, fields[2], rest[0], source, options))
    return mounts


def list_all_namespaces(host: Host) -> Iterator[tuple[Mount, str]]:
    """Yield the mounts of devices in every namespace, and a process in it ("": it is ours)."""
    seen = set()
    for process in ("self", *filter(str.isdecimal, host.names("/proc"))):
        with suppress(errors.Failure):  # the process has ended, or we may not look at it
            status = host.stat(f"/proc/{process}/ns/mnt")
            namespace = status.st_ino if status else 0
            if namespace in seen:
                continue
            mounts = list_all(host, process)
            if not mounts:  # a zombie shows none; another process may be in its namespace
                continue
            seen.add(namespace)
            owner = ""
            if process != "self":
                owner = f"process {process} ({host.read(f'/proc/{process}/comm')})"
            for mount in mounts:
                if mount.source.startswith("/") or not mount.number.startswith("0:"):
                    yield mount, owner


def _unescaped(text: str) -> str:
    """Return a path without the octal escapes that the kernel writes."""
    if "\\" not in text:
        return text
    import re  # takes as long as the rest of a warm lookup

    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
