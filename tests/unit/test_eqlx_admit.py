"""Two at work at one EqualLogic group: whose access record is used, and whose is deleted?"""

from __future__ import annotations

import pytest

from auto_iscsi.drivers import eqlx, eqlx_cli, wire
from auto_iscsi.drivers.protocol import Call, Subject

HOST, OTHER = "iqn.1993-08.org.debian:01:2227dab", "iqn.1993-08.org.debian:01:another"
SUBJECT = Subject("vm", "vm-1", "vm/vm-1", HOST, "host1", "0b51d0f6-1", True)
HEAD = "ID  Initiator   Ipaddress  AuthMethod UserName Apply-To\n--- ----- ----- ---- ---- ----\n"


class Array(eqlx_cli.Session):
    """The records of a volume; somebody else makes `meanwhile` just before ours."""

    def __init__(self, meanwhile: str, applies: str = "snapshot") -> None:
        self.records = {1: f"{OTHER}-old both"}
        self.meanwhile, self.applies = meanwhile, applies

    def run(self, *words: str) -> str:
        if words[-1] == "show":
            rows = (record.split() for record in self.records.values())
            lines = [f"*.*.*.*  none   {applies}" for _, applies in rows]
            names = [f"{number}   {record.split()[0]}" for number, record in self.records.items()]
            return HEAD + "".join(f"{a}  {b}\n" for a, b in zip(names, lines))
        if words[4] == "create":
            if self.meanwhile:
                self.records[2] = self.meanwhile
            self.records[3] = f"{HOST} {self.applies}"
        if words[4] == "delete":
            del self.records[int(words[5])]
        return ""


def admit(array: Array) -> str:
    return eqlx._admit(array, SUBJECT).number


@pytest.mark.parametrize("applies", ["snapshot", "both"])
def test_another_host_may_make_its_record_at_the_same_time(applies: str) -> None:
    array = Array(f"{OTHER} {applies}")
    assert admit(array) == "3" and len(array.records) == 3


@pytest.mark.parametrize("applies", ["snapshot", "volume", "both"])
def test_a_record_that_an_administrator_makes_for_this_host_is_not_deleted(applies: str) -> None:
    array = Array(f"{HOST} {applies}")
    with pytest.raises(wire.Refused, match="2 new access records") as refused:
        admit(array)
    assert refused.value.code == "conflict" and array.records[2] == f"{HOST} {applies}"


def test_what_admits_to_the_volume_is_taken_back_beside_another_hosts() -> None:
    array = Array(f"{OTHER} snapshot", "both")
    with pytest.raises(wire.Refused, match="the array shows both: taken back"):
        admit(array)
    assert sorted(array.records) == [1, 2]


@pytest.mark.parametrize("value", ["true", "Yes", "on", ""])
def test_only_the_word_no_presents_writable(value: str) -> None:
    """A wrong value is refused before the group is asked: it does not open the snapshot."""
    config = {"address": "10.0.0.5", "options": {"read_only": value}}
    call = Call({"request_id": "a1", "san": "eql", "deadline_s": 20, "config": config})
    with pytest.raises(wire.Refused, match="read_only: .*: it is yes or no") as refused:
        eqlx.present(call, SUBJECT)
    assert (refused.value.code, call.effect("invalid")) == ("invalid", "none")
