"""A snapshot disappears while it is unmounted, mounted or read: nothing hangs, all recovers."""

from __future__ import annotations

import errno
import itertools

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.reaping import QUICK, decision, leftovers, reap

BLOCK = 1 << 20
SLACK = 10.0  # seconds that emulation may add
HEALTHY = f"{job.BETA[:-1]}-healthy"
CAUSES, STATES = ("unmapped", "deleted", "cut off"), ("unmounted", "mounted", "read")
NAMES = {
    case: f"iqn.2001-05.com.example:{'-'.join(case).replace(' ', '-')}"
    for case in itertools.product(CAUSES, STATES)
}

# Reads from the disk until that fails, and prints the error and the time.
READER = """
import os, sys, time
file = os.open(sys.argv[1], os.O_RDONLY)
print("reading", flush=True)
try:
    while True:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(file, 1 << 16, 0)
        time.sleep(0.05)
except OSError as error:
    print(error.errno, time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
"""


def uptime(vm: Machine) -> float:
    return float(vm.run("cut -d' ' -f1 /proc/uptime").stdout)


@pytest.mark.long
def test_nine_ways_to_lose_a_snapshot(vm: Machine, san: San) -> None:
    files: dict[str, str | bytes] = {"marker": "here\n", "large": b"x" * BLOCK}
    for (cause, _), iqn in (*NAMES.items(), (("", ""), HEALTHY)):
        portal = "127.0.0.2" if cause == "cut off" else "127.0.0.1"
        san.target(iqn, [san.disk([san.fs("ext3", files)])], portals=[portal])
    job.configure(vm, QUICK.replace("portals = 127.0.0.1", "portals = 127.0.0.1, 127.0.0.2"))
    nothing = leftovers(vm)
    vm.automount("--timeout=600 --negative-timeout=1")
    vm.write("/root/reader.py", READER)
    readers = {}
    for (cause, state), iqn in NAMES.items():
        if state == "unmounted":
            vm.run(["auto-iscsi", "lookup", iqn], timeout=120)
        else:
            assert job.visit(vm, iqn).stdout == "here\n"
        if state == "read":
            command = ["python3", "/root/reader.py", f"{job.ROOT}/{iqn}/large"]
            readers[cause] = vm.start(command, timeout=400)
            assert job.until(readers[cause].output)
    vm.run(["auto-iscsi", "lookup", HEALTHY], timeout=120)
    vm.run("sleep 2.1")

    unmapped_disks = {}
    begun = uptime(vm)
    for (cause, _), iqn in NAMES.items():
        target = san.targets[iqn]
        if cause == "unmapped":
            unmapped_disks[iqn] = target.luns[0]
            target.unmap(0)
        elif cause == "deleted":
            target.delete()
    cut = uptime(vm)
    san.block("127.0.0.2")
    # While everything hangs that can, the reaper ends the other sessions and does not hang.
    reaped = reap(vm, check=False)
    took = uptime(vm) - cut
    assert HEALTHY in reaped.stdout and took < 15 + SLACK, (took, reaped)
    for cause, reader in readers.items():
        number, at = reader.wait().lines[1].split()
        seconds = float(at) - (cut if cause == "cut off" else begun)
        print(f"{cause}: a reader got errno {number} after {seconds:.1f} s")
        assert int(number) == errno.EIO and seconds < 10 + SLACK, cause
    for (_, state), iqn in NAMES.items():
        if state != "unmounted":
            assert f"mounted at {job.ROOT}/{iqn}" in decision(vm, iqn)
            assert "report" in decision(vm, iqn), decision(vm, iqn)

    # An unused mount expires as usual, and then its session can end.
    def expired() -> bool:
        vm.run("systemctl kill -s USR1 autofs; sleep 1")
        return not any(job.mount(vm, iqn) for iqn in NAMES.values())

    assert job.until(expired)
    reaped = reap(vm, "--wait", check=False)
    assert (reaped.status, reaped.stderr) == (0, ""), reaped
    assert vm.sessions() == []
    assert leftovers(vm) == nothing

    san.unblock("127.0.0.2")
    for (cause, _), iqn in NAMES.items():
        if cause == "unmapped":
            san.targets[iqn].map(0, unmapped_disks[iqn])
        elif cause == "deleted":
            san.targets[iqn].recreate()
    for iqn in NAMES.values():
        assert job.visit(vm, iqn).stdout == "here\n"
