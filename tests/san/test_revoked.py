"""What if a snapshot goes away, before, after and while somebody reads it?"""

from __future__ import annotations

import itertools

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.test_reap import QUICK, reap, why

BLOCK = 1 << 20
SLACK = 10.0  # seconds, of emulation
HEALTHY = f"{job.BETA[:-1]}-healthy"
CAUSES, STATES = ("unmapped", "deleted", "cut off"), ("unmounted", "mounted", "read")
NAMES = {
    case: f"iqn.2001-05.com.example:{'-'.join(case).replace(' ', '-')}"
    for case in itertools.product(CAUSES, STATES)
}

# Reads again and again from the disk itself, until that fails: says when it did.
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


def test_nine_ways_to_lose_one(vm: Machine, san: San) -> None:
    files: dict[str, str | bytes] = {"marker": "here\n", "large": b"x" * BLOCK}
    for (cause, _), iqn in (*NAMES.items(), (("", ""), HEALTHY)):
        portal = "127.0.0.2" if cause == "cut off" else "127.0.0.1"
        san.target(iqn, [san.disk([san.fs("ext3", files)])], portals=[portal])
    job.configure(vm, QUICK.replace("portals = 127.0.0.1", "portals = 127.0.0.1, 127.0.0.2"))
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

    begun = uptime(vm)
    for (cause, _), iqn in NAMES.items():
        if cause == "unmapped":
            disk = san.targets[iqn].luns[0]
            san.targets[iqn].unmap(0)
            san.targets[iqn].luns.clear()
            san.targets[iqn].spare = disk  # type: ignore[attr-defined]
        elif cause == "deleted":
            san.targets[iqn].delete()
    cut = uptime(vm)
    san.block("127.0.0.2")
    # At once, and while all hangs that can: it ends the healthy one, and does not hang itself.
    first = vm.start("time auto-iscsi reap", timeout=180)
    gone = {cause: reader.wait() for cause, reader in readers.items()}
    said = first.wait(check=False)
    print(said.stdout, said.stderr)
    assert HEALTHY in said.stdout
    for cause, reader in gone.items():
        number, at = reader.lines[1].split()
        took = float(at) - (cut if cause == "cut off" else begun)
        print(cause, "reader got errno", number, "after", took)
        assert int(number) == 5 and took < 10 + SLACK, cause
    print(reap(vm, "--dry-run").stdout)
    for (cause, state), iqn in NAMES.items():
        if state != "unmounted" and cause != "unmapped":
            assert "report" in why(vm, iqn) and "mounted at" in why(vm, iqn), why(vm, iqn)
    # A mount that nobody uses any more expires as ever; then the session can go.
    begun = uptime(vm)
    while uptime(vm) < begun + 60 and any(job.mount(vm, iqn) for iqn in NAMES.values()):
        vm.run("systemctl kill -s USR1 autofs; sleep 2")
        print([c for c, iqn in NAMES.items() if job.mount(vm, iqn)])
    said = reap(vm, "--wait", check=False)
    print(said)
    print(reap(vm, "--dry-run").stdout)
    assert vm.sessions() == []
    assert vm.run("lsblk -dno NAME | grep ^sd", check=False).stdout == ""
    assert vm.run("find /run/auto-iscsi -type f ! -name 'config*'").stdout == ""

    san.unblock("127.0.0.2")
    for (cause, _), iqn in NAMES.items():
        if cause == "unmapped":
            san.targets[iqn].map(0, san.targets[iqn].spare)  # type: ignore[attr-defined]
        elif cause == "deleted":
            san.targets[iqn].recreate()
    for iqn in NAMES.values():
        assert job.visit(vm, iqn).stdout == "here\n"
