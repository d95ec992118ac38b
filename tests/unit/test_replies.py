"""Each text of a driver's reply is a stranger's: it has its form, or the reply is refused."""

from __future__ import annotations

from typing import Any

import pytest

from auto_iscsi import errors
from auto_iscsi.san import replies

SNAPSHOT = {
    "volume": "vm-beta",
    "snapshot": "vm-beta-2010-05-03-04:00:01.50612",
    "id": "vm-beta/7",
    "created": "2010-05-03T04:00:01Z",
    "created_from": "array",
    "size": 1 << 40,
    "state": "ready",
    "presented": False,
    "owner": None,
}
TARGET = {
    "iqn": "iqn.2001-05.com.example:vm-beta",
    "portals": ["10.0.0.5:3260", "[fd00::1]:3260"],
    "lun": 7,
    "shared": True,
    "wwid": None,
}
PRESENTED = {
    "ok": True,
    "already": False,
    "target": TARGET,
    "made": ["acl"],
    "handle": {"acl": "3"},
}
HOSTILE = ["a\nb", "a b", "-x", "$(x)", "a;b", "\x1b[1m", "", "a" * 300, 7, None, ["a"], "\ud800"]


def listed(**members: Any) -> replies.Listing:
    return replies.listing({"ok": True, "snapshots": [{**SNAPSHOT, **members}]}, "eql")


def test_a_reply_of_each_kind() -> None:
    (snapshot,) = listed().snapshots
    assert (snapshot.created, snapshot.size) == (1272859201.0, 1 << 40)
    done = replies.presented(PRESENTED, "eql")
    assert (done.target.lun, done.made, done.handle) == (7, ("acl",), {"acl": "3"})
    assert done.target.portals == ("10.0.0.5:3260", "[fd00::1]:3260")
    gone = replies.revoked({"ok": True, "already": True, "kept": ["acl:\n in use"]}, "eql")
    assert gone.already and gone.kept == ("acl: in use",)


@pytest.mark.parametrize("name", ["volume", "snapshot"])
@pytest.mark.parametrize("text", HOSTILE)
def test_a_snapshot_with_another_name_is_left_out_and_counted(name: str, text: Any) -> None:
    listing = listed(**{name: text})
    assert (listing.snapshots, listing.left_out) == ((), 1)


OUTSIDE = ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z")  # the calendar, in some time zones
WRONG: dict[str, list[Any]] = {
    "id": HOSTILE,
    "created": ["yesterday", 7, "2010-13-03T04:00:01Z", "2010-05-03 04:00:01", *OUTSIDE],
    "created_from": ["guess", None],
    "size": [-1, 1.5, "1", True, 1 << 64],
    "state": ["x", None, 1],
    "presented": [1, "no", None],
    "owner": ["a b", 7],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in WRONG.items() for v in vs])
def test_a_wrong_member_of_a_list_is_refused(name: str, value: Any) -> None:
    with pytest.raises(errors.SanFailure) as raised:
        listed(**{name: value})
    assert (raised.value.kind, raised.value.effect) == ("internal", "none")


def test_two_snapshots_of_one_name_are_left_out_and_counted() -> None:
    """A key VOLUME@SNAPSHOT could mean either, and one of them would be shown as the other."""
    pairs = [("a", "1"), ("a", "2"), ("b", "3")]
    members = [{"volume": "vm", "snapshot": name, "id": number} for name, number in pairs]
    listing = replies.listing({"ok": True, "snapshots": members}, "eql")
    assert [each.id for each in listing.snapshots] == ["3"] and listing.left_out == 2


def test_one_snapshot_twice_is_refused() -> None:
    with pytest.raises(errors.SanFailure, match="twice"):
        replies.listing({"ok": True, "snapshots": [SNAPSHOT, SNAPSHOT]}, "eql")
    with pytest.raises(errors.SanFailure):
        replies.listing({"ok": True, "snapshots": {}}, "eql")


TARGETS: dict[str, list[Any]] = {
    "iqn": [*HOSTILE, "IQN.2001-05.com.example:x", "iqn.x/../y"],
    "portals": [[], None, "10.0.0.1", ["a b"], [7], ["10.0.0.1:99999"], ["10.0.0.1"] * 65],
    "lun": [-1, 16384, "0", True, None, 1.0],
    "shared": ["yes", 1],
    "wwid": ["a b"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in TARGETS.items() for v in vs])
def test_a_wrong_target_is_refused_and_its_effect_unknown(name: str, value: Any) -> None:
    with pytest.raises(errors.SanFailure) as raised:
        replies.presented({**PRESENTED, "target": {**TARGET, name: value}}, "eql")
    assert (raised.value.kind, raised.value.effect) == ("internal", "unknown")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target", None),
        ("made", "acl"),
        ("made", ["a b"]),
        ("handle", {"acl": 3}),
        ("handle", {"a b": "3"}),
        ("handle", ["3"]),
        ("already", 1),
        ("chap", True),
    ],
)
def test_another_wrong_answer_to_present(name: str, value: Any) -> None:
    with pytest.raises(errors.SanFailure):
        replies.presented({**PRESENTED, name: value}, "eql")
