"""The driver `lio` with real thin snapshots and the kernel's target: presented, read, revoked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.san.bed.machine import Machine
from tests.san.lio_array import CLONE, FIRST, LEASES, SECOND, VOLUME, Array

MODES = ("own", "shared")
OTHER = "iqn.1993-08.org.debian:01:another-host"
SHARED = "iqn.2003-01.org.example.san1:snapshots"

#: Makes a target of the administrator's, with an ACL for somebody else.
FOREIGN = f"""
import rtslib_fb as r
target = r.Target(r.FabricModule("iscsi"), "{SHARED}")
group = r.TPG(target, 1)
for name in ("generate_node_acls", "authentication"):
    group.set_attribute(name, "0")
r.NetworkPortal(group, "127.0.0.1", 3260)
r.NodeACL(group, "{OTHER}")
group.enable = True
"""


@pytest.fixture
def vm(array_vm: Machine) -> Machine:
    """The host of the target."""
    return array_vm


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


@pytest.mark.parametrize(
    ("mode", "by_ssh"),
    [
        pytest.param("own", False, id="own-here", marks=pytest.mark.long),
        pytest.param("own", True, id="own-ssh"),
        pytest.param("shared", False, id="shared-here"),
        pytest.param("shared", True, id="shared-ssh", marks=pytest.mark.long),
    ],
)
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


def test_what_two_leases_need_goes_with_the_last_one(vm: Machine) -> None:
    array = Array(vm, {"mode": "shared", "iqn": SHARED})
    vm.run(["python3", "-W", "ignore", "-c", FOREIGN])
    before = array.dump()
    first, second = array.present(FIRST, 0), array.present(SECOND, 1)
    assert "target" not in first["made"] and "acl" in first["made"]
    assert first["target"]["iqn"] == second["target"]["iqn"] == SHARED
    luns = {first["target"]["lun"], second["target"]["lun"]}
    assert len(luns) == 2
    assert read(vm, array.login(second["target"])) == SECOND
    assert read(vm, array.login(first["target"])) == FIRST
    # The session stays for the second one; the LUN of the first goes alone.
    gone = array.revoke(FIRST, 0, made=first["made"], handle=first["handle"])
    assert gone["ok"] and gone["kept"] == [f"acl:lease {LEASES[1]} needs it"]
    assert array.presented() == [SECOND]
    refused = array.revoke(SECOND, 1, made=None, handle=None)
    assert refused["error"]["code"] == "busy"
    # The number of the one that is gone is not used again for the next one.
    third = array.present(FIRST, 0)
    assert third["target"]["lun"] not in luns
    array.logout(SHARED)
    assert array.revoke(FIRST, 0, made=None, handle=None)["ok"]
    assert array.revoke(SECOND, 1, made=second["made"], handle=second["handle"])["kept"] == []
    assert array.dump() == before


def test_another_initiators_acl_stays(vm: Machine) -> None:
    array = Array(vm, {"mode": "own"})
    before = array.dump()
    ours = array.present(FIRST, 0)
    theirs = array.present(FIRST, 1, initiator=OTHER)
    assert theirs["target"] == ours["target"] and theirs["already"] is False
    iqn = ours["target"]["iqn"]
    array.revoke(FIRST, 0, made=ours["made"], handle=ours["handle"])
    acls = vm.run(f"ls /sys/kernel/config/target/iscsi/{iqn}/tpgt_1/acls").lines
    assert acls == [OTHER]
    # This initiator is neither let in nor told the target's name.
    offered = vm.run("iscsiadm -m discovery -t st -p 127.0.0.1", check=False, timeout=100)
    assert iqn not in offered.stdout
    node = f"iscsiadm -m node -T {iqn} -p 127.0.0.1:3260"
    assert vm.run(f"{node} -o new && {node} --login", check=False, timeout=150).status == 24
    array.revoke(FIRST, 1, initiator=OTHER, made=None, handle=None)
    assert array.dump() == before


def test_what_is_live_is_never_presented(vm: Machine) -> None:
    array = Array(vm, {"mode": "own", "volumes": "vm-b*", "initiators": "iqn.1993-08.org.debian:*"})
    before = array.dump()

    def code(name: str, **more: Any) -> str:
        reply = array.present(name, **more)
        assert reply["ok"] is False and reply["error"]["effect"] == "none"
        return str(reply["error"]["code"])

    assert code(VOLUME) == "denied"
    assert code(FIRST, id=array.ids[VOLUME]) == "denied"
    assert code(CLONE) == "denied"
    assert code(SECOND, id=array.ids[FIRST]) == "conflict"
    assert code("gone") == "not_found"
    assert code(FIRST, volume="pool") == "denied"
    assert code(FIRST, initiator="iqn.2001-05.com.example:x") == "denied"
    assert code(FIRST, snapshot="x;reboot") == "invalid"
    # Somebody looks into the snapshot on the target's host.
    vm.run(f"lvchange -ay -K vg0/{SECOND} && mount -o ro,noload /dev/vg0/{SECOND} /mnt")
    assert code(SECOND) == "busy"
    vm.run(f"umount /mnt; lvchange -an vg0/{SECOND}")
    assert array.dump() == before


def test_an_active_snapshot_stays_active(vm: Machine) -> None:
    array = Array(vm, {"mode": "own"})
    vm.run(f"lvchange -ay -K vg0/{FIRST}")
    before = array.dump()
    done = array.present(FIRST)
    assert "active" not in done["made"]
    refused_write(vm, array.login(done["target"]))
    array.logout(done["target"]["iqn"])
    array.revoke(FIRST, made=done["made"], handle=None)
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
@pytest.mark.long
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


SAN_FILE = """\
driver = lio
run_as = root
volumes = *
present = yes
[options]
vg = vg0
portals = 127.0.0.1
mode = {mode}
"""


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_the_conformance_suite(vm: Machine, mode: str) -> None:
    array = Array(vm, {})
    before = array.dump()
    vm.write("/etc/auto.iscsi.san.d/san1.conf", SAN_FILE.format(mode=mode))
    report = vm.run("auto-iscsi san test san1", timeout=800, check=False)
    assert "0 failed" in report.lines[-1] and report.status == 0, report.stdout
    assert array.dump() == before
