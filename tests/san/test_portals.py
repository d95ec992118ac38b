"""The portals through which a target is reached, and the node records of the others."""

from __future__ import annotations

import pytest

from tests.san import job
from tests.san.bed.machine import Machine
from tests.san.bed.san import San


def values(record: bytes) -> dict[str, str]:
    """Return a record's settings."""
    lines = record.decode().splitlines()
    return dict(line.split(" = ", 1) for line in lines if " = " in line)


@pytest.mark.shared
@pytest.mark.core
def test_without_a_record_one_is_made_for_this_target_alone(vm: Machine, san: San) -> None:
    san.target(job.ALPHA)
    vm.discover()
    others = ("-m", "node", "-T", job.ALPHA, "-o", "update")
    vm.run(["iscsiadm", *others, "-n", "node.startup", "-v", "automatic"])
    vm.run(["iscsiadm", *others, "-n", "node.session.auth.password", "-v", "keep-me"])
    before = job.records(vm)
    san.target(job.BETA)
    job.configure(
        vm,
        "portals = 127.0.0.1\nlogin_timeout = 7s\nreplacement_timeout = 9s\nudev_timeout = 50s\n",
    )
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    after = job.records(vm)
    assert {path: after.get(path) for path in before} == before
    (made,) = (values(after[path]) for path in after if path not in before)
    assert made["node.name"] == job.BETA
    assert made["node.startup"] == "manual"
    assert made["node.session.initial_login_retry_max"] == "1"
    assert made["node.conn[0].timeo.login_timeout"] == "5"
    assert made["node.session.timeo.replacement_timeout"] == "9"
    assert san.sessions() == {job.ALPHA: 0, job.BETA: 1}


@pytest.mark.shared
def test_without_a_record_and_without_portals_the_log_says_what_to_do(
    vm: Machine, san: San
) -> None:
    san.target(job.BETA)
    line = job.refusal(vm, job.BETA)
    assert f"{job.BETA}: no node record" in line
    assert "set portals in /etc/auto.iscsi.conf" in line
    assert "iscsiadm -m discovery" in line
    assert job.records(vm) == {}


@pytest.mark.shared
def test_a_target_that_no_portal_offers_leaves_no_record(vm: Machine, san: San) -> None:
    san.target(job.ALPHA)
    job.configure(vm, "portals = 127.0.0.1\n")
    initiator = vm.run("sed -n s/^InitiatorName=//p /etc/iscsi/initiatorname.iscsi").stdout.strip()
    line = job.refusal(vm, job.BETA)
    assert f"discovery at 127.0.0.1:3260: the target is not offered to {initiator}" in line
    assert job.records(vm) == {}
    assert vm.sessions() == []


@pytest.mark.shared
def test_a_record_of_ours_is_deleted_when_the_login_fails(vm: Machine, san: San) -> None:
    san.refusing("127.0.0.1", 2, 3, targets=[job.BETA])
    job.configure(vm, "portals = 127.0.0.1\n")
    line = job.refusal(vm, job.BETA)
    assert "login through 127.0.0.1:3260" in line
    assert job.records(vm) == {}


@pytest.mark.shared
@pytest.mark.parametrize("known", ["records", "portals"])
@pytest.mark.parametrize("way", ["block", "reject"])
def test_when_a_portal_is_dead_the_next_one_is_used(
    vm: Machine, san: San, way: str, known: str
) -> None:
    san.target(job.BETA, portals=["127.0.0.1", "127.0.0.2"])
    if known == "records":
        vm.discover()
        assert len(job.records(vm)) == 2
    else:
        job.configure(vm, "portals = 127.0.0.1, 127.0.0.2\n")
    getattr(san, way)("127.0.0.1")
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    session = job.session(vm, job.BETA)
    assert (session.state, session.address) == ("LOGGED_IN", "127.0.0.2")
    assert san.sessions() == {job.BETA: 1}


@pytest.mark.shared
@pytest.mark.parametrize("known", ["records", "portals"])
def test_ipv6_portals(vm: Machine, san: San, known: str) -> None:
    san.target(job.BETA, portals=["[::1]:3261"])
    if known == "records":
        vm.discover("[::1]:3261")
    else:
        job.configure(vm, "portals = [::1]:3261\n")
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    assert job.session(vm, job.BETA).address == "::1"


@pytest.mark.shared
def test_the_configured_order_of_portals_holds_for_records_too(vm: Machine, san: San) -> None:
    san.target(job.BETA, portals=["127.0.0.1", "127.0.0.2"])
    vm.discover()
    job.configure(vm, "portals = 127.0.0.2, 127.0.0.1\n")
    job.visit(vm, job.BETA)
    assert job.session(vm, job.BETA).address == "127.0.0.2"


@pytest.mark.core
def test_records_are_found_in_either_folder(vm: Machine, san: San) -> None:
    san.target(job.BETA)
    vm.discover()
    (record,) = job.records(vm)
    used = record.partition("/nodes/")[0]
    other = {"/etc/iscsi": "/var/lib/iscsi", "/var/lib/iscsi": "/etc/iscsi"}[used]
    # iscsiadm uses one of the two folders; the lookup must find the record in the other.
    vm.run(f"mkdir -p {other} && rm -rf {other}/nodes && mv {used}/nodes {other}/nodes")
    vm.run(f"mkdir -p {used}/nodes && mount --bind {other}/nodes {used}/nodes")
    vm.run(f"mount --make-private {used}/nodes")
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"


def test_a_lost_session_is_not_waited_for_when_another_portal_answers(
    vm: Machine, san: San
) -> None:
    san.target(job.BETA, portals=["127.0.0.1", "127.0.0.2"])
    vm.discover()
    vm.automount()
    job.visit(vm, job.BETA)
    assert job.expired(vm, job.BETA)
    san.block("127.0.0.1")
    lost = job.until(lambda: [s for s in vm.sessions(job.BETA) if s.state == "FAILED"])
    assert [each.address for each in lost] == ["127.0.0.1"]
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    states = {each.address: each.state for each in vm.sessions(job.BETA)}
    assert states == {"127.0.0.1": "FAILED", "127.0.0.2": "LOGGED_IN"}


SILENT = """
import socket
server = socket.create_server(("127.0.0.9", 3260))
connections = []
while True:
    connections.append(server.accept())
"""


def test_a_silent_portal_has_its_login_timeout_and_holds_up_no_other_target(
    vm: Machine, san: San
) -> None:
    san.target(job.BETA)
    vm.write("/tmp/silent.py", SILENT)
    vm.run("systemd-run --unit=silent python3 /tmp/silent.py")
    assert job.until(lambda: vm.run("ss -Hltn src 127.0.0.9").stdout)
    text = "portals = 127.0.0.9, 127.0.0.1\nlogin_timeout = 70s\nlookup_timeout = 3m\n"
    job.configure(vm, f"{text}[*vm-alpha*]\nportals = 127.0.0.9\nlogin_timeout = 60s\n")
    waits = vm.start(f"cat {job.ROOT}/{job.ALPHA}/marker", timeout=240)
    assert job.until(lambda: vm.run("pgrep -x iscsiadm", check=False).stdout)
    assert job.visit(vm, job.BETA).stdout == f"{job.BETA}\n"
    assert job.messages(vm) == []  # the other one still waits
    (line,) = job.until(lambda: job.messages(vm))
    assert f"{job.ALPHA}: discovery at 127.0.0.9:3260: it accepts connections, but has not" in line
    assert "in 60 s" in line and san.sessions() == {job.BETA: 1}
    waits.kill()
