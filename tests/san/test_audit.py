"""Who had a snapshot logged in, and when: does the journal say it, once?"""

from __future__ import annotations

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San

FIELDS = f"target={job.BETA} portal=127.0.0.1:3260 session=1"


def noted(vm: Machine) -> list[str]:
    """Return what auto-iscsi noted in the journal, as authpriv (10)."""
    found = vm.journal("-t", "auto-iscsi", "SYSLOG_FACILITY=10").splitlines()
    assert len(found) == len(vm.journal("-t", "auto-iscsi").splitlines())
    return found


def test_a_login_is_noted_once_with_who_wanted_it(vm: Machine, san: San) -> None:
    san.target(job.BETA)
    vm.discover()
    vm.automount("--timeout=1 --negative-timeout=1")
    for _ in range(2):
        job.visit(vm, job.BETA)
        assert job.expired(vm, job.BETA)
        vm.run("sleep 1.2")  # autofs has forgotten its entry
    assert noted(vm) == [f"login {FIELDS} uid=1000 user=user via=automount"]
    job.logout(vm, job.BETA)
    vm.run(["auto-iscsi", "lookup", job.BETA])
    again = noted(vm)[1:]
    assert len(again) == 1 and again[0].startswith(f"login {FIELDS[:-1]}2 uid=0 user=root via=")
    job.configure(vm, "idle = 0\nlease = 1s\n")
    vm.run("sleep 1.2; systemctl start auto-iscsi.service", timeout=120)
    assert vm.sessions() == []
    (line,) = noted(vm)[2:]
    assert line.startswith(f'logout {FIELDS[:-1]}2 reason="idle for ')
    assert line.endswith('" uid=0 user=root via=systemd')
