"""The driver `lio` with real thin snapshots and the kernel's target: presented, read, revoked."""

from __future__ import annotations

import json

import pytest

from tests.san.bed.machine import Machine
from tests.san.lio_array import FIRST, SECOND, VOLUME, Array

MODES = ("own", "shared")


def read(vm: Machine, disk: str) -> str:
    """Mount a disk that was copied in use, and read its file."""
    vm.run(f"mkdir -p /run/seen && mount -o ro,noload /dev/{disk} /run/seen", timeout=100)
    seen = vm.run("cat /run/seen/marker").stdout.strip()
    vm.run("umount /run/seen")
    return seen


def refused_write(vm: Machine, disk: str) -> None:
    """Write a block, against the disk's read-only flag; the SAN has to refuse it itself."""
    assert vm.run(f"blockdev --getro /dev/{disk}").stdout == "1\n"
    vm.run(f"blockdev --setrw /dev/{disk}", check=False)
    before = vm.run(f"head -c 4096 /dev/{disk} | sha256sum").stdout
    write = f"dd if=/dev/urandom of=/dev/{disk} bs=4096 count=1 oflag=direct"
    assert vm.run(write, check=False, timeout=100).status != 0
    vm.run(f"blockdev --flushbufs /dev/{disk}")
    assert vm.run(f"head -c 4096 /dev/{disk} | sha256sum").stdout == before


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("by_ssh", [False, True], ids=["here", "ssh"])
def test_presented_read_and_revoked(vm: Machine, mode: str, by_ssh: bool) -> None:
    array = Array(vm, {"mode": mode}, by_ssh)
    before = array.dump()
    assert array.call("info")["target_model"] == mode
    told = array.call("list", volume=None, presented_only=False, initiator=array.initiator)
    assert told["ok"], told
    found = {each["snapshot"]: each for each in told["snapshots"]}
    assert set(found) == {FIRST, SECOND} and told["complete"]
    assert found[FIRST]["volume"] == VOLUME and found[FIRST]["created_from"] == "array"
    created = vm.run(f"date -d {found[FIRST]['created']} +%s; date +%s").lines
    assert 0 <= int(created[1]) - int(created[0]) < 1000 and found[FIRST]["size"] == 48 << 20
    assert array.presented() == []

    done = array.present(FIRST)
    target = done["target"]
    assert (done["ok"], done["already"], target["shared"]) == (True, False, mode == "shared")
    assert (target["lun"] == 0) == (mode == "own")
    again = array.present(FIRST)
    assert again == {**done, "already": True}
    assert array.presented() == [FIRST]
    disk = array.login(target)
    assert read(vm, disk) == FIRST
    assert vm.run(f"cat /sys/block/{disk}/device/wwid").stdout.strip() == target["wwid"]
    refused_write(vm, disk)
    assert vm.read("/run/live/marker") == b"live\n"

    presented = array.dump()
    busy = array.revoke(FIRST, made=done["made"], handle=done["handle"])
    assert busy["error"]["code"] == "busy" and busy["error"]["effect"] == "none"
    assert array.dump() == presented
    assert read(vm, disk) == FIRST
    array.logout(target["iqn"])
    gone = array.revoke(FIRST, made=done["made"], handle=done["handle"])
    assert gone == {"ok": True, "already": False, "kept": []}
    assert array.dump() == before
    for made in (done["made"], None):
        assert array.revoke(FIRST, made=made, handle=None)["already"] is True
    assert array.dump() == before


#: Runs the driver in forks; the n-th step of a present or revoke is its last.
KILLER = """
import json, os, signal, sys
sys.path.insert(0, "/usr/share/auto-iscsi")
from auto_iscsi.drivers import lio, protocol
import rtslib_fb
EVENTS = ("os.mkdir", "os.rmdir", "os.symlink", "os.remove", "os.rename", "subprocess.Popen")
def call(verb, body, last=0):
    request, reply = os.pipe(), os.pipe()
    os.write(request[1], json.dumps(body).encode()); os.close(request[1])
    child = os.fork()
    if not child:
        os.dup2(request[0], 0); os.dup2(reply[1], 1)
        steps = [0]
        def hook(event, arguments):
            writes = event == "open" and "w" in str(arguments[1])
            if event in EVENTS or writes:
                steps[0] += 1
                if steps[0] == last:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        os._exit(protocol.serve(lio.driver(), [verb]))
    os.close(request[0]); os.close(reply[1])
    text = os.fdopen(reply[0]).read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text
body = json.load(sys.stdin)
dump = lambda: os.popen(sys.argv[1]).read()
before, killed = dump(), {"present": 0, "revoke": 0}
first = int(sys.argv[2])
for verb in ("present", "revoke"):
    last = first
    while True:
        if verb == "revoke":
            assert call("present", body)[0] == 0
        status, text = call(verb, body, last)
        if status != -9:
            assert status == 0, (verb, last, status, text)
            break
        killed[verb] += 1
        # It is presented by the same lease again, or revoked, whatever was left.
        if last % 2:
            status, text = call("present", body)
            assert status == 0, (verb, last, text)
            status, text = call("present", body)
            assert json.loads(text)["already"], (verb, last, text)
        status, text = call("revoke", body)
        assert status == 0 and not json.loads(text)["kept"], (verb, last, text)
        assert dump() == before, (verb, last, dump(), before)
        last += 3
    assert call("revoke", body)[0] == 0
    assert dump() == before, verb
print(json.dumps(killed))
"""
SHORT_DUMP = (
    "cd /sys/kernel/config/target; find core iscsi -mindepth 2 -maxdepth 2 -type d | sort; "
    "dmsetup ls | sort"
)


@pytest.mark.parametrize(("mode", "first"), [("own", 1), ("shared", 2), ("own", 3)])
def test_killed_at_a_step(vm: Machine, mode: str, first: int) -> None:
    array = Array(vm, {"mode": mode})
    before = array.dump()
    body = array.request(**array.wanted(FIRST, made=None, handle=None))
    vm.write("/opt/killer.py", KILLER)
    done = vm.run(
        ["python3", "-W", "ignore", "/opt/killer.py", SHORT_DUMP, str(first)],
        stdin=json.dumps(body),
        timeout=500,
    )
    killed = json.loads(done.lines[-1])
    assert killed["present"] >= 5 and killed["revoke"] >= 3, killed
    assert array.dump() == before
