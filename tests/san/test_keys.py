"""What can any local user do with a key that is no target's name?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from auto_iscsi.iscsi import rate_limit
from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

KEYS: list[str | bytes] = [
    "-rf",
    "--help",
    "-V",
    ".hidden",
    "a b",
    "tab\there",
    "new\nline",
    "*",
    "&",
    "?",
    "$(id)",
    "`id`",
    ";id",
    "'",
    '"',
    "\\",
    "%s%n",
    "\x1b[31mred",
    b"\xff\xfe",
    "autorun.inf",
    ".Trash-1000",
    ".git",
    "iqn",
    "iqn.*",
    "...",
    "iqn.2001-05.com.equallogic:*",
    "iqn.2001-05.com.equallogic:a b",
    "iqn.2001-05.com.equallogic:a\n",
    "iqn.2001-13.com.x:a",
    f"{job.BETA}\n{job.ALPHA}",
    "iqn.2001-05.com.x:" + "a" * 230,
    "x" * 253,
]

TOUCH = """
import json, os, sys
looks = (os.stat, os.listdir, os.readlink, os.statvfs)
for number, key in enumerate(json.load(sys.stdin)):
    try:
        looks[number % len(looks)](os.fsencode(f"/iscsiauto/{key}"))
        print("there:", ascii(key))
    except OSError:
        pass
"""


# The kernel traces every fork, exec and TCP state change, with its process.
TRACING = "/sys/kernel/tracing"
EVENTS = ("sched/sched_process_fork", "sched/sched_process_exec", "sock/inet_sock_set_state")
MAP = "/usr/libexec/auto-iscsi/auto.iscsi"


@pytest.fixture
def typed() -> list[str]:
    """The keys as a program passes them."""
    return [key if isinstance(key, str) else key.decode(errors="surrogateescape") for key in KEYS]


def trace(vm: Machine) -> set[int]:
    """Start tracing processes and connections; return automount's threads."""
    on = "".join(f" && echo 1 > events/{event}/enable" for event in EVENTS)
    vm.run(f"mountpoint -q {TRACING} || mount -t tracefs none {TRACING}; cd {TRACING}{on}")
    return {int(thread) for thread in vm.run("ls /proc/$(pgrep -x automount)/task").lines}


def traced(vm: Machine, threads: set[int]) -> tuple[list[str], list[str]]:
    """Return the programs and TCP state changes of threads and their descendants."""
    family, executed, connected = set(threads), [], []
    for line in vm.run(f"cat {TRACING}/trace").lines:
        event = re.match(r"\s*.+-(\d+)\s+\[\d+\].* (\w+): (.*)", line)
        if not event or int(event[1]) not in family:
            continue
        if event[2] == "sched_process_fork":
            family.add(int(event[3].rpartition("child_pid=")[2]))
        elif event[2] == "sched_process_exec":
            executed.append(event[3].partition(" ")[0].partition("=")[2])
        else:
            connected.append(event[3])
    return executed, connected


def test_nothing_but_a_target_name_gets_past_and_the_trace_would_show_a_login(
    vm: Machine, san: San, typed: list[str]
) -> None:
    vm.run("systemctl restart autofs")
    daemons = "systemctl show -P ActiveState iscsid; ls /sys/class/iscsi_session 2>/dev/null"
    before = vm.run(daemons, check=False).stdout
    files = vm.run("find /run/auto-iscsi -type f").stdout  # of the installation
    automount = trace(vm)
    seen = vm.run(["python3", "-c", TOUCH], user="user", stdin=json.dumps(typed), timeout=300)
    executed, connected = traced(vm, automount)
    assert seen.stdout == ""
    assert len(executed) >= len(set(typed))
    assert set(executed) == {MAP}
    assert connected == []
    assert vm.run(daemons, check=False).stdout == before
    lines = job.messages(vm)
    assert len(lines) >= len(typed)
    assert all(" refused: " in line and line.isascii() and line.isprintable() for line in lines)
    assert vm.run("find /run/auto-iscsi -type f").stdout == files

    san.target(job.BETA)
    job.configure(vm, "portals = 127.0.0.1\n")
    vm.run(f"echo > {TRACING}/trace")
    automount = trace(vm)
    job.visit(vm, job.BETA)
    executed, connected = traced(vm, automount)
    assert {Path(path).name for path in executed} >= {"auto.iscsi", "iscsiadm", "mount"}
    assert any("dport=3260" in step for step in connected)


def test_a_loop_over_invented_names_asks_the_san_rarely(vm: Machine, san: San) -> None:
    san.target(job.BETA)
    refusing = san.refusing("127.0.0.9", 2, 3, targets=[job.ALPHA])
    vm.discover("127.0.0.9")
    job.configure(vm, "portals = 127.0.0.1\nattempts = 8\n")
    automount = trace(vm)
    began = float(vm.run("cut -d' ' -f1 /proc/uptime").stdout)
    invented = "seq 16 | xargs -P 8 -I@ ls /iscsiauto/iqn.2001-05.com.example:@"
    vm.run(invented, user="user", check=False, timeout=300)
    seconds = float(vm.run("cut -d' ' -f1 /proc/uptime").stdout) - began
    executed, _ = traced(vm, automount)
    assert executed.count(MAP) >= 16
    discoveries = sum(path.endswith("/iscsiadm") for path in executed)
    assert 1 <= discoveries <= 1 + seconds / rate_limit.OFFER_LIFETIME

    def refused() -> bool:
        job.visit(vm, job.ALPHA, check=False)
        return "2 failed attempts in the last minute" in job.messages(vm)[-1]

    assert job.until(refused), job.messages(vm)
    assert refusing.logins == 2  # one target may use a quarter of the eight attempts
    assert job.visit(vm, job.BETA).stdout.strip() == job.BETA
