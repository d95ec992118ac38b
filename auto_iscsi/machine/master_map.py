"""Read the lines of the master map that lead to our map, and automount's mounts.

The format is that of auto.master(5) and autofs lib/master_tok.l; of a +dir: folder automount reads
only names that end in .autofs and do not begin with a dot (lookup_dir.c). The options of an autofs
mount name the process that serves it (pgrp=) and its timeout, but not its negative timeout.
"""

from __future__ import annotations

import os
import re
import time
from typing import Callable, NamedTuple

from auto_iscsi.machine.host import Host

CONFIGURATION = ("/etc/autofs.conf", "/etc/default/autofs")
_NEGATIVE_TIMEOUT = 60.0  # seconds, unless it is configured
PROGRAM = "auto.iscsi"  #: the map's name, and that of links to it
ROOT = "/iscsiauto"  #: where automount mounts targets, as shipped
VOLUMES = "/var/lib/auto-iscsi/volumes.map"  #: the map of /snapshots, a file map (san/links)
IsOurs = Callable[[Host, str], bool]
_DEPTH = 4  # levels of master maps that include others


class Line(NamedTuple):
    """A line of the master map."""

    file: str
    number: int
    root: str  #: the mount point
    program: str  #: the map's path
    timeout: float | None  #: seconds; None: not given
    negative_timeout: float | None  #: seconds; None: not given

    @property
    def where(self) -> str:
        """FILE:LINE."""
        return f"{self.file}:{self.number}"


def negative_timeout(host: Host, line: Line) -> float:
    """Return for how long automount remembers an answer, good or bad, in seconds."""
    if line.negative_timeout is not None:
        return line.negative_timeout
    configured = automount_settings(host).get("negative_timeout", "")
    return float(configured) if configured.isdecimal() else _NEGATIVE_TIMEOUT


class AutofsMount(NamedTuple):
    """A mount point that an automount serves."""

    root: str
    map: str  #: in automount's words
    pid: int  #: of the automount
    timeout: float  #: seconds


def automount_settings(host: Host) -> dict[str, str]:
    """Return automount's own settings (autofs.conf(5)) by name in lower case, whatever section."""
    settings = {}
    for file in CONFIGURATION:
        for line in (host.read(file) or "").splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith("#"):
                settings[name.strip().lower()] = value.strip().strip('"')
    return settings


def list_lines(host: Host) -> list[Line]:
    """Return the lines of the master map that name our map, in automount's order."""
    return _list(host, _is_program)


def list_volume_lines(host: Host) -> list[Line]:
    """Return the lines of the master map that name the map of /snapshots, in automount's order."""
    return _list(host, _is_volumes)


def served_roots(host: Host) -> list[str]:
    """Return where automount mounts targets now, in the order of the master map."""
    served = list_autofs_mounts(host)
    return [line.root for line in list_lines(host) if line.root in served]


def target_root(host: Host) -> str:
    """Return where automount mounts targets: /iscsiauto, unless it is another line's place."""
    if roots := served_roots(host):
        return roots[0]
    # The master map can be in NIS or LDAP.
    served = list_autofs_mounts(host).values()
    maps = (mount.root for mount in served if os.path.basename(mount.map) == PROGRAM)
    return next(maps, ROOT)


def list_files(host: Host) -> list[str]:
    """Return the files of the master map; automount has to be reloaded when one changes."""
    folder = "/etc/auto.master.d"
    drop_ins = [f"{folder}/{name}" for name in host.names(folder) if _is_master(name)]
    return ["/etc/auto.master", *drop_ins]


def _is_master(name: str) -> bool:
    return name.endswith(".autofs") and not name.startswith(".")


def _list(host: Host, is_ours: IsOurs) -> list[Line]:
    name = automount_settings(host).get("master_map_name") or "auto.master"
    return _read(host, name if name.startswith("/") else f"/etc/{name}", 0, is_ours)


def _read(host: Host, file: str, depth: int, is_ours: IsOurs) -> list[Line]:
    """Return the lines that name one of our maps, of a file and the files that it includes."""
    ours: list[Line] = []
    for number, text in _logical(host.read_bytes(file) or b""):
        words = text.split()
        if words[0].startswith("+") and depth < _DEPTH:
            source = words[0][1:]
            if source.startswith("dir:"):
                folder = source[len("dir:") :]
                for name in filter(_is_master, host.names(folder)):
                    ours += _read(host, f"{folder}/{name}", depth + 1, is_ours)
            elif (path := source.partition("file:")[2] or f"/etc/{source}") != file:
                ours += _read(host, path, depth + 1, is_ours)
        elif words[0].startswith("/") and len(words) > 1:
            program = _path(words[1])
            if is_ours(host, words[1]):
                rest = " ".join(words[2:])
                ours.append(
                    Line(
                        file,
                        number,
                        words[0].rstrip("/"),
                        program,
                        _seconds(rest, r"(?:--timeout|-t)"),
                        _seconds(rest, r"(?:--negative-timeout|-n)"),
                    )
                )
    return ours


def _logical(data: bytes) -> list[tuple[int, str]]:
    """Return the number and text of each line that is not blank or a comment.

    A line that ends in a backslash is joined with the next one.
    """
    logical: list[tuple[int, str]] = []
    first, text = 0, ""
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        first = first or number
        if line.endswith("\\"):
            text += line[:-1] + " "
            continue
        text += line
        if text.strip() and not text.lstrip().startswith("#"):
            logical.append((first, text))
        first, text = 0, ""
    return logical


def _is_program(host: Host, map_name: str) -> bool:
    """Tell whether a line's map is our program, or a link to it."""
    if not map_name.startswith(("/", "program:", "exec:")):
        return False
    path = _path(map_name)
    return os.path.basename(path) == PROGRAM or host.link(path) == PROGRAM


def _path(map_name: str) -> str:
    """Return a line's map without its type, as `program:`."""
    return map_name.partition(":")[2] if ":" in map_name else map_name


def _is_volumes(host: Host, map_name: str) -> bool:
    """Tell whether a line's map is that of /snapshots."""
    return map_name in (VOLUMES, f"file:{VOLUMES}", f"file,sun:{VOLUMES}")


def _seconds(options: str, name: str) -> float | None:
    """Return the number after an option, None when the option is not there."""
    match = re.search(rf"(?:^|\s){name}[= ]\s*(\d+)", options)
    return float(match[1]) if match else None


def list_autofs_mounts(host: Host) -> dict[str, AutofsMount]:
    """Return the autofs mounts by mount point; where two are stacked, the upper one."""
    mounts = {}
    for text in (host.read("/proc/self/mounts") or "").split("\n"):
        fields = text.split(" ")  # see mounts: any user's names are among them
        if len(fields) > 3 and fields[2] == "autofs":
            options = dict(re.findall(r"(\w+)=(\d+)", fields[3]))
            pid, timeout = int(options.get("pgrp", 0)), float(options.get("timeout", 0))
            mounts[fields[1]] = AutofsMount(fields[1], fields[0], pid, timeout)
    return mounts


def process_start(host: Host, pid: int) -> float | None:
    """Return when a process was started, in seconds since 1970; None when it has ended.

    proc(5): field 22 of /proc/PID/stat, in ticks since boot.
    """
    fields = (host.read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
    uptime = (host.read("/proc/uptime") or "").split()
    if len(fields) < 20 or not uptime:
        return None
    age = float(uptime[0]) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age
