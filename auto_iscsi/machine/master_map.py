"""Which lines of the master map lead to us, and does the running automount serve them?

auto.master(5); autofs lib/master_tok.l, lookup_dir.c: of a +dir: only names that end in .autofs
and do not begin with a dot are read. An autofs mount says which process serves it (pgrp=) and its
timeout, but not its negative timeout.
"""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple

from auto_iscsi.machine.host import Host

CONFIGURATION = ("/etc/autofs.conf", "/etc/default/autofs")
NEGATIVE_TIMEOUT = 60.0  #: seconds, where nobody says
PROGRAM = "auto.iscsi"  #: the map's name, and that of links to it
_DEPTH = 4  # of master maps that include others


class Line(NamedTuple):
    """A line of the master map."""

    file: str
    number: int
    root: str  #: the mount point
    program: str  #: the map's path
    timeout: float | None  #: seconds; None: not said
    negative_timeout: float | None  #: seconds; None: not said

    @property
    def where(self) -> str:
        """FILE:LINE."""
        return f"{self.file}:{self.number}"


class Served(NamedTuple):
    """A mount point of automount's."""

    root: str
    map: str  #: as automount calls it
    pid: int
    timeout: float  #: seconds


def configured(host: Host) -> dict[str, str]:
    """Return automount's own configuration: names in lower case, without section."""
    found = {}
    for file in CONFIGURATION:
        for line in (host.read(file) or "").splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith("#"):
                found[name.strip().lower()] = value.strip().strip('"')
    return found


def lines(host: Host) -> list[Line]:
    """Return the lines that lead to a map of our name, in automount's order."""
    name = configured(host).get("master_map_name") or "auto.master"
    return _read(host, name if name.startswith("/") else f"/etc/{name}", 0)


def files(host: Host) -> list[str]:
    """Return the files whose change a running automount has to be told of."""
    folder = "/etc/auto.master.d"
    inner = [f"{folder}/{name}" for name in host.names(folder) if _is_master(name)]
    return ["/etc/auto.master", *inner]


def _is_master(name: str) -> bool:
    return name.endswith(".autofs") and not name.startswith(".")


def _read(host: Host, file: str, depth: int) -> list[Line]:
    found: list[Line] = []
    for number, text in _logical(host.read_bytes(file) or b""):
        words = text.split()
        if words[0].startswith("+") and depth < _DEPTH:
            source = words[0][1:]
            if source.startswith("dir:"):
                folder = source[len("dir:") :]
                for name in filter(_is_master, host.names(folder)):
                    found += _read(host, f"{folder}/{name}", depth + 1)
            elif (path := source.partition("file:")[2] or f"/etc/{source}") != file:
                found += _read(host, path, depth + 1)
        elif words[0].startswith("/") and len(words) > 1:
            program = words[1].partition(":")[2] if ":" in words[1] else words[1]
            if words[1].startswith(("/", "program:", "exec:")) and _is_ours(host, program):
                rest = " ".join(words[2:])
                found.append(
                    Line(
                        file,
                        number,
                        words[0].rstrip("/"),
                        program,
                        _seconds(rest, r"(?:--timeout|-t)"),
                        _seconds(rest, r"(?:--negative-timeout|-n)"),
                    )
                )
    return found


def _logical(data: bytes) -> list[tuple[int, str]]:
    """Return the lines that say something, those that end in a backslash with the next one."""
    found: list[tuple[int, str]] = []
    begun, text = 0, ""
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        begun = begun or number
        if line.endswith("\\"):
            text += line[:-1] + " "
            continue
        text += line
        if text.strip() and not text.lstrip().startswith("#"):
            found.append((begun, text))
        begun, text = 0, ""
    return found


def _is_ours(host: Host, path: str) -> bool:
    return os.path.basename(path) == PROGRAM or host.link(path) == PROGRAM


def _seconds(options: str, name: str) -> float | None:
    said = re.search(rf"(?:^|\s){name}[= ]\s*(\d+)", options)
    return float(said[1]) if said else None


def served(host: Host) -> dict[str, Served]:
    """Return the kernel's autofs mounts by mount point; of two at one, the upper."""
    found = {}
    for text in (host.read("/proc/self/mounts") or "").splitlines():
        fields = text.split()
        if len(fields) > 3 and fields[2] == "autofs":
            options = dict(re.findall(r"(\w+)=(\d+)", fields[3]))
            pid, timeout = int(options.get("pgrp", 0)), float(options.get("timeout", 0))
            found[fields[1]] = Served(fields[1], fields[0], pid, timeout)
    return found


def since(host: Host, pid: int) -> float | None:
    """Return when a process was started, in seconds since 1970; None when it is gone.

    proc(5): field 22 of /proc/PID/stat, in ticks since boot.
    """
    fields = (host.read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
    uptime = (host.read("/proc/uptime") or "").split()
    if len(fields) < 20 or not uptime:
        return None
    age = float(uptime[0]) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age
