"""Does the status say what there is: ours, others', mounted, idle and lost ones?"""

from __future__ import annotations

import json
from typing import Any

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

IDLE, OTHER = f"{job.ARRAY}-idle", f"{job.ARRAY}-other"


def sessions(vm: Machine, status: int, user: str = "root") -> dict[str, dict[str, Any]]:
    """Return what it says of each session, by target."""
    done = vm.run(["auto-iscsi", "status", "--json"], user=user, check=False)
    assert (done.status, done.stderr) == (status, "")
    data = json.loads(done.stdout)
    assert data["ok"] == (status == 0)
    return {each["target"]: each for each in data["sessions"]}


def test_a_mounted_an_idle_a_foreign_and_a_lost_session(vm: Machine, san: San) -> None:
    for iqn, address in ((job.BETA, 1), (IDLE, 1), (OTHER, 1), (job.ALPHA, 2)):
        san.target(iqn, portals=[f"127.0.0.{address}"])
        vm.discover(f"127.0.0.{address}")
    vm.run(["iscsiadm", "-m", "node", "-T", OTHER, "--login"])
    vm.run(["auto-iscsi", "lookup", IDLE])
    holder = vm.start(["sleep", "600"], cwd=f"{job.ROOT}/{job.BETA}", user="user", timeout=610)
    assert job.until(lambda: job.mount(vm, job.BETA))
    reader = vm.start(["sleep", "600"], cwd=f"{job.ROOT}/{job.ALPHA}", user="user", timeout=610)
    assert job.until(lambda: job.mount(vm, job.ALPHA))

    found = sessions(vm, 0)
    disk = job.session(vm, job.BETA).disks[0]
    assert found[job.BETA]["disks"] == [disk]
    assert found[job.BETA]["mounted"] == [f"{job.ROOT}/{job.BETA}"]
    assert (found[job.BETA]["ours"], found[job.BETA]["action"]) == (True, "keep")
    assert (found[IDLE]["ours"], found[IDLE]["mounted"]) == (True, [])
    assert found[IDLE]["when_seconds"] > 0
    assert (found[OTHER]["ours"], found[OTHER]["action"]) == (False, "keep")

    san.block("127.0.0.2")
    assert job.until(lambda: job.session(vm, job.ALPHA).state == "FAILED")
    found = sessions(vm, 1)
    assert (found[job.ALPHA]["state"], found[job.ALPHA]["problems"]) == ("FAILED", ["lost-in-use"])
    assert [each["problems"] for each in found.values()].count([]) == 3
    seen = sessions(vm, 0, "user")
    assert seen[job.BETA]["mounted"] == [f"{job.ROOT}/{job.BETA}"] and seen[OTHER]["ours"] is None

    text = vm.run("auto-iscsi status", check=False).stdout
    print(text)
    assert f"problem: {found[job.ALPHA]['problems'][0]}" in text and "keeps it: not ours" in text
    assert "\033" not in text
    gauges = vm.run("auto-iscsi status --metrics").stdout
    assert 'auto_iscsi_problems{code="lost-in-use"} 1\n' in gauges
    assert 'auto_iscsi_sessions{state="LOGGED_IN",owner="other"} 1\n' in gauges
    assert "To do: " in vm.run("auto-iscsi explain lost-in-use").stdout
    san.unblock("127.0.0.2")
    for command in (holder, reader):
        command.kill()
        command.wait(check=False)
