"""VOLUME@WHEN: which snapshot is meant, and never one of another day."""

from __future__ import annotations

import zoneinfo
from datetime import datetime

import pytest

from auto_iscsi import errors
from auto_iscsi.san import when
from auto_iscsi.san.catalogue import Entry

VIENNA = zoneinfo.ZoneInfo("Europe/Vienna")
NOW = datetime(2010, 5, 5, 12, 0, tzinfo=VIENNA)  # a Wednesday


def entries(*times: str) -> list[Entry]:
    made = [
        Entry("vm", datetime.fromisoformat(time).replace(tzinfo=VIENNA), f"iqn.x:{n}", False, "")
        for n, time in enumerate(times)
    ]
    return sorted(made, key=lambda entry: entry.time, reverse=True)


SOME = entries(
    "2010-05-01 04:00:01",
    "2010-05-03 04:00:01",
    "2010-05-03 16:00:01",
    "2010-05-04 04:00:01",
    "2010-05-05 00:00:00",
    "2010-05-05 04:00:01",
)


def select(text: str, some: list[Entry] = SOME) -> str:
    return when.select(some, "vm", text, NOW).text


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("latest", "2010-05-05 04:00:01"),
        ("-1", "2010-05-05 00:00:00"),
        ("-2", "2010-05-04 04:00:01"),
        ("oldest", "2010-05-01 04:00:01"),
        ("today", "2010-05-05 04:00:01"),
        ("yesterday", "2010-05-04 04:00:01"),
        ("monday", "2010-05-03 16:00:01"),
        ("Saturday", "2010-05-01 04:00:01"),
        ("2010-05-03", "2010-05-03 16:00:01"),
        ("2010-05-03T04:00", "2010-05-03 04:00:01"),
        ("2010-05-03 15:59", "2010-05-03 04:00:01"),
        ("2010-05-03_16:00:01", "2010-05-03 16:00:01"),
        ("monday 05:00", "2010-05-03 04:00:01"),
        ("00:00:00", "2010-05-05 00:00:00"),
        ("iqn.x:1", "2010-05-03 04:00:01"),
    ],
)
def test_the_snapshot_that_is_meant(text: str, time: str) -> None:
    assert select(text) == time


@pytest.mark.parametrize(
    "text", ["2010-05-02", "2010-05-03T03:59", "wednesday", "sunday", "-6", "2009-05-03"]
)
def test_never_a_snapshot_of_another_day(text: str) -> None:
    with pytest.raises(errors.NoSnapshot) as refused:
        select(text)
    assert "there are 2010-05-05 04:00:01, 2010-05-05 00:00:00" in refused.value.reason


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("wednesday", "there is no snapshot of 2010-04-28;"),
        ("sunday 05:30", "there is no snapshot of 2010-05-02 up to 05:30:59;"),
        ("-9", "there is no such snapshot;"),
    ],
)
def test_the_error_says_which_day_was_meant(text: str, shown: str) -> None:
    with pytest.raises(errors.NoSnapshot) as refused:
        select(text)
    assert shown in refused.value.reason


@pytest.mark.parametrize("text", ["", "soon", "2010-02-30", "25:00", "05/03/2010", "3.5.2010"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(errors.NoSnapshot, match="is no time"):
        select(text)


def test_two_snapshots_of_one_second_are_both_named() -> None:
    some = entries("2010-05-05 04:00:01", "2010-05-05 04:00:01")
    with pytest.raises(errors.Ambiguous, match=r"iqn\.x:0, iqn\.x:1"):
        select("latest", some)
    assert select("iqn.x:1", some) == "2010-05-05 04:00:01"


def test_a_day_ends_at_midnight_of_the_snapshots_zone_in_summer_and_in_winter() -> None:
    some = entries("2010-10-31 00:00:00", "2010-10-31 23:59:59", "2010-11-01 00:00:00")
    assert select("2010-10-31", some) == "2010-10-31 23:59:59"
    assert select("2010-11-01", some) == "2010-11-01 00:00:00"
    leap = entries("2008-02-29 12:00:00", "2008-03-01 12:00:00")
    assert select("2008-02-29", leap) == "2008-02-29 12:00:00"
