"""A visit that goes wrong after its mount: nothing waits for ever, and nothing stays open."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import visits
from auto_iscsi.san.catalogue import Entry

PROJECT = Path(__file__).parents[2]
KEY = "iqn.2001-05.com.example:vm-beta"
ENTRY = Entry("vm-beta", datetime(2010, 5, 3, tzinfo=timezone.utc), KEY, False, "")
CLAIM = f"run/auto-iscsi/claims/{KEY}"
#: ^C comes while the claim is read, which is a FIFO.
INTERRUPTED = """\
import os, signal, sys, threading, time
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import visits
from tests.unit.test_visits import CLAIM, ENTRY

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job with & has it ignored

def interrupt():
    with open(f"{sys.argv[1]}/{CLAIM}", "w"):
        os.unlink(f"{sys.argv[1]}/{CLAIM}")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)

threading.Thread(target=interrupt).start()
try:
    visits.begin(Host(sys.argv[1]), f"{sys.argv[1]}/iscsiauto", ENTRY)
except KeyboardInterrupt:
    print("interrupted")
"""
#: ^C comes as soon as the visit has started a thread, which reads the claim for a moment.
AT_THE_START = """\
import os, signal, sys, threading, time
from auto_iscsi.machine.host import Host
from auto_iscsi.restore import visits
from tests.unit.test_visits import CLAIM, ENTRY, uses

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job with & has it ignored

def interrupt():
    while threading.active_count() < 4:
        pass
    os.kill(os.getpid(), signal.SIGINT)

def answer():
    time.sleep(0.2)
    open(host.path(f"/{CLAIM}"), "w").close()

host = Host(sys.argv[1])
os.mkfifo(host.path(f"/{CLAIM}"))
for _ in range(5):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the main thread is to hear it
    threads = [threading.Thread(target=each) for each in (answer, interrupt)]
    for thread in threads:
        thread.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        visits.begin(host, host.path("/iscsiauto"), ENTRY)
    except KeyboardInterrupt:
        pass
    for thread in threads:
        thread.join()
    while threading.active_count() > 1:
        time.sleep(0.01)
print(len(uses(host)))
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a host whose automount has mounted the snapshot."""
    (tmp_path / "iscsiauto" / KEY).mkdir(parents=True)
    (tmp_path / CLAIM).parent.mkdir(parents=True)
    return Host(str(tmp_path))


def uses(host: Host) -> list[str]:
    """Return what this process has open in the snapshot."""
    point = host.path(f"/iscsiauto/{KEY}")
    names = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return [name for name in names if os.path.exists(name) and os.path.samefile(name, point)]


def run(host: Host, program: str) -> str:
    """Return what a Python program prints; on stderr, it must print nothing."""
    words = [sys.executable, "-c", program, host.root]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=20)
    assert not done.stderr, done.stderr
    return done.stdout


def test_ctrl_c_after_the_mount_is_heard_and_the_visit_ends(host: Host) -> None:
    os.mkfifo(host.path(f"/{CLAIM}"))
    assert run(host, INTERRUPTED) == "interrupted\n"


def test_ctrl_c_while_the_visit_begins_ends_it(host: Host) -> None:
    assert run(host, AT_THE_START) == "0\n"


def test_a_visit_that_fails_leaves_the_snapshot_unused(host: Host) -> None:
    os.mkdir(host.path(f"/{CLAIM}"))
    with pytest.raises(errors.Failure) as failed:
        visits.begin(host, host.path("/iscsiauto"), ENTRY)
    assert CLAIM in failed.value.reason and uses(host) == []


def test_without_its_line_in_the_master_map_the_session_is_left_to_the_reaper(host: Host) -> None:
    """The line can be deleted as long as automount has not been reloaded."""
    visit = visits.begin(host, host.path("/iscsiauto"), ENTRY)
    assert len(uses(host)) == 1
    visits.end(host, visit)
    assert uses(host) == []
