"""What the driver `lio` takes for a snapshot, how it names things, and whose a part is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from auto_iscsi.drivers import lio, lio_far, lio_ledger, lio_settings, lio_volumes, wire
from auto_iscsi.drivers.lio_settings import KINDS, Place
from auto_iscsi.drivers.protocol import Call, Subject

RECORDED = Path(__file__).parent / "recorded" / "lvs-thin.json"
INITIATOR = "iqn.1993-08.org.debian:01:2227dab76162"
A, B = "0b51d0f6-0001-4000-8000-01", "0b51d0f6-0002-4000-8000-02"


def row(**more: str) -> dict[str, str]:
    """Return a line of lvs for a snapshot that `lvcreate -s` made."""
    about = {
        "vg_uuid": "abcDEF-0000-0000-0000-0000-0000-000000",
        "lv_uuid": "Zz0000-0000-0000-0000-0000-0000-000001",
        "lv_name": "monday",
        "origin": "vm-beta",
        "segtype": "thin",
        "lv_time": "1795147199",
        "lv_size": "50331648",
        "lv_skip_activation": "skip activation",
        "lv_attr": "Vwi---tz-k",
        "lv_active": "",
        "lv_device_open": "unknown",
    }
    return {**about, **more}


def parse(**more: str) -> lio_volumes.Volume:
    report = {"report": [{"lv": [row(**more)]}], "log": []}
    (volume,) = lio_volumes.parse(json.dumps(report))
    return volume


def subject(**more: Any) -> Subject:
    about = {
        "volume": "vm-beta",
        "snapshot": "monday",
        "id": row()["lv_uuid"],
        "initiator": INITIATOR,
        "host": "browse",
        "lease": A,
    }
    return Subject(**{**about, **more})


def settings(**more: str) -> lio_settings.Settings:
    given = {"vg": "vg0", "portals": "10.0.0.5", **more}

    def option(name: str, default: str | None) -> str:
        value = given.get(name, default)
        if value is None:
            raise wire.Refused("invalid", f"{name} is missing")
        return value

    return lio_settings.read(option)


def code(call: Any, *arguments: Any, **more: Any) -> str:
    with pytest.raises(wire.Refused) as caught:
        call(*arguments, **more)
    found: str = caught.value.code
    return found


def test_a_snapshot_as_lvcreate_makes_it() -> None:
    volume = parse()
    assert volume.is_snapshot and not volume.is_active and not volume.is_open
    assert (volume.created, volume.size) == (1795147199.0, 48 << 20)
    assert volume.dm_uuid == "LVM-abcDEF" + "0" * 26 + "Zz" + "0" * 29 + "1"


@pytest.mark.parametrize(
    "more",
    [
        {"origin": ""},
        {"segtype": "linear"},
        {"lv_skip_activation": ""},
        {"segtype": "thin-pool", "origin": ""},
    ],
)
def test_all_others_are_live(more: dict[str, str]) -> None:
    volume = parse(**more)
    assert not volume.is_snapshot
    assert code(lio_volumes.find, [volume], subject()) == "denied"


def test_a_read_only_snapshot_is_one_without_the_flag() -> None:
    assert parse(lv_skip_activation="", lv_attr="Vri---tz--").is_snapshot


def test_only_the_volume_with_this_id_and_these_names_is_found() -> None:
    volume = parse()
    assert lio_volumes.find([volume], subject()) == volume
    assert code(lio_volumes.find, [volume], subject(id="other")) == "not_found"
    assert code(lio_volumes.find, [volume], subject(snapshot="tuesday")) == "conflict"
    assert code(lio_volumes.find, [volume], subject(volume="vm-alpha")) == "conflict"


def test_what_lvs_of_debian_printed() -> None:
    volumes = {volume.name: volume for volume in lio_volumes.parse(RECORDED.read_text())}
    snapshots = {name for name, volume in volumes.items() if volume.is_snapshot}
    assert snapshots == {"vm-beta_2026-11-23-04.00", "vm-beta-2026-11-24+04"}
    assert volumes["vm-beta"].is_open and volumes["vm-beta"].is_active
    assert volumes["vm-gamma"].origin == "vm-beta" and volumes["vm-gamma"].is_active
    monday = volumes["vm-beta_2026-11-23-04.00"]
    assert monday.created and monday.created > 1.7e9 and monday.size == 48 << 20


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"report": [{"lv": [{}]}]}', '{"report": [1]}'])
def test_what_is_no_report(text: str) -> None:
    assert code(lio_volumes.parse, text) == "internal"


def test_names_are_the_same_each_time_and_different_for_each_snapshot() -> None:
    name = lio_settings.own_iqn(settings(iqn="iqn.2003-01.org.example:x"), subject())
    assert name.startswith("iqn.2003-01.org.example:x.vm-beta-monday.")
    assert name == lio_settings.own_iqn(settings(iqn="iqn.2003-01.org.example:x"), subject(lease=B))
    odd = lio_settings.own_iqn(settings(), subject(volume="V_m+b" * 25, snapshot="S_1" * 40))
    assert wire.matches(wire.IQN, odd) and len(odd) <= 223
    for function in (lio_settings.own_iqn, lio_settings.backstore, lio_settings.serial):
        others = [subject(id="other"), subject()]
        found = {function(settings(), each) for each in others}
        found.add(function(settings(vg="vg1"), subject()))
        assert len(found) == 3


@pytest.mark.parametrize(
    "more",
    [
        {"vg": "vg0;reboot"},
        {"vg": "-vg"},
        {"mode": "both"},
        {"iqn": "iqn.2003-01.org"},
        {"iqn": "iqn.2003-01.org.example:UPPER"},
        {"portals": ""},
        {"portals": "san1.example.org"},
        {"portals": "10.0.0.5:3260:1"},
    ],
)
def test_settings_that_are_refused(more: dict[str, str]) -> None:
    assert code(settings, **more) == "invalid"


def test_portals_get_the_port() -> None:
    found = settings(portals="10.0.0.5, 10.0.0.6:3261 [fd00::5]").portals
    assert found == ("10.0.0.5:3260", "10.0.0.6:3261", "[fd00::5]:3260")


def test_volumes_and_initiators_are_limited() -> None:
    limited = settings(volumes="vm-b* db", initiators="iqn.1993-08.org.debian:*")
    lio_settings.check_allowed(limited, subject())
    assert code(lio_settings.check_allowed, limited, subject(volume="vm-a")) == "denied"
    other = subject(initiator="iqn.2001-05.com.example:x")
    assert code(lio_settings.check_allowed, limited, other) == "denied"


@pytest.mark.parametrize("verb", ["present", "revoke"])
def test_a_host_neither_presents_to_another_one_nor_revokes_what_that_has(verb: str) -> None:
    """Its forced command names its own initiator; the leases of all hosts are in the list."""
    driver = lio.driver(["vg=vg0", "portals=10.0.0.5", f"initiators={INITIATOR}"])
    call = Call({"request_id": "r1", "san": "array"})
    other = subject(initiator="iqn.1993-08.org.debian:01:another")
    assert code(getattr(driver, verb), call, other) == "denied"


def test_the_forced_command_alone_has_settings() -> None:
    option = lio_far.option(["vg=vg0", "portals=10.0.0.5 10.0.0.6"])
    assert option("vg", None) == "vg0" and option("mode", "own") == "own"
    assert code(lio_far.option(["vg=vg0"]), "portals", None) == "invalid"
    assert code(lio_far.option, ["run=x"]) == code(lio_far.option, ["vg"]) == "invalid"


def place(uuid: str = "u1", initiator: str = INITIATOR, lun: int = 1) -> Place:
    store, iqn = f"ai-{uuid}", "iqn.2003-01.org.example:x"
    return Place(uuid, "vg0", "monday", initiator, iqn, lun, store, "0" * 32, ("p:3260",), True)


def test_the_ledger_is_what_was_saved(tmp_path: Path) -> None:
    with lio_ledger.locked(str(tmp_path)) as ledger:
        assert not ledger.leases and not ledger.ours
        ledger.leases[A], ledger.last_lun = place(), 7
        ledger.ours = {"lun x 1"}
        ledger.save()
    with lio_ledger.locked(str(tmp_path)) as ledger:
        assert ledger.leases == {A: place()}
        assert (ledger.ours, ledger.last_lun) == ({"lun x 1"}, 7)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"version": 1, "ours": 1}'])
def test_a_damaged_ledger_stops_the_driver(tmp_path: Path, text: str) -> None:
    (tmp_path / "leases.json").write_text(text)

    def enter() -> None:
        with lio_ledger.locked(str(tmp_path)):
            pass

    assert code(enter) == "internal"


def test_a_lease_ends_with_what_only_it_needs(tmp_path: Path) -> None:
    ledger = lio_ledger.Ledger(str(tmp_path))
    first, second = place("u1", lun=1), place("u2", lun=2)
    ledger.leases = {A: first, B: second}
    ledger.ours = {*first.parts.values(), *second.parts.values()}
    plan = lio_ledger.plan_end(ledger, A, KINDS, KINDS)
    assert plan.remove == ("map", "lun", "backstore", "active")
    assert plan.kept == (f"acl:lease {B} needs it", f"target:lease {B} needs it")
    ledger.forget(A, ())
    assert ledger.ours == set(second.parts.values())
    assert lio_ledger.plan_end(ledger, B, KINDS, KINDS).remove == tuple(reversed(KINDS))


def test_what_is_somebody_elses_or_gone_is_not_removed(tmp_path: Path) -> None:
    ledger = lio_ledger.Ledger(str(tmp_path))
    ledger.leases = {A: place()}
    ledger.ours = {place().parts[kind] for kind in ("lun", "map", "backstore")}
    plan = lio_ledger.plan_end(ledger, A, KINDS, ["target", "acl", "lun", "backstore", "active"])
    assert plan == (("lun", "backstore"), ())
    assert lio_ledger.plan_end(ledger, A, ["map"], KINDS).remove == ("map",)


def test_a_number_is_used_again_as_late_as_possible(tmp_path: Path) -> None:
    ledger = lio_ledger.Ledger(str(tmp_path))
    iqn = place().iqn
    assert [ledger.choose_lun(iqn, ()) for _ in range(3)] == [1, 2, 3]
    ledger.leases[A] = place(lun=4)
    assert ledger.choose_lun(iqn, [5]) == 6
    ledger.last_lun = 255
    assert ledger.choose_lun(iqn, ()) == 1
    assert code(ledger.choose_lun, iqn, range(256)) == "exhausted"
