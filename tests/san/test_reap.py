"""The reaper ends the sessions that may end, and no others."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San
from tests.san.reaping import QUICK, decision, leftovers, reap

# The first step of iscsid's logout: ISCSI_UEVENT_UNBIND_SESSION (linux/iscsi_if.h).
UNBIND = """
import socket, struct, sys
with open("/sys/class/iscsi_transport/tcp/handle") as file:
    event = struct.pack("=IIQI64x", 27, 0, int(file.read()), int(sys.argv[1]))
door = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 8)
door.send(struct.pack("=IHHII", 16 + len(event), 27, 1, 0, 0) + event)
"""
STEPS = Path(__file__).parents[1] / "tree/steps.py"


def kept(vm: Machine, *iqns: str) -> bool:
    """Say whether sessions still exist after a reaper that runs when their lease is over."""
    vm.run("sleep 2.1")
    assert reap(vm).stdout == ""
    return all(len(vm.sessions(iqn)) == 1 for iqn in iqns)


@pytest.mark.shared
@pytest.mark.core
def test_a_session_from_the_first_visit_to_its_end(vm: Machine, san: San) -> None:
    target = san.target(job.BETA)
    job.configure(vm, QUICK)
    vm.automount("--timeout=2 --negative-timeout=1")
    disks = leftovers(vm)
    for _ in ("at first", "and again"):
        assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
        assert vm.run(f"cd {job.ROOT}/{job.BETA} && auto-iscsi reap").stdout == ""  # in use
        assert job.expired(vm, job.BETA)
        reaped = reap(vm, "--wait")
        assert reaped.stdout == f"auto-iscsi: ended 1 session: {job.BETA}\n" and not reaped.stderr
        assert target.sessions == 0
        assert job.until(lambda: leftovers(vm) == disks), leftovers(vm)
        assert (reap(vm).stdout, reap(vm, "--dry-run").stdout) == ("", "no sessions\n")


# Uses of a disk that /proc/self/mountinfo does not show: the command, and the reported reason.
HOLDERS = {
    "a mount namespace of its own": (
        "unshare -m sh -c 'mount -o ro $DISK1 /mnt && exec sleep 300'",
        "mounted at /mnt by process",
    ),
    "device mapper": (
        'dmsetup create held --table "0 $(blockdev --getsz $DISK1) linear $DISK1 0"',
        "(held)",
    ),
    "a loop device": ("losetup -r /dev/loop5 $DISK1; exec sleep 300", "behind loop5"),
    "a program that wants it alone": (
        "exec python3 -c 'import os, sys, time; os.open(sys.argv[1], os.O_EXCL);"
        " time.sleep(300)' $DISK1",
        "open in process",
    ),
}


def test_what_is_in_use_or_not_ours_stays(vm: Machine, san: San) -> None:
    """Disks in use in five ways, an administrator's session, and one that replaced ours."""
    held = {how: f"{job.BETA[:-1]}{n}" for n, how in enumerate(HOLDERS)}
    theirs, was_ours, seen_alone = (f"{job.BETA[:-1]}{n}" for n in (7, 8, 9))
    for iqn in (*held.values(), theirs, was_ours, seen_alone):
        san.target(iqn)
    job.configure(vm, QUICK)
    holding = []
    for how, iqn in held.items():
        vm.run(["auto-iscsi", "lookup", iqn])
        disk = f"/dev/{job.session(vm, iqn).disks[0]}"
        command = HOLDERS[how][0].replace("$DISK1", f"{disk}1")
        holding.append(vm.start(command, timeout=400))
    # A mount in a namespace without processes: only the kernel knows it.
    vm.run(["auto-iscsi", "lookup", seen_alone])
    disk = job.session(vm, seen_alone).disks[0]
    vm.run(
        f"touch /run/ns && unshare --mount=/run/ns true 2>/dev/null || "
        f"(mount --bind --make-private /run /run && unshare --mount=/run/ns true); "
        f"nsenter --mount=/run/ns mount -o ro /dev/{disk}1 /mnt"
    )
    vm.discover()
    vm.run(["iscsiadm", "-m", "node", "-T", theirs, "--login"])
    vm.run(["auto-iscsi", "lookup", theirs])  # used by us, too
    vm.run(["auto-iscsi", "lookup", was_ours])
    job.logout(vm, was_ours)
    vm.run(["iscsiadm", "-m", "node", "-T", was_ours, "--login"])
    records = job.records(vm)
    assert job.until(lambda: all(HOLDERS[how][1] in decision(vm, iqn) for how, iqn in held.items()))
    vm.run("sleep 2.1")
    assert "a program that cannot be seen" in decision(vm, seen_alone)
    assert "not ours" in decision(vm, theirs) and "not ours" in decision(vm, was_ours)
    assert kept(vm, *held.values(), theirs, was_ours, seen_alone)
    for each in holding:
        each.kill()
        each.wait(check=False)
    vm.run("umount /run/ns; dmsetup remove held; losetup -d /dev/loop5")
    assert reap(vm, "--wait").stdout.startswith("auto-iscsi: ended 5 sessions: ")
    assert {iqn for iqn, count in san.sessions().items() if count} == {theirs, was_ours}
    assert {path for path in job.records(vm) if theirs in path or was_ours in path} == {
        path for path in records if theirs in path or was_ours in path
    }


def test_a_new_session_with_an_old_number_is_not_ours(vm: Machine, san: San) -> None:
    san.target(job.BETA)
    job.configure(vm, QUICK)
    vm.run(["auto-iscsi", "lookup", job.BETA])
    first = job.session(vm, job.BETA)
    vm.discover()
    job.logout(vm, job.BETA)
    vm.cold()
    vm.run("modprobe -ra ib_iser libiscsi_tcp libiscsi scsi_transport_iscsi || lsmod | grep iscsi")
    vm.run(["iscsiadm", "-m", "node", "-T", job.BETA, "--login"])
    again = job.session(vm, job.BETA)
    assert again.number == first.number  # the reloaded module counts from the start
    assert kept(vm, job.BETA) and "not ours" in decision(vm, job.BETA)
    job.configure(vm, QUICK + "reap = any\n")
    assert reap(vm, "--wait").stdout.startswith("auto-iscsi: ended 1 session")


def unbound(vm: Machine, iqn: str) -> int:
    """Kill iscsid during a logout and start it again; return the number of the session."""
    sid = job.session(vm, iqn).number
    vm.run("for pid in $(pidof iscsid); do kill -9 $pid; done; sleep 0.5")
    vm.run(["python3", "-c", UNBIND, f"{sid}"])
    state = f"/sys/class/iscsi_session/session{sid}/target_state"
    assert job.until(lambda: vm.run(["cat", state]).lines == ["UNBOUND"])
    begun = vm.run("date +%s").stdout.strip()
    vm.run("systemctl start iscsid")
    recovered = f"journalctl -qu iscsid --since=@{begun} -g 'after recovery'"
    assert job.until(lambda: vm.run(recovered, check=False).stdout)
    return sid


def test_iscsid_killed_in_the_middle_of_a_logout(vm: Machine, san: San) -> None:
    """iscsid never ends such a session: it waits for an event that it has missed."""
    target = san.target(job.BETA)
    job.configure(vm, QUICK)
    nothing = leftovers(vm)
    vm.run(["auto-iscsi", "lookup", job.BETA])
    unbound(vm, job.BETA)
    vm.run("sleep 2.1")
    vm.run(
        "systemctl start auto-iscsi.service", timeout=120
    )  # with only the rights of the timer's service
    assert job.until(lambda: leftovers(vm) == nothing), leftovers(vm)
    assert job.until(lambda: target.sessions == 0)  # the target gets no logout, and notices later
    vm.run(["auto-iscsi", "lookup", job.BETA])
    first = unbound(vm, job.BETA)
    vm.run(["auto-iscsi", "lookup", job.BETA], timeout=120)
    assert job.session(vm, job.BETA).number != first
    assert job.until(lambda: target.sessions == 1)


@pytest.mark.shared
def test_a_multi_mount_stays_while_somebody_is_in_its_directory(vm: Machine, san: San) -> None:
    disk = san.disk([san.fs("ext4", {"one": "1"}), san.fs("ext4", {"two": "2"})])
    target = san.target(job.BETA, [disk])
    job.configure(vm, QUICK + "fstype = auto\npartition = all\n")
    here = f"{job.ROOT}/{job.BETA}"
    stays = vm.start(f"cd {here} && cat p1/one && exec sleep 300", timeout=400)
    assert job.until(lambda: [m for m in vm.mounts(f"{here}/p1") if m.fstype == "ext4"])
    vm.run(f"umount {here}/p1", timeout=60)
    vm.run("sleep 2.1; systemctl start auto-iscsi.service", timeout=120)
    assert target.sessions == 1
    assert vm.run(["cat", f"{here}/p2/two"], timeout=120).stdout == "2"
    stays.kill()


@pytest.mark.long
def test_a_lookup_or_reaper_killed_at_any_step_leaves_nothing(vm: Machine, san: San) -> None:
    """Every fifth step of a lookup and of a reaper; tests/tree has all of them."""
    target = san.target(job.BETA)
    job.configure(vm, QUICK)
    vm.write("/root/steps.py", STEPS.read_text())
    nothing = leftovers(vm)
    for verb in (["lookup", job.BETA], ["reap"]):
        for step in itertools.count(2, 5):
            if verb == ["reap"]:
                vm.run(["auto-iscsi", "lookup", job.BETA])
                vm.run("sleep 2.1")
            command = f"python3 -I /root/steps.py {step} /usr/sbin/auto-iscsi /run/auto-iscsi"
            killed = vm.run([*command.split(), *verb], check=False).status
            # While udev examines a new disk, it is in use: multipath opens it exclusively.
            vm.run("while pidof iscsiadm; do sleep 0.1; done; udevadm settle")
            assert target.sessions <= 1, (verb, step)
            reaped = reap(vm, "--wait")
            assert reaped.stderr == "", (verb, step)
            assert target.sessions == 0 and job.until(lambda: leftovers(vm) == nothing), (
                verb,
                step,
            )
            if not killed:
                break
        assert step > 12, verb
