"""Names of snapshots: which volume and time does a target's name say, and when is it refused?"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.admin import explain, output
from auto_iscsi.config import templates, values
from auto_iscsi.machine.host import Host
from auto_iscsi.san import names, template_fit
from tests.tree.tree import make_tree
from tests.unit.language import time_limit

UTC = timezone.utc


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("name", "volume", "time"),
    [
        (
            "iqn.2001-05.com.equallogic:0-8a0906-eb9a0290a-3e5001c0aeb4bdd8-vm-beta"
            "-2010-05-03-04:00:01.50612",
            "vm-beta",
            at(2010, 5, 3, 4, 0, 1),
        ),
        (
            "iqn.2001-05.com.equallogic:0-8a0906-4a90da503-e2e3e8c1f704be-vm-beta"
            "-2010-05-03-04:00:01.50612",
            "vm-beta",
            at(2010, 5, 3, 4, 0, 1),
        ),
        ("iqn.2001-05.com.example:vm-beta-2010-05-03-04:00:01", "vm-beta", at(2010, 5, 3, 4, 0, 1)),
        (
            "iqn.2001-05.com.example:pool-autosnap_2024-02-29_00:00:01_daily",
            "pool",
            at(2024, 2, 29, 0, 0, 1),
        ),
        ("iqn.2001-05.com.example:a.b-zrepl_20060102_150405_000", "a.b", at(2006, 1, 2, 15, 4, 5)),
        ("iqn.1992-08.com.netapp:sn1:vol1-hourly.2017-05-15_1106", "vol1", at(2017, 5, 15, 11, 6)),
        ("iqn.2001-05.com.example:db1-20241231235959", "db1", at(2024, 12, 31, 23, 59, 59)),
    ],
)
def test_usual_forms_are_understood(name: str, volume: str, time: datetime) -> None:
    snapshot = names.take_apart(name, (), "UTC")
    assert isinstance(snapshot, names.Snapshot)
    assert (snapshot.volume, snapshot.time) == (volume, time)


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2001-05.com.example:test",
        "iqn.2001-05.com.example:vm-beta-2010-02-30-04:00:01",  # no such day
        "iqn.2001-05.com.example:vm-beta-2010-05-03-24:00:01",  # no such hour
        "iqn.2001-05.com.example:-2010-05-03-04:00:01",  # no volume
        "eui.0123456789abcdef",
    ],
)
def test_a_name_that_says_no_volume_or_time_is_no_snapshot(name: str) -> None:
    assert names.take_apart(name, (), "UTC") is None


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles", "local"])
@pytest.mark.parametrize("day", ["0001-01-01t00:00:00", "9999-12-31t23:59:59"])
def test_a_time_at_the_end_of_the_calendar_is_none(day: str, zone: str) -> None:
    """Elsewhere it is outside the calendar: one such name at a portal ended every list."""
    assert names.take_apart(f"iqn.2001-05.com.example:vm-{day}z", (), zone) is None


def test_a_name_that_fits_in_two_ways_is_not_guessed() -> None:
    name = "iqn.2001-05.com.example:a-20240101-000000-20240102-000000"
    template = "*:{volume}-{date:%Y%m%d-%H%M%S}*"
    assert names.take_apart(name, (template,), "UTC") == names.Ambiguous(template)


def test_summer_time_is_that_of_the_time_zone() -> None:
    def time(name: str) -> datetime | None:
        snapshot = names.take_apart(f"iqn.2001-05.com.example:{name}", (), "Europe/Vienna")
        return snapshot.time if isinstance(snapshot, names.Snapshot) else None

    assert time("v-2010-05-03-04:00:01") == at(2010, 5, 3, 2, 0, 1)
    assert time("v-2010-12-03-04:00:01") == at(2010, 12, 3, 3, 0, 1)
    assert time("v-2010-03-28-02:30:00") is None  # the clock went from 2 to 3
    assert time("v-2010-10-31-02:30:00") == at(2010, 10, 31, 0, 30)  # the first of the two


def test_an_own_template_comes_first() -> None:
    name = "iqn.2001-05.com.example:backup:03.05.2010-04.00-vm"
    own = "*:{date:%d.%m.%Y-%H.%M}-{volume}"
    assert names.take_apart(name, (), "UTC") is None
    snapshot = names.take_apart(name, (own,), "UTC")
    assert snapshot == names.Snapshot("vm", at(2010, 5, 3, 4, 0), own)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("*:{volume}", "{date:FORMAT} or {utc:FORMAT} once"),
        ("*:{date:%Y-%m-%d}", "{volume} once"),
        ("*:{volume}-{date:%H:%M}", "does not name a day"),
        ("*:{volume}-{date:%Y-%m-%d", "without its }"),
        ("*:{volume}-{date:%Y-%m-%Q}", "%Q is not one of"),
        ("*:{volume}-{date:%Y%m%d%d}", "twice"),
        ("*-{volume}-{date:%Y-%m-%d}", "more than one way"),
        ("*:{hex}{volume}-{date:%Y-%m-%d}", "more than one way"),
        ("*:{volume}*{date:%Y-%m-%d}", "more than one way"),
        ("*:{name}-{date:%Y-%m-%d}", "{name} is not"),
    ],
)
def test_a_wrong_template_is_refused_with_the_reason(template: str, why: str) -> None:
    with pytest.raises(ValueError, match="[{%]") as refused:
        values.templates([template])
    assert why in str(refused.value)


def test_a_time_zone_that_does_not_exist_is_refused() -> None:
    assert values.timezone("Europe/Vienna") == "Europe/Vienna"
    for wrong in ("Europe/Nowhere", "../../etc/passwd", "/etc/passwd", ""):
        with pytest.raises(ValueError, match="time zone"):
            values.timezone(wrong)


@pytest.mark.parametrize("template", names.BUILT_IN)
def test_built_in_templates_can_be_read_in_one_way_only(template: str) -> None:
    assert not templates.is_ambiguous(templates.parse(template))


@given(st.text(alphabet="abz019-_.:", max_size=80))
def test_no_name_is_too_much(text: str) -> None:
    names.take_apart(f"iqn.2001-05.com.example:{text}", ("*:{volume}-{utc:%s}",), "UTC")


def test_a_name_that_a_stranger_chose_keeps_no_template_busy_for_hours() -> None:
    own = values.templates(
        ["*-*-*-*-*-*:{volume}-{date:%Y%m%d}", "*{hex}?{hex}?*:{volume}-{utc:%s}"]
    )
    with time_limit(20):
        for text in ("-" * 198 + "x", "a" * 199, "-a" * 90 + ":vm-20260203"):
            answer = names.take_apart(f"iqn.2001-05.com.example:{text}", own, "UTC")
    assert isinstance(answer, names.Snapshot) and answer.volume == "vm"
    snapshot = names.take_apart("iqn.2001-05.com.example:a-b-c-d-e:vm-20260203", own, "UTC")
    assert snapshot == names.Snapshot("vm", datetime(2026, 2, 3, tzinfo=timezone.utc), own[0])


PARTS = st.sampled_from(["*", "?", "{hex}", "-", ":", "a", "1", "-snap.", "{hex}-"])


@given(
    st.lists(PARTS, max_size=5),
    st.lists(PARTS, max_size=3),
    st.sampled_from(["{date:%Y%m%d}", "{utc:%s}", "{utc:%Y%j.%f}"]),
    st.text("a1-:.", max_size=9),
    st.sampled_from(["vm", "1a-vm", ":vm"]),
    st.sampled_from(["20260203", "1700000000", "2026034.12"]),
    st.text("a1-:.", max_size=5),
)
def test_both_ways_to_fit_a_name_agree(
    before: list[str], after: list[str], date: str, start: str, volume: str, time: str, end: str
) -> None:
    template = "".join((*before, "{volume}", *after, date, *after))
    expression = names._expression(template)
    for name in (f"{start}{volume}{end}{time}", f"{start}{volume}{end}{time}{end}"):
        fit = template_fit.Fit(name, templates.parse(template), expression.time)
        for shortest, pattern in ((True, expression.shortest), (False, expression.longest)):
            match = pattern.fullmatch(name)
            assert fit.groups(shortest) == (match and (match["volume"], match["time"]))


@given(st.text(alphabet="{}%:*?abdevolumutcY-.", max_size=40))
def test_any_template_is_read_or_refused(text: str) -> None:
    try:
        templates.parse(text)
    except ValueError as error:
        assert str(error)


def test_explain_says_which_snapshot_it_is_and_by_which_line(tmp_path: Path) -> None:
    name = "iqn.2001-05.com.example:vm:03.05.2010"
    template = "*:{volume}:{date:%d.%m.%Y}"
    configuration = f"timezone = Europe/Vienna\nsnapshot_name = {template}\n"
    make_tree(tmp_path, {"/etc/auto.iscsi.conf": configuration})
    report = explain.report(Host(str(tmp_path)), name, output.Paint(False))
    (step,) = [each for each in report.data["steps"] if each["step"] == "snapshot"]
    assert step["says"] == (f"vm, 2010-05-03 00:00:00 CEST, by {template} (/etc/auto.iscsi.conf:2)")
