"""CHAP with a real target: logins succeed, and nobody else sees the secrets."""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

SECRET, OTHER = "7c1-our-secret", "9f2-its-secret"
OURS, THEIRS = ("browse", SECRET), ("array", OTHER)
FILES = ("/etc/auto.iscsi.secret", "/etc/auto.iscsi.target-secret")
ONE_WAY = f"chap_user = browse\nchap_secret_file = {FILES[0]}\n"
MUTUAL = f"{ONE_WAY}chap_mutual_user = array\nchap_mutual_secret_file = {FILES[1]}\n"
PORTAL = "portals = 127.0.0.1\n"

# Reads the arguments and environment of every process until the file `stop` exists.
WATCH = r"""
import os
seen = set()
open("/root/watching", "w").close()
while not os.path.exists("/root/stop"):
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            for name in ("cmdline", "environ"):
                try:
                    with open(f"/proc/{pid}/{name}", "rb") as file:
                        seen.add(file.read())
                except OSError:
                    pass
with open("/root/seen", "wb") as file:
    file.write(b"\n".join(seen))
"""
# The watcher takes half of the guest's processor.
PATIENT = "login_timeout = 50s\nudev_timeout = 50s\nlookup_timeout = 100s\n"
# Lists the files newer than the mark that a user can read; grep then opens them as that user.
WRITTEN = (
    "find / /run /dev/shm /tmp -xdev \\( -path /proc -o -path /sys \\) -prune -o"
    " -type f -newer /tmp/mark -readable -print0 2>/dev/null;"
    " find /sys/class/iscsi_session/*/ /sys/class/iscsi_connection/*/ -maxdepth 1 -type f -print0"
)


def secrets(vm: Machine) -> None:
    """Write the files with the secrets."""
    for file, secret in zip(FILES, (SECRET, OTHER)):
        vm.write(file, f"{secret}\n", 0o600)


def readable_by_others(vm: Machine) -> list[str]:
    """Return the files with a secret that a user other than root can read."""
    files = vm.run(
        f"({WRITTEN}) | xargs -0 grep -slaF -e {SECRET} -e {OTHER}; true", user="user", timeout=300
    )
    return files.lines


def logged(vm: Machine) -> str:
    """Return everything that daemons and the kernel have logged."""
    return vm.journal("-o", "cat") + vm.run("dmesg").stdout


def test_nobody_sees_the_secrets_of_a_mutual_login_and_discovery(vm: Machine, san: San) -> None:
    san.target(job.BETA, chap=OURS, mutual=THEIRS)
    san.discovery_chap(OURS, THEIRS)
    secrets(vm)
    vm.run("touch /tmp/mark")
    conf = vm.read("/etc/iscsi/iscsid.conf")
    job.configure(vm, f"{PORTAL}{MUTUAL}chap_discovery = mutual\n{PATIENT}")
    assert vm.run("auto-iscsi check").status == 0
    vm.write("/root/watch.py", WATCH)
    watch = vm.start(["python3", "/root/watch.py"], timeout=120)
    assert job.until(lambda: vm.run("test -e /root/watching", check=False).status == 0)
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    vm.run("touch /root/stop")
    watch.wait()
    seen = vm.read("/root/seen")
    assert b"iscsiadm" in seen and b"discovery" in seen  # the watcher was fast enough
    assert SECRET.encode() not in seen and OTHER.encode() not in seen
    (record,) = job.records(vm).values()
    assert f"password = {SECRET}".encode() in record and f"in = {OTHER}".encode() in record
    assert readable_by_others(vm) == []
    assert SECRET not in logged(vm) and OTHER not in logged(vm)
    assert vm.read("/etc/iscsi/iscsid.conf") == conf
    vm.write("/var/open", SECRET)  # the search finds such a file
    assert readable_by_others(vm) == ["/var/open"]


@pytest.mark.shared
def test_one_way_chap_and_wrong_secrets(vm: Machine, san: San) -> None:
    def rejections() -> int:
        """Count the target's messages in the kernel's log; iscsid's come later."""
        return vm.run("dmesg").stdout.count("Security negotiation failed")

    san.target(job.ALPHA, chap=OURS)
    san.target(job.BETA, chap=OURS, mutual=THEIRS)
    secrets(vm)
    job.configure(vm, f"{PORTAL}{ONE_WAY}")
    assert job.visit(vm, job.ALPHA).stdout == f"{job.ALPHA}\n"  # discoveries require no CHAP
    vm.write(FILES[0], "another-secret", 0o600)
    before = rejections()
    line = job.refusal(vm, job.BETA)
    assert "the target refused this host or its CHAP secret (iscsiadm exit 24)" in line
    assert f"correct chap_user or the secret in {FILES[0]}" in line
    assert rejections() == before + 1
    line = job.refusal(vm, job.BETA)
    assert f"the secret in {FILES[0]} was refused" in line and "not tried again" in line
    assert rejections() == before + 1
    assert [path for path in job.records(vm) if job.BETA in path] == []
    job.configure(vm, f"{PORTAL}{MUTUAL}")
    vm.write(FILES[0], SECRET, 0o600)
    vm.write(FILES[1], "not-its-secret", 0o600)
    line = job.refusal(vm, job.BETA)
    assert f"its secret is not the one in {FILES[1]}" in line
    secrets(vm)
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    assert "another-secret" not in logged(vm) and "not-its-secret" not in logged(vm)


@pytest.mark.shared
def test_a_secret_that_others_can_read_and_a_discovery_that_is_refused(
    vm: Machine, san: San
) -> None:
    san.target(job.BETA, chap=OURS)
    san.discovery_chap(OURS)
    secrets(vm)
    job.configure(vm, f"{PORTAL}{ONE_WAY}")
    vm.run(f"chmod 640 {FILES[0]}")
    line = job.refusal(vm, job.BETA)
    assert f"{FILES[0]}: not used: users other than root can read it (mode 0640)" in line
    assert f"chmod 600 {FILES[0]}" in line
    check = vm.run("auto-iscsi check", check=False)
    assert check.status == 1 and "users other than root can read it" in check.stdout
    vm.write(FILES[0], "another-secret", 0o600)
    assert vm.run("auto-iscsi check", user="user").lines == ["/etc/auto.iscsi.conf: ok"]
    line = job.refusal(vm, job.BETA)
    assert "discovery at 127.0.0.1:3260: the target refused" in line
    assert "the secret in" in job.refusal(vm, job.BETA)
    secrets(vm)
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"


def test_a_secret_in_a_node_record_is_gone_soon_after_a_boot(vm: Machine, san: San) -> None:
    """A boot takes the sessions and /run; the guest is not booted, which its saved state rules out.

    The shipped unit deletes the record, with no more rights than it has.
    """
    for name in (job.BETA, job.ALPHA):
        san.target(name, chap=OURS)
    secrets(vm)
    job.configure(vm, PORTAL + ONE_WAY)
    vm.run("systemctl stop auto-iscsi.timer")
    for name in (job.BETA, job.ALPHA):
        vm.run(["auto-iscsi", "lookup", name], timeout=120)
    assert vm.run("stat -c %a:%U /var/lib/auto-iscsi /var/lib/auto-iscsi/records/*").lines == [
        "700:root",
        "600:root",
        "600:root",
    ]
    # Neither a login nor its end changes a record; this administrator does, and keeps it.
    change = "-o update -n node.startup -v automatic"
    vm.run(f"iscsiadm -m node -T {job.ALPHA} {change}")
    vm.run("iscsiadm -m session --logout; killall -9 iscsid; rm -r /run/auto-iscsi", check=False)
    vm.run("systemctl restart iscsid", timeout=120)
    kept = {path: text for path, text in job.records(vm).items() if job.ALPHA in path}
    assert len(kept) == 1 and len(job.records(vm)) == 2
    assert any(SECRET.encode() in text for text in job.records(vm).values())
    vm.run("systemctl start auto-iscsi.service", timeout=120)
    assert job.records(vm) == kept
    assert f"{job.ALPHA}: node record of 127.0.0.1:3260 stays" in vm.journal("-u", "auto-iscsi")
    assert not vm.run("ls /var/lib/auto-iscsi/records").stdout
    # What is not ours any more is used as it is.
    vm.run(["auto-iscsi", "lookup", job.ALPHA], timeout=120)
    assert job.records(vm) == kept
