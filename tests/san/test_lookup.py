"""`cd /iscsiauto/<iqn>` shows the snapshot's files, mounted as the original script mounts them."""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

pytestmark = pytest.mark.shared

FILE = "etc/really_important_file"


def snapshot(san: San, iqn: str = job.BETA) -> None:
    """Present a snapshot like those for which the original script was written."""
    san.target(iqn, [san.disk([san.fs("ext3", {FILE: "two days ago\n"})])])


@pytest.mark.core
def test_the_first_access_after_boot(vm: Machine, san: San) -> None:
    snapshot(san)
    vm.discover()
    vm.run("systemctl stop iscsid && modprobe -r iscsi_tcp")
    assert "iscsi_tcp" not in vm.run("cat /proc/modules").stdout
    assert job.visit(vm, job.BETA, FILE).stdout == "two days ago\n"
    assert san.sessions() == {job.BETA: 1}


def test_the_second_visit_after_the_mount_expired(vm: Machine, san: San) -> None:
    snapshot(san)
    vm.discover()
    vm.automount()
    assert job.visit(vm, job.BETA, FILE).stdout == "two days ago\n"
    first = job.session(vm, job.BETA)
    assert job.expired(vm, job.BETA)
    vm.run("sleep 2")  # autofs has forgotten its entry
    assert job.visit(vm, job.BETA, FILE).stdout == "two days ago\n"
    assert job.session(vm, job.BETA) == first
    assert job.messages(vm) == []


@pytest.mark.core
def test_the_mount_is_the_same_as_the_originals(vm: Machine, san: San) -> None:
    snapshot(san)
    vm.discover()
    job.original(vm, "/etc/auto.iscsi.original")
    vm.automount(program="/etc/auto.iscsi.original")
    assert job.visit(vm, job.BETA, FILE).stdout == "two days ago\n"
    theirs = job.mount(vm, job.BETA)
    assert job.expired(vm, job.BETA)
    job.logout(vm, job.BETA)
    vm.automount()
    assert job.visit(vm, job.BETA, FILE).stdout == "two days ago\n"
    ours = job.mount(vm, job.BETA)
    assert ours == theirs is not None


def test_the_entry_names_the_disk_by_a_link_that_is_only_this_targets(
    vm: Machine, san: San
) -> None:
    snapshot(san)
    vm.discover()
    link = f"/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-{job.BETA}-lun-0-part1"
    entry = vm.run(["auto-iscsi", "lookup", job.BETA])
    assert (entry.stdout, entry.stderr) == (f'-nocheck,ro,fstype=ext3 ":{link}"\n', "")
    disk = job.session(vm, job.BETA).disks[0]
    assert vm.run(["readlink", "-f", link]).stdout == f"/dev/{disk}1\n"


def test_with_device_kernel_the_entry_is_the_originals_byte_for_byte(vm: Machine, san: San) -> None:
    snapshot(san)
    vm.discover()
    job.original(vm, "/root/original")
    job.configure(vm, "device = kernel\n")
    theirs = vm.run(["/root/original", job.BETA]).raw
    job.logout(vm, job.BETA)
    ours = vm.run(["auto-iscsi", "lookup", job.BETA]).raw
    assert ours == theirs


def test_a_name_in_capitals_is_the_same_target(vm: Machine, san: San) -> None:
    snapshot(san)
    vm.discover()
    capitals = job.BETA.upper().replace("IQN.", "iqn.")
    assert job.visit(vm, capitals, FILE).stdout == "two days ago\n"
    assert job.visit(vm, job.BETA, FILE).stdout == "two days ago\n"
    assert san.sessions() == {job.BETA: 1}


def test_settings_of_a_section_reach_the_mount(vm: Machine, san: San) -> None:
    whole = san.disk(whole=san.fs("xfs", {FILE: "xfs\n"}))
    san.target(job.BETA, {3: whole})
    vm.discover()
    job.configure(
        vm,
        "[iqn.2001-05.com.equallogic:*-vm-beta-*]\n  lun = 3\n  partition = none\n"
        "  fstype = xfs\n  options = ro, norecovery, nouuid, noexec\n",
    )
    assert job.visit(vm, job.BETA, FILE).stdout == "xfs\n"
    mounted = job.mount(vm, job.BETA)
    assert mounted is not None
    assert (mounted.fstype, mounted.source) == ("xfs", f"/dev/{job.session(vm, job.BETA).disks[3]}")
    assert "noexec" in mounted.options.split(",")


def test_a_disabled_target_is_refused_without_a_login(vm: Machine, san: San) -> None:
    snapshot(san)
    vm.discover()
    job.configure(vm, "[*-vm-beta-*]\nenabled = no\n")
    assert "enabled = no" in job.refusal(vm, job.BETA)
    assert vm.sessions() == []


def test_a_session_of_somebody_else_is_used_and_left_alone(vm: Machine, san: San) -> None:
    snapshot(san)
    vm.discover()
    vm.run(["iscsiadm", "-m", "node", "-T", job.BETA, "--login"])
    recovery = "cat /sys/class/iscsi_session/session*/recovery_tmo"
    before, patience, kept = job.session(vm, job.BETA), vm.run(recovery).stdout, job.records(vm)
    assert job.visit(vm, job.BETA, FILE).stdout == "two days ago\n"
    after = job.session(vm, job.BETA)
    assert (after.number, after.state, vm.run(recovery).stdout) == (
        before.number,
        "LOGGED_IN",
        patience,
    )
    assert job.records(vm) == kept
    claim = vm.read(f"/run/auto-iscsi/claims/{job.BETA}").decode().splitlines()
    assert not [line for line in claim if line.startswith(("opened ", "asked "))]


def test_a_lost_session_costs_a_reader_no_more_than_replacement_timeout(
    vm: Machine, san: San
) -> None:
    snapshot(san)
    vm.discover()
    kept = job.records(vm)
    job.configure(vm, "replacement_timeout = 5s\n")
    job.visit(vm, job.BETA, FILE)
    assert vm.run("cat /sys/class/iscsi_session/session*/recovery_tmo").stdout == "5\n"
    assert job.records(vm) == kept
