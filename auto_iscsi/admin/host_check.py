"""Give the checks of `auto-iscsi doctor` their types, and query programs and processes for them.

Nothing is changed, the network is not used, and a program gets five seconds to answer.
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
_TIMEOUT = 5.0  # seconds for a program that only prints something
_MOST = 3  # names that a list shows


class Finding(NamedTuple):
    """The result of a check."""

    level: str  #: OK, WARNING or PROBLEM; UNKNOWN: the check was not possible
    text: str
    mend: str = ""  #: the command to run, or what to change in which file


class Check(NamedTuple):
    """A check, and the explanation of its code."""

    run: Callable[[Host], Finding]
    means: str  #: why it matters
    todo: str  #: how to correct what it reports


def is_installed(host: Host, program: str) -> bool:
    """Return whether a program is installed."""
    return any(os.access(host.path(f"{folder}/{program}"), os.X_OK) for folder in PROGRAMS)


def run_program(host: Host, program: str, *args: str) -> str:
    """Return what a program prints; "" if it is not installed or prints nothing in time."""
    try:
        return host.output(program, *args, until=time.monotonic() + _TIMEOUT)[1]
    except errors.BrokenInstallation:
        return ""


def unit_properties(host: Host, *units: str, properties: str) -> dict[str, dict[str, str]]:
    """Return properties of systemd units, by unit; {} on a host without systemd."""
    if host.stat("/run/systemd/system") is None:
        return {}
    text = run_program(host, "systemctl", "show", f"--property=Id,{properties}", *units)
    blocks = [dict(re.findall(r"^(\w+)=(.*)$", block, re.M)) for block in text.split("\n\n")]
    return {block["Id"]: block for block in blocks if "Id" in block}


def find_processes(host: Host, names: Collection[str]) -> list[int]:
    """Return the process ids of programs with these names (/proc/PID/comm, 15 characters)."""
    return [
        int(pid)
        for pid in host.names("/proc")
        if pid.isdecimal() and host.read(f"/proc/{pid}/comm") in names
    ]


def parse_version(text: str) -> tuple[int, ...]:
    """Return the first version in a text as numbers: 2.1.12 → (2, 1, 12); () if there is none."""
    match = re.search(r"\d+(\.\d+)+", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def shorten(names: Collection[str]) -> str:
    """Return the first names of a list, and the number of the others."""
    shown = ", ".join(sorted(names)[:_MOST])
    return f"{shown} and {len(names) - _MOST} more" if len(names) > _MOST else shown
