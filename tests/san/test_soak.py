"""Does anything get lost in a crowd, with everything killed now and then?

A moment of it here; make soak has ten minutes.

Not a failed visit without an injected cause, no duplicate session, none of an administrator's
touched, no lock, claim, disk, session or node record left behind.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.reaping import KEPT, QUICK, reap

SHORT = 45  # seconds
# iscsid answers nobody while it brings back the sessions that it lost its memory of.
PATIENT = f"{QUICK}login_timeout = 60s\n"
SCRIPT = Path(__file__).with_name("soak.py")
TARGETS = [f"iqn.2001-05.com.example:soak-{number}" for number in range(12)]
THEIRS = [f"iqn.2001-05.com.example:theirs-{number}" for number in range(2)]


def test_soak(vm: Machine, san: San, request: pytest.FixtureRequest) -> None:
    seconds = int(request.config.getoption("--soak") or SHORT)
    for iqn in (*TARGETS, *THEIRS):
        san.target(iqn)
    for iqn in THEIRS:
        vm.discover()
        vm.run(["iscsiadm", "-m", "node", "-T", iqn, "--login"])
    for iqn in TARGETS:
        job.forget(vm, iqn)
    kept = (job.records(vm), [vm.sessions(iqn) for iqn in THEIRS])
    job.configure(vm, PATIENT)
    vm.automount("--timeout=2 --negative-timeout=1")
    vm.write("/root/soak.py", SCRIPT.read_text())
    soak = vm.start(["python3", "/root/soak.py", f"{seconds}", *TARGETS], timeout=seconds + 300)
    shown = 0
    while not soak.done:
        time.sleep(2)
        lines = soak.output().splitlines()
        if lines[shown:] and seconds > 60:
            print(lines[-1][:300], file=sys.stderr, flush=True)
            shown = len(lines)
        assert all(len(vm.sessions(iqn)) <= 1 for iqn in TARGETS), "two sessions"
    said = json.loads(soak.wait().lines[-1])
    print(json.dumps(said, indent=2))
    assert said["unexplained"] == [] and said["said"] == []
    assert said["counts"]["visits that worked"] > seconds / 20
    assert seconds == SHORT or said["counts"]["sessions ended"] > seconds / 60

    assert job.until(lambda: all(job.mount(vm, iqn) is None for iqn in TARGETS), 120)
    for _ in range(3):  # what iscsid was killed over can need more than one try
        if reap(vm, "--wait", check=False).status == 0:
            break
    assert reap(vm).stdout == ""
    assert [vm.sessions(iqn) for iqn in THEIRS] == kept[1]
    assert [iqn for iqn in TARGETS if vm.sessions(iqn)] == []
    assert job.records(vm) == kept[0]
    assert vm.run(KEPT).stdout == ""
    assert "lock.write" not in vm.run("ls /run/lock/iscsi").stdout
    assert job.until(lambda: vm.run("lsblk -dno NAME | grep -c ^sd", check=False).lines == ["2"])
    for iqn in TARGETS[:3]:
        assert job.visit(vm, iqn).stdout == f"{iqn}\n"
