"""What can any local user do with a key that is no target's name?"""

from __future__ import annotations

import json

import pytest

from tests.san import job
from tests.san.bed.machine import Machine

KEYS: list[str | bytes] = [
    "-rf", "--help", "-V", ".hidden", "a b", "tab\there", "new\nline", "*", "&", "?", "$(id)",
    "`id`", ";id", "'", '"', "\\", "%s%n", "\x1b[31mred", b"\xff\xfe", "autorun.inf",
    ".Trash-1000", ".git", "iqn", "iqn.*", "...", "iqn.2001-05.com.equallogic:*",
    "iqn.2001-05.com.equallogic:a b", "iqn.2001-05.com.equallogic:a\n", "iqn.2001-13.com.x:a",
    f"{job.BETA}\n{job.ALPHA}", "iqn.2001-05.com.x:" + "a" * 230, "x" * 253,
]  # fmt: skip

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


@pytest.fixture
def typed() -> list[str]:
    """The keys as a program passes them."""
    return [key if isinstance(key, str) else key.decode(errors="surrogateescape") for key in KEYS]


def test_nothing_but_a_target_name_gets_past(vm: Machine, typed: list[str]) -> None:
    vm.run("systemctl restart autofs")
    daemons = "systemctl show -P ActiveState iscsid; ls /sys/class/iscsi_session 2>/dev/null"
    before = vm.run(daemons, check=False).stdout
    (automount,) = vm.run("pgrep -x automount").lines
    tracing = vm.start(
        ["strace", "-f", "-qq", "-e", "trace=execve,socket", "-o", "/root/trace", "-p", automount],
        timeout=300,
    )
    job.until(lambda: vm.run(f"grep TracerPid /proc/{automount}/status").stdout.split()[1] != "0")
    seen = vm.run(["python3", "-c", TOUCH], user="user", stdin=json.dumps(typed), timeout=300)
    tracing.kill(2)
    tracing.wait(check=False)
    assert seen.stdout == ""
    trace = vm.run("grep -a execve /root/trace").lines
    assert trace
    assert [line for line in trace if "/auto.iscsi\"" not in line and "python3" not in line] == []
    assert "AF_INET" not in vm.read("/root/trace").decode(errors="replace")
    assert vm.run(daemons, check=False).stdout == before
    lines = job.said(vm)
    assert len(lines) >= len(typed)
    assert all(" refused: " in line and line.isascii() and line.isprintable() for line in lines)
    assert vm.run("find /run/auto-iscsi -type f").stdout == ""
