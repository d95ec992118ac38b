"""auto-iscsi doctor on a real host: healthy, with problems, and after the suggested commands."""

from __future__ import annotations

import json

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San


def levels(vm: Machine, user: str = "root") -> dict[str, str]:
    """Return the level of every check, by code."""
    done = vm.run(["auto-iscsi", "doctor", "--json"], user=user, check=False, timeout=120)
    data = json.loads(done.stdout)
    checks = {check["code"]: check["level"] for check in data["checks"]}
    assert done.status == (1 if "problem" in checks.values() else 0)
    assert not done.stderr
    return checks


def test_an_installed_host_that_works_has_no_problems(vm: Machine, san: San) -> None:
    san.target(job.BETA)
    vm.discover()
    job.visit(vm, job.BETA)
    checks = levels(vm)
    # bookworm's autofs can hang, and the guest has LVM with its defaults.
    not_ok = {code for code, level in checks.items() if level != "ok"}
    text = vm.run("auto-iscsi doctor", check=False).stdout
    assert not_ok <= {"autofs-version", "lvm-activation"}, text
    unprivileged = levels(vm, "user")
    assert {code for code, level in unprivileged.items() if level == "unknown"} <= {
        "initiator-name",
        "iscsi-lock",
        "startup-automatic",
        "iscsi-secrets",
        "run-folder",
        "san",
        "snapshots",
    }
    assert "problem" not in unprivileged.values()


def test_each_problem_is_corrected_by_the_suggested_command(vm: Machine, san: San) -> None:
    san.target(job.BETA)
    vm.discover()
    vm.run("systemctl stop iscsid.socket iscsid.service; systemctl mask iscsid.socket")
    vm.run("mkdir -p /run/lock/iscsi && touch /run/lock/iscsi/lock.write")
    vm.run("date -s '+2 minutes' && systemctl stop autofs")
    checks = levels(vm)
    wrong = {code for code, level in checks.items() if level == "problem"}
    assert wrong == {"iscsid", "iscsi-lock", "automount", "snapshots"}
    mends = json.loads(vm.run(["auto-iscsi", "doctor", "--json"], check=False).stdout)["checks"]
    for check in mends:
        if check["code"] in wrong:
            vm.run(check["mend"], timeout=120)
    vm.run("systemctl start iscsid.socket")
    assert "problem" not in levels(vm).values()
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"


def test_a_master_map_that_automount_has_not_read_is_reported(vm: Machine, san: San) -> None:
    assert levels(vm)["automount"] == "ok"
    line = vm.read("/etc/auto.master.d/iscsi.autofs").decode().splitlines()[-2]
    vm.run("sleep 3")
    vm.write("/etc/auto.master.d/iscsi.autofs", line.replace("--negative-timeout=1 ", "") + "\n")
    checks = levels(vm)
    assert (checks["automount"], checks["negative-timeout"]) == ("warning", "warning")
    vm.run("systemctl reload autofs")
    vm.run("sleep 1")
    checks = levels(vm)
    assert (checks["automount"], checks["negative-timeout"]) == ("ok", "warning")
    vm.write("/etc/auto.master.d/iscsi.autofs", line.replace("timeout=300", "timeout=20") + "\n")
    assert levels(vm)["automount"] == "warning"
