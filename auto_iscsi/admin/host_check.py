"""What is a finding about the host, and how are its programs and processes asked?

For `auto-iscsi doctor`: nothing is changed, no network is used, and no program is waited for
longer than a few seconds.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from auto_iscsi import errors
from auto_iscsi.machine.host import PROGRAMS, Host

OK, WARNING, PROBLEM, UNKNOWN = "ok", "warning", "problem", "unknown"
_PATIENCE = 5.0  # seconds for a program that only prints something


class Finding(NamedTuple):
    """What was found."""

    level: str  #: ok, warning, problem; unknown: it could not be looked at
    text: str
    mend: str = ""  #: the command, or what to change in which file


class Check(NamedTuple):
    """Something to look at."""

    look: Callable[[Host], Finding]
    means: str  #: why it matters
    todo: str  #: what to do when it is not as it should be


def installed(host: Host, program: str) -> bool:
    """Say whether a program is there."""
    return any(os.access(host.path(f"{folder}/{program}"), os.X_OK) for folder in PROGRAMS)


def ask(host: Host, program: str, *args: str) -> str:
    """Return what a program prints, "" when it is not there or takes too long."""
    out = os.memfd_create(program)
    try:
        host.run(program, *args, out=out, err=out, until=time.monotonic() + _PATIENCE)
        return os.pread(out, 1 << 16, 0).decode("utf-8", "replace")
    except errors.BrokenInstallation:
        return ""
    finally:
        os.close(out)


def units(host: Host, *names: str, properties: str) -> dict[str, dict[str, str]]:
    """Return properties of systemd's units by name; nothing where systemd does not run."""
    if host.stat("/run/systemd/system") is None:
        return {}
    text = ask(host, "systemctl", "show", f"--property=Id,{properties}", *names)
    blocks = [dict(re.findall(r"^(\w+)=(.*)$", block, re.M)) for block in text.split("\n\n")]
    return {block["Id"]: block for block in blocks if "Id" in block}


def running(host: Host, names: Collection[str]) -> list[int]:
    """Return the processes with one of these names (comm, at most 15 characters)."""
    found = []
    for pid in host.names("/proc"):
        if pid.isdecimal() and host.read(f"/proc/{pid}/comm") in names:
            found.append(int(pid))
    return found


def version(text: str) -> tuple[int, ...]:
    """Return the first version in a text as numbers: 2.1.12 → (2, 1, 12); () when there is none."""
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def some(names: Collection[str], most: int = 3) -> str:
    """Return a few names, and how many there are besides."""
    shown = ", ".join(sorted(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
