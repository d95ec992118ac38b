"""CHAP: iscsiadm gets the secrets, nobody else sees them, and a wrong one is tried once."""

from __future__ import annotations

import os

import pytest

from tests.tree.machine import ISCSID_CONF, VOL1, Machine
from tests.tree.tree import contents

SECRET, OTHER = "a-secret-12345", "its-secret-678"
CHAP = "chap_user = browse\nchap_secret_file = /etc/secret\n"
MUTUAL = "chap_mutual_user = array\nchap_mutual_secret_file = /etc/other\n"
ONE_WAY = ["browse", SECRET, "", ""]
BOTH = ["browse", SECRET, "array", OTHER]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a mount namespace")


def configure(machine: Machine, portal: str, text: str, secret: str = SECRET) -> None:
    machine.files({"/etc/secret": f"{secret}\n", "/etc/other": f"{OTHER}\n"})
    machine.configure(f"portals = {portal}\n{text}")


@pytest.mark.parametrize(("text", "chap"), [(CHAP, ONE_WAY), (CHAP + MUTUAL, BOTH)])
def test_a_record_is_made_with_the_credentials(
    machine: Machine, text: str, chap: list[str]
) -> None:
    portal = machine.target(VOL1, record=False, chap=chap)
    configure(machine, portal, text)
    before = contents(machine.root / "etc")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    record = machine.values(VOL1, portal)
    assert record["node.session.auth.authmethod"] == "CHAP"
    assert record["node.startup"] == "manual"
    assert record.get("node.session.auth.username_in", "") == chap[2]
    after = contents(machine.root / "etc")
    assert {name: after[name] for name in before} == before  # iscsid.conf is the host's again
    assert not [run for run in machine.runs() if SECRET in run or OTHER in run]
    assert not contents(machine.root / "run/auto-iscsi/refused")


def test_the_host_s_own_credentials_are_not_mixed_in(machine: Machine) -> None:
    lines = {**ISCSID_CONF, "node.session.auth.username_in": "theirs"}
    machine.files({"/etc/iscsi/iscsid.conf": "".join(f"{n} = {v}\n" for n, v in lines.items())})
    portal = machine.target(VOL1, record=False, chap=ONE_WAY)
    configure(machine, portal, CHAP)
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)


@pytest.mark.parametrize(
    ("text", "required", "discoveries"),
    [
        (CHAP, None, 1),
        (CHAP, ONE_WAY, 2),
        (CHAP + MUTUAL, ONE_WAY, 2),
        (CHAP + MUTUAL + "chap_discovery = mutual\n", BOTH, 1),
    ],
)
def test_a_discovery_uses_credentials_where_the_portal_requires_them(
    machine: Machine, text: str, required: list[str] | None, discoveries: int
) -> None:
    portal = machine.target(VOL1, record=False, discovery_chap=required)
    configure(machine, portal, text)
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert len(machine.runs("discovery")) == discoveries


def test_while_iscsid_starts_iscsiadm_gets_the_credentials_twice(machine: Machine) -> None:
    # iscsiadm asks it where iscsid.conf is, and it does not answer in time.
    portal = machine.target(VOL1, record=False, discovery_chap=BOTH, chap=BOTH)
    configure(machine, portal, f"{CHAP}{MUTUAL}chap_discovery = mutual\n")
    (machine.root / "proc/77/comm").unlink()
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert len(machine.runs("discovery")) == 2
    machine.log_out(1)
    (machine.root / "proc/77/comm").unlink()
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    assert len(machine.runs("-o new")) == 3


def test_a_wrong_secret_is_reported_and_not_tried_again_until_its_file_changes(
    machine: Machine,
) -> None:
    portal = machine.target(VOL1, record=False, chap=ONE_WAY)
    configure(machine, portal, CHAP, "wrong-secret-1")
    line = machine.lookup(VOL1).log
    assert f"login through {portal}: the target refused this host or its CHAP secret" in line
    assert "correct chap_user or the secret in /etc/secret" in line and "wrong-secret" not in line
    assert not machine.folder(VOL1, portal).exists()
    line = machine.lookup(VOL1).log
    assert "the secret in /etc/secret was refused" in line and "not tried again" in line
    assert len(machine.runs("--login")) == 1
    machine.files({"/etc/secret": f"{SECRET}\n"})
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)


def test_a_refused_secret_is_tried_again_after_ten_minutes(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False, chap=ONE_WAY)
    configure(machine, portal, CHAP, "wrong-secret-1")
    machine.lookup(VOL1)
    note = machine.root / "run/auto-iscsi/refused" / VOL1
    first, _, rest = note.read_text().partition("\n")
    note.write_text(f"{float(first) - 601:.3f}\n{rest}")
    machine.lookup(VOL1)
    assert len(machine.runs("--login")) == 2
    assert note.stat().st_mode & 0o077 == 0 and "wrong-secret" not in note.read_text()


def test_a_wrong_secret_is_not_tried_again_in_a_discovery(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False, discovery_chap=ONE_WAY)
    configure(machine, portal, CHAP, "wrong-secret-1")
    assert "correct chap_user or the secret in /etc/secret" in machine.lookup(VOL1).log
    assert "the secret in /etc/secret was refused" in machine.lookup(VOL1).log
    assert len(machine.runs("discovery")) == 2  # without credentials, and with them


def test_a_refused_secret_in_an_administrators_record_is_not_tried_again_until_the_record_changes(
    machine: Machine,
) -> None:
    portal = machine.target(VOL1, record=False, chap=ONE_WAY)
    text = f"node.name = {VOL1}\nnode.session.auth.authmethod = CHAP\n"
    text += "node.session.auth.username = browse\nnode.session.auth.password = "
    machine.record(VOL1, portal, f"{text}wrong\n")
    configure(machine, portal, CHAP)
    machine.lookup(VOL1)
    line = machine.lookup(VOL1).log
    assert f"{machine.nodes.name}/{VOL1}" in line and "was refused" in line
    assert len(machine.runs()) == 1
    machine.record(VOL1, portal, f"{text}{SECRET}\n")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)


def test_without_chap_a_refusal_is_not_remembered(machine: Machine) -> None:
    machine.target(VOL1, answers={"login": {"exit": 24}})
    for _ in range(2):
        assert "iscsiadm exit 24" in machine.lookup(VOL1).log
    assert len(machine.runs("--login")) == 2


def test_a_missing_secret_file_is_reported_before_a_record_is_made(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}\n{CHAP}")
    assert machine.lookup(VOL1).log == "/etc/secret: no such file; see chap_secret_file"
    assert machine.runs("node") == [] and not machine.claim(VOL1).records


def test_without_cap_sys_admin_the_log_says_what_is_missing(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False)
    configure(machine, portal, CHAP)
    answer = machine.start(VOL1, under=["/usr/bin/setpriv", "--bounding-set=-sys_admin"]).answer()
    assert "iscsiadm not started: " in answer.log and "Operation not permitted" in answer.log
    assert "needs CAP_SYS_ADMIN" in answer.log and SECRET not in answer.log
    assert machine.runs("node") == []


def test_a_refusal_is_remembered_whatever_the_name_of_the_file(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False, chap=ONE_WAY)
    machine.files({"/etc/geheimnis-für-vm": "wrong-secret-1\n"})
    machine.configure(f"portals = {portal}\n{CHAP.replace('/etc/secret', '/etc/geheimnis-für-vm')}")
    for _ in range(2):
        assert machine.lookup(VOL1).status == 1
    assert len(machine.runs("--login")) == 1
