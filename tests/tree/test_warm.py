"""A warm visit reads a few files: it starts no process, and imports only what it needs.

A key that is no target's name does not even open a file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from auto_iscsi.config import file_cache
from tests.tree.machine import REPOSITORY, VOL1, Machine
from tests.unit.key_examples import HOSTILE, NEARLY

# Runs the map program on a machine below a folder; reports what it imported and started.
PROGRAM = """\
import sys
before, started = set(sys.modules), []
starts = ("os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen")
sys.addaudithook(lambda event, _: started.append(event) if event in starts else None)
sys.path.insert(0, sys.argv[1])
from auto_iscsi.machine.host import Host
from auto_iscsi.map import program
status = program.main(sys.argv[3:], Host(sys.argv[2]))
imported = sorted(set(sys.modules) - before)
import json
with open(sys.argv[2] + "/report", "w") as file:
    json.dump([imported, started[:]], file)
sys.exit(status)
"""
KEYS = """\
import os, sys
sys.path.insert(0, sys.argv[1])
from auto_iscsi.machine.host import Host
from auto_iscsi.map import lookup, program
host = Host(sys.argv[2])
keys = sys.argv[3:]
os.access("from here on", os.F_OK)
for key in keys:
    assert program.main([key], host) == 1
"""
#: Imports what a first visit of a dirty filesystem needs, and prints what else came with it.
OVERLAY = """\
import sys
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
from auto_iscsi.map import bring_up, last_mount, lookup, undo_login
from auto_iscsi.iscsi import iscsiadm, login, pending_logins
from auto_iscsi.volumes import journal, overlay, selection
print(*sorted(set(sys.modules) - before))
"""
SOME_SECTIONS = "fstype = ext3\nportals = 10.0.0.1\n[*-vol1]\nlun = 0\n[*-vol[2-9]x]\nlun = 3\n"
#: The modules of the standard library that a warm visit may import. Every other one costs more than
#: a warm visit does: typing alone takes longer than Python takes to start.
CHEAP = {
    "__future__",
    "_collections",
    "_collections_abc",
    "_stat",
    "binascii",
    "errno",
    "fcntl",
    "genericpath",
    "os",
    "os.path",
    "posixpath",
    "select",
    "stat",
}
#: What a first visit, which starts iscsiadm, may import as well. Not sh, pyudev, re: each is slow.
CHEAP_FIRST = {"_socket", "syslog"}
# The system calls that start a process or thread, or open a connection.
CALLS = re.compile(r"\b(fork|vfork|clone|clone3|execve|execveat|socket|connect)\(")


class Report(NamedTuple):
    """The result of a program: output, imports, started processes and system calls."""

    status: int
    out: str
    err: str
    imported: set[str]
    started: list[str]
    calls: list[str]  #: system calls, if strace was used


def run(machine: Machine, program: str, *words: str, strace: bool = False) -> Report:
    """Run a program on a machine."""
    if strace and not shutil.which("strace"):
        pytest.skip("needs strace")
    trace, report = machine.root / "trace", machine.root / "report"
    before = ["strace", "-f", "-qq", "-o", str(trace)] if strace else []
    command = [sys.executable, "-IS", "-c", program, str(REPOSITORY), str(machine.root), *words]
    done = subprocess.run(
        [*before, *command], cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    imported, started = json.loads(report.read_text()) if report.exists() else ([], [])
    calls = trace.read_text().splitlines()[1:] if strace else []  # the first: strace's own start
    assert not strace or len(calls) > 100
    return Report(done.returncode, done.stdout, done.stderr, set(imported), started, calls)


def others(imported: set[str]) -> set[str]:
    """Return the modules that are not ours."""
    return {name for name in imported if name.split(".")[0] != "auto_iscsi"}


@pytest.mark.parametrize("configuration", ["", SOME_SECTIONS])
def test_a_warm_visit_imports_nothing_costly_and_starts_no_process(
    machine: Machine, configuration: str
) -> None:
    portal = machine.target(VOL1)
    if configuration:
        machine.configure(configuration)
        time.sleep(file_cache.SETTLE_TIME + 0.1)  # a file that was changed just now is not cached
    sid = machine.session(VOL1, portal)
    # The kernel knows the identity of the disk, so the lookup asks the disk for it again.
    for disk in (machine.root / f"sys/class/iscsi_session/session{sid}/device").glob("target*/*"):
        (disk / "vpd_pg83").write_bytes(b"\0\x83\0\x04\1\3\0\0")
        for block in os.listdir(disk / "block"):
            machine.files({f"/sys/block/{block}/device/scsi_generic/sg0/dev": "21:0"})
    for visit in range(3):
        done = run(machine, PROGRAM, VOL1)
        assert (done.status, done.out) == (0, machine.entry(VOL1, portal) + "\n"), done.err
        assert done.started == []
        if visit:
            assert others(done.imported) <= CHEAP
        else:
            assert ("configobj" in done.imported) == bool(configuration)
    assert machine.runs() == []


def test_a_wrong_key_does_not_import_the_modules_of_a_lookup(machine: Machine) -> None:
    done = run(machine, PROGRAM, ".git")
    assert done.status == 1
    assert "auto_iscsi.map.lookup" not in done.imported
    assert {name for name in others(done.imported) if not name.startswith("encodings")} <= CHEAP


def test_a_warm_visit_makes_no_system_call_that_starts_a_process_or_opens_a_socket(
    machine: Machine,
) -> None:
    machine.session(VOL1, machine.target(VOL1))
    done = run(machine, PROGRAM, VOL1, strace=True)
    assert done.status == 0
    assert [call for call in done.calls if CALLS.search(call)] == []


def test_a_first_visit_imports_little_more_and_starts_a_process(machine: Machine) -> None:
    # If it started none, the tests above would prove nothing.
    portal = machine.target(VOL1)
    done = run(machine, PROGRAM, VOL1, strace=True)
    assert (done.status, done.out) == (0, machine.entry(VOL1, portal) + "\n"), done.err
    assert others(done.imported) <= CHEAP | CHEAP_FIRST
    assert done.started
    assert {"socket", "execve"} <= {match[1] for match in map(CALLS.search, done.calls) if match}


def test_the_modules_of_an_overlay_import_little_more() -> None:
    command = [sys.executable, "-IS", "-c", OVERLAY, str(REPOSITORY)]
    done = subprocess.run(command, cwd="/", check=True, stdout=subprocess.PIPE, text=True)
    assert others(set(done.stdout.split())) <= CHEAP | CHEAP_FIRST | {"_struct", "struct"}


def test_for_a_key_that_is_no_targets_name_nothing_is_opened_and_nothing_started(
    machine: Machine,
) -> None:
    machine.configure(f"portals = {machine.target(VOL1)}\n")
    keys = [key for key in (*HOSTILE, *NEARLY) if "\0" not in key]
    done = run(machine, KEYS, *keys, strace=True)
    assert (done.status, done.out) == (0, "")
    lines = done.err.splitlines()
    assert len(lines) == len(keys) > 80
    assert all(line.startswith("auto.iscsi: key ") for line in lines), done.err
    begin = next(n for n, call in enumerate(done.calls) if "from here on" in call)
    after = done.calls[begin + 1 :]
    assert [call for call in after if CALLS.search(call) or str(machine.root) in call] == []
    assert not (machine.root / "run").exists()
