"""Kill a lookup, a reaper or a driver at an arrow of the journal of what is presented.

The programs of the package are started by launchers of our own, which end a process by SIGKILL
where the interpreter is about to do something (audit hooks, PEP 578), once.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from tests.san.bed.machine import Machine

MAP, REAPER, DRIVER = "map", "reaper", "driver"
PROGRAMS = {
    MAP: "/usr/libexec/auto-iscsi/auto.iscsi",
    REAPER: "/usr/sbin/auto-iscsi",
    DRIVER: "/usr/libexec/auto-iscsi/drivers/lio",
}
_PLAN = "/run/arrow"

_LAUNCHER = """#!/usr/bin/python3 -BI{flags}
import os, sys
sys.path.insert(0, "/opt")
import arrow
arrow.watch("{who}")
path = "{path}.real"
exec(compile(open(path).read(), path, "exec"))
"""

_HOOK = """
import json, os, signal, sys
PLAN = "/run/arrow"
LEASES, CLAIMS = "/var/lib/auto-iscsi/san/", "/run/auto-iscsi/claims/"
CONFIGFS = ("os.mkdir", "os.rmdir", "os.symlink", "os.remove")

def text(word):
    return os.fsdecode(word) if isinstance(word, (str, bytes)) else ""

def named(event, arguments):
    "Return what is about to happen, as a plan names it."
    first = text(arguments[0]) if arguments else ""
    if event == "os.rename" and text(arguments[1]).startswith(LEASES):
        with open(first) as file:
            return json.load(file)["state"]
    if event == "os.rename" and text(arguments[1]).startswith(CLAIMS):
        with open(first) as file:
            return "opened" if "\\nopened " in "\\n" + file.read() else ""
    if event == "os.remove" and first.startswith(LEASES) and not first.startswith(LEASES + "."):
        return "end"
    if event == "open" and first.startswith(LEASES + ".") and arguments[2] & os.O_CREAT:
        return "draft"
    if event == "os.exec" and first.endswith("iscsiadm"):
        words = map(text, arguments[1])
        return next((word for word in words if word in ("--login", "--logout")), "")
    if event in CONFIGFS and any("/config/target/" in text(each) for each in arguments[:2]):
        return "configfs"
    return ""

def watch(who):
    try:
        with open(PLAN) as file:
            plan = json.load(file)
    except OSError:
        return
    if plan["who"] != who:
        return
    left, is_next, is_busy = plan["nth"], False, False

    def kill(event):
        try:
            os.rename(PLAN, PLAN + ".fired")
        except FileNotFoundError:  # another process was first
            return
        if plan["instead"]:
            os.system(plan["instead"])
            return
        os.kill(os.getppid() if plan["parent"] else os.getpid(), signal.SIGKILL)
        if event != "os.exec":  # iscsiadm goes on, and a driver ends with who started it
            signal.pause()

    def hook(event, arguments):
        nonlocal left, is_next, is_busy
        if is_busy:
            return
        is_busy = True
        try:
            if is_next:
                kill(event)
            elif named(event, arguments) == plan["what"]:
                left -= 1
                if left == 0 and plan["after"]:
                    is_next = True
                elif left == 0:
                    kill(event)
        finally:
            is_busy = False

    sys.addaudithook(hook)
"""


class Arrow(NamedTuple):
    """Where somebody is killed.

    `what`: a state of a lease that is written, `draft` (any of them, before it), `end` (its
    deletion), `opened` (a session is ours), `--login` and `--logout` (iscsiadm's, which goes on),
    `configfs` (a change at the array).
    """

    who: str  #: one of PROGRAMS
    what: str
    after: bool = False  #: not before it, but at whatever the process does next
    nth: int = 1
    parent: bool = False  #: who started the process is killed, not the process itself
    instead: str = ""  #: a command that is run there, and nobody is killed


def prepare(vm: Machine) -> None:
    """Put the launchers in place."""
    vm.write("/opt/arrow.py", _HOOK)
    for who, path in PROGRAMS.items():
        vm.run(["mv", path, f"{path}.real"])
        flags = "S" if who == MAP else ""
        vm.write(path, _LAUNCHER.format(who=who, path=path, flags=flags), 0o755)


def arm(vm: Machine, arrow: Arrow) -> None:
    """Kill at this arrow."""
    vm.run(["rm", "-f", f"{_PLAN}.fired"])
    vm.write(_PLAN, json.dumps(arrow._asdict()))


def has_come(vm: Machine) -> bool:
    """Tell whether somebody has come to the arrow since arm(); if not, nothing happens there."""
    return not vm.run(f"rm -f {_PLAN}; test -e {_PLAN}.fired", check=False).status
