"""The journal has one line for each login and logout, with the user and the reason."""

from __future__ import annotations

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

FIELDS = f"target={job.BETA} portal=127.0.0.1:3260 session=1"


def audit_lines(vm: Machine) -> list[str]:
    """Return the lines of auto-iscsi in the journal; their facility is authpriv (10)."""
    lines = vm.journal("-t", "auto-iscsi", "SYSLOG_FACILITY=10").splitlines()
    assert len(lines) == len(vm.journal("-t", "auto-iscsi").splitlines())
    return lines


def test_a_login_is_logged_once_with_its_user(vm: Machine, san: San) -> None:
    san.target(job.BETA)
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")
    for _ in range(2):
        job.visit(vm, job.BETA)
        assert job.expired(vm, job.BETA)
        vm.run("sleep 1.2")  # autofs has forgotten its entry
    assert audit_lines(vm) == [f"login {FIELDS} uid=1000 user=user via=automount"]
    job.logout(vm, job.BETA)
    vm.run(["auto-iscsi", "lookup", job.BETA])
    again = audit_lines(vm)[1:]
    assert len(again) == 1 and again[0].startswith(f"login {FIELDS[:-1]}2 uid=0 user=root via=")
    job.configure(vm, "idle = 0\nlease = 1s\n")
    vm.run("sleep 1.2; systemctl start auto-iscsi.service", timeout=120)
    assert vm.sessions() == []
    (line,) = audit_lines(vm)[2:]
    assert line.startswith(f'logout {FIELDS[:-1]}2 reason="idle for ')
    assert line.endswith('" uid=0 user=root via=systemd')
