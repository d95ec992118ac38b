"""The output of the EqualLogic group's command line: tables that wrap, fields, errors, dates."""

from __future__ import annotations

import zoneinfo
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.drivers import eqlx_output
from auto_iscsi.drivers.eqlx_output import Access, Row, Tag

OURS = "iqn.1993-08.org.debian:01:2227dab76162"
ACCESS_HEAD = """\
ID  Initiator       Ipaddress     AuthMethod UserName   Apply-To
--- --------------- ------------- ---------- ---------- --------
"""
SNAPSHOT_HEAD = """\
Name                           Permission Status         Connections
------------------------------ ---------- -------------- -----------
"""
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,79}", fullmatch=True)
iqns = st.from_regex(r"iqn\.[a-z0-9][a-z0-9.:-]{0,150}", fullmatch=True)


def pieces(text: str, width: int) -> list[str]:
    return [text[at : at + width] for at in range(0, len(text), width)]


def test_a_record_whose_initiator_wraps_is_ours_and_applies_to_the_volume_too() -> None:
    text = ACCESS_HEAD + (
        "1   iqn.1993-08.org.debian:01:222 *.*.*.*       none        both\n       7dab76162\n"
    )
    (record,) = eqlx_output.accesses(text)
    assert record == Access("1", OURS, "*.*.*.*", "none", "", "both")
    assert record.admits(OURS) and not record.is_as_made(OURS)


@pytest.mark.parametrize(
    "row",
    [
        f"1   {OURS} *.*.*.* chap bob snapshot",
        f"1   {OURS} *.*.*.* chap snapshot",
        f"1   {OURS} 10.0.0.7 none snapshot",
        f"1   {OURS} *.*.*.* none volume",
        f"1   {OURS} *.*.*.* none",
        f"1   {OURS} *.*.*.* none a b snapshot",
        f"1   {OURS}x *.*.*.* none snapshot",
        f"1   {OURS[:-1]} *.*.*.* none snapshot",
        f"1   {OURS[:-1]} *.*.*.* none snapshot\n       2 more",
        f"1   {OURS} *.*.*.* none snapshot\n       wrapped",
        f"x   {OURS} *.*.*.* none snapshot",
        "1   *.*.*.* none snapshot",
    ],
)
def test_a_record_of_somebody_else_or_in_doubt_admits_nobody(row: str) -> None:
    assert not any(record.admits(OURS) for record in eqlx_output.accesses(ACCESS_HEAD + row + "\n"))


@given(st.lists(st.tuples(iqns, st.sampled_from(eqlx_output.APPLIES)), max_size=16), st.data())
def test_each_record_is_read_wherever_it_wraps(
    records: list[tuple[str, str]], data: st.DataObject
) -> None:
    lines = [ACCESS_HEAD]
    for number, (iqn, applies) in enumerate(records, 1):
        first, *more = pieces(iqn, data.draw(st.integers(8, 60)))
        lines.append(f"{number:<3} {first} *.*.*.*  none      {applies}\n")
        lines += [f"       {piece}\n" for piece in more]
    read = eqlx_output.accesses("".join(lines))
    assert [(record.initiator, record.applies) for record in read] == records
    assert [record.number for record in read] == [str(n) for n in range(1, len(records) + 1)]
    assert not any(record.doubt for record in read)


@given(
    st.lists(
        st.tuples(
            names,
            st.sampled_from(["read-write", "read-only"]),
            st.sampled_from(["online", "offline", "offline (lost blocks)"]),
            st.integers(0, 99),
        )
    )
)
def test_each_snapshot_is_read_whatever_its_length(
    rows: list[tuple[str, str, str, int]],
) -> None:
    lines = [SNAPSHOT_HEAD]
    for name, permission, status, number in rows:
        first, *more = pieces(name, 30)
        lines.append(f"{first:<30} {permission:<10} {status:<14} {number}\n")
        lines += [f"  {piece}\n" for piece in more]
    expected = [Row(n, p, s.replace(" ", "-"), c) for n, p, s, c in rows]
    assert eqlx_output.snapshots("".join(lines)) == expected


def test_a_status_that_wraps_is_no_part_of_the_name() -> None:
    row = "vm-beta-2010-05-03-04:00:01.50 read-write offline        0\n"
    text = SNAPSHOT_HEAD + row + "  612                                     lost-blocks\n"
    name = "vm-beta-2010-05-03-04:00:01.50612"
    assert eqlx_output.snapshots(text) == [Row(name, "read-write", "offline-lost-blocks", 0)]


def test_volumes_are_the_first_column() -> None:
    text = """\
Name            Size       Snapshots Status  Permission Connections T
--------------- ---------- --------- ------- ---------- ----------- -
vm-beta         1GB        2         online  read-write 0           N
a-volume-with-a 1GB        0         online  read-write 1           N
  -long-name
"""
    assert eqlx_output.volumes(text) == ["vm-beta", "a-volume-with-a-long-name"]


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    shown = eqlx_output.plain(text)
    eqlx_output.snapshots(SNAPSHOT_HEAD + shown)
    eqlx_output.accesses(ACCESS_HEAD + shown)
    eqlx_output.volumes(shown)
    eqlx_output.fields(shown)
    eqlx_output.error(shown)
    eqlx_output.created(text, None)
    eqlx_output.tag(text)
    eqlx_output.iqn(text)


def test_control_characters_of_a_terminal_are_no_text() -> None:
    assert eqlx_output.plain("\x1b[2J\x1b[1;31mgroup-0> \x1b[0m\x07\r\n") == "group-0> \n"


def test_fields_wrap_and_the_first_one_counts() -> None:
    text = """\
____________________________ Snapshot Information _____________________________
Name: vm-beta-1
iSCSI Name: iqn.2001-05.com.equallogic:0-8a0906-4a90da503-
  e2e3e8c1f704be-vm-beta-1
Description:
Status: online
Status: offline
"""
    fields = eqlx_output.fields(text)
    assert fields["iscsi name"].endswith("503-e2e3e8c1f704be-vm-beta-1")
    assert (fields["description"], fields["status"]) == ("", "online")


@pytest.mark.parametrize(
    ("text", "iqn"),
    [
        ("iqn.2001-05.com.equallogic:0-vm-Beta.", "iqn.2001-05.com.equallogic:0-vm-beta"),
        (" iqn.2001-05.com.equallogic:x ", "iqn.2001-05.com.equallogic:x"),
        ("", None),
        ("iqn.2001-05.com.equallogic:x; offline", None),
    ],
)
def test_a_target_name_has_no_full_stop(text: str, iqn: str | None) -> None:
    assert eqlx_output.iqn(text) == iqn


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("% Error - Volume x does not exist.\n", "Volume x does not exist."),
        ("volume x\nError: Bad command\n", "Bad command"),
        ("% Error\n  the words come later\n", "the words come later"),
        ("% Error\n", "an error without words"),
        ("Errors-Seen: 0\n", None),
        ("Name: Error\n", None),
    ],
)
def test_errors_are_found(text: str, error: str | None) -> None:
    assert eqlx_output.error(text) == error


@given(
    st.uuids().map(str),
    st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    st.lists(st.sampled_from(["acl", "online", "readonly"]), min_size=1, unique=True),
)
def test_a_tag_is_read_as_it_was_written(lease: str, whose: str, made: list[str]) -> None:
    tag = Tag(lease, whose, tuple(made))
    assert eqlx_output.tag(str(tag)) == tag


@pytest.mark.parametrize("text", ["", "auto-iscsi", "before the upgrade", "auto-iscsi:x:y:z"])
def test_another_description_is_no_tag(text: str) -> None:
    assert eqlx_output.tag(text) is None


@pytest.mark.parametrize(
    ("name", "zone", "expected"),
    [
        ("vm-beta-2010-05-03-04:00:01.50612", "UTC", datetime(2010, 5, 3, 4, 0, 1)),
        ("vm-beta-2010-05-03-04:00:01.50612.1", "UTC", datetime(2010, 5, 3, 4, 0, 1)),
        ("vm-beta-2010-05-03-04:00:01.5", "Europe/Berlin", datetime(2010, 5, 3, 2, 0, 1)),
        ("vm-beta-2010-03-28-02:30:00.5", "Europe/Berlin", None),
        ("vm-beta-2010-02-30-04:00:01.5", "UTC", None),
        ("before-the-upgrade", "UTC", None),
    ],
)
def test_the_time_is_that_of_the_name(name: str, zone: str, expected: datetime | None) -> None:
    at = eqlx_output.created(name, zoneinfo.ZoneInfo(zone))
    assert at == (expected.replace(tzinfo=timezone.utc).timestamp() if expected else None)


@pytest.mark.parametrize("number", ["9" * 5000, "\u0663", "-1"])
def test_what_is_no_number_of_sessions_makes_no_row(number: str) -> None:
    """Python refuses to make a number of more than 4300 digits."""
    left_out: list[str] = []
    table = "Name Permission Status Connections\n---- ---------- ------ -----------\n"
    rows = eqlx_output.snapshots(f"{table}a read-only online {number}\n", left_out)
    assert rows == [] and left_out == [f"a read-only online {number}"]
