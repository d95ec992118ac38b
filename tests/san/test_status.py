"""auto-iscsi status on a real host: our sessions and others', mounted, idle and lost."""

from __future__ import annotations

import json
from typing import Any

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

IDLE, OTHER = f"{job.ARRAY}-idle", f"{job.ARRAY}-other"


def sessions(vm: Machine, status: int, user: str = "root") -> dict[str, dict[str, Any]]:
    """Return the sessions of the JSON report, by target."""
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

    by_target = sessions(vm, 0)
    disk = job.session(vm, job.BETA).disks[0]
    assert by_target[job.BETA]["disks"] == [disk]
    assert by_target[job.BETA]["mounted"] == [f"{job.ROOT}/{job.BETA}"]
    assert (by_target[job.BETA]["ours"], by_target[job.BETA]["action"]) == (True, "keep")
    assert (by_target[IDLE]["ours"], by_target[IDLE]["mounted"]) == (True, [])
    assert by_target[IDLE]["when_seconds"] > 0
    assert (by_target[OTHER]["ours"], by_target[OTHER]["action"]) == (False, "keep")

    san.block("127.0.0.2")
    assert job.until(lambda: job.session(vm, job.ALPHA).state == "FAILED")
    by_target = sessions(vm, 1)
    assert (by_target[job.ALPHA]["state"], by_target[job.ALPHA]["problems"]) == (
        "FAILED",
        ["lost-in-use"],
    )
    assert [each["problems"] for each in by_target.values()].count([]) == 3
    seen = sessions(vm, 0, "user")
    assert seen[job.BETA]["mounted"] == [f"{job.ROOT}/{job.BETA}"] and seen[OTHER]["ours"] is None

    text = vm.run("auto-iscsi status", check=False).stdout
    print(text)
    assert (
        f"problem: {by_target[job.ALPHA]['problems'][0]}" in text and "keeps it: not ours" in text
    )
    assert "\033" not in text
    gauges = vm.run("auto-iscsi status --metrics").stdout
    assert 'auto_iscsi_problems{code="lost-in-use"} 1\n' in gauges
    assert 'auto_iscsi_sessions{state="LOGGED_IN",owner="other"} 1\n' in gauges
    assert "To do: " in vm.run("auto-iscsi explain lost-in-use").stdout
    san.unblock("127.0.0.2")
    for command in (holder, reader):
        command.kill()
        command.wait(check=False)
