"""Records without a portal group, IPv6 spellings, names that are not ASCII, iscsiadm's lock."""

from __future__ import annotations

from pathlib import Path

from auto_iscsi import keys, portals
from auto_iscsi.iscsi import claims, discovery, iscsiadm, node_records
from auto_iscsi.machine.host import Host

TARGET = "iqn.2005-10.org.freenas.ctl:vol_1"


def test_a_record_without_a_portal_group_is_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "etc/iscsi/nodes" / TARGET
    folder.mkdir(parents=True)
    (folder / "10.0.0.1,3260").write_text("node.startup = automatic\n")
    host = Host(str(tmp_path))
    (record,) = node_records.find_all(host, TARGET)
    assert record.portal.with_group == "10.0.0.1:3260"
    assert record.portal.folder == "10.0.0.1,3260"
    assert node_records.values(host, record) == {"node.startup": "automatic"}
    assert node_records.interfaces(host, record) == ["default"]


def test_ipv6_addresses_are_the_same_in_each_spelling() -> None:
    one, other = portals.parse("[FD00::1]:3260"), portals.parse("[fd00:0::1]")
    assert one.has_same_address(other)
    assert not one.has_same_address(portals.parse("[fd00::2]"))


def test_a_name_that_is_not_ascii_does_not_hide_the_other_targets(tmp_path: Path) -> None:
    text = f"10.0.0.1:3260,1 iqn.2001-05.com.example:\ufffd\u2028\n10.0.0.1:3260,1 {TARGET}"
    claims.write_file(Host(str(tmp_path)), "offered/p", text)
    kept = Host(str(tmp_path)).read(f"{claims.FOLDER}/offered/p") or ""
    assert [r.target for r in discovery.offered_records(TARGET, kept)] == [TARGET]
    assert keys.fold("iqn.2001-05.com.example:\u212a") != "iqn.2001-05.com.example:k"


def test_the_lock_is_named_only_when_it_exists() -> None:
    assert "rm /run/lock" in iscsiadm.Answer(6, "", is_locked=True).hint
    assert "rm " not in iscsiadm.Answer(6, "").hint
