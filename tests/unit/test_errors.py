"""A failure is one line of printable ASCII: what failed, and what to do next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi import errors, wording
from auto_iscsi.volumes import mountable


@given(st.text(), st.integers(3, 1200))
def test_a_line_in_the_log_is_one_line_of_printable_ascii(text: str, limit: int) -> None:
    line = wording.one_line(text, limit)
    assert all(" " <= character <= "~" for character in line)
    assert len(line) == min(len(text), limit)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=900))
def test_what_is_printable_stays_as_it_is(text: str) -> None:
    assert wording.one_line(text) == text


@pytest.mark.parametrize("odd", ["\n", "\r\n", "\x1b[31m", "\x00", "\x7f", "\u2028", "é", "\udcff"])
def test_what_a_target_sent_cannot_break_the_line_or_colour_the_terminal(odd: str) -> None:
    line = wording.one_line(f"before{odd}after")
    assert line.startswith("before?") and line.endswith("after")


def test_a_line_that_automount_would_split_is_cut_and_says_so() -> None:
    line = wording.one_line("x" * 5000)
    assert len(f"auto.iscsi: {line}") < 1023 and line.endswith("...")


def test_a_failure_says_what_and_then_what_to_do() -> None:
    assert str(errors.NoDisk("no LUN 0", "map the LUN")) == "no LUN 0; map the LUN"
    assert str(errors.NoDisk("no LUN 0")) == "no LUN 0"


def test_every_kind_of_failure_has_a_code_of_its_own_and_says_what_it_is() -> None:
    kinds = errors.Failure.__subclasses__()
    codes = [kind.code for kind in (errors.Failure, *kinds)]
    assert len(kinds) > 10 and len(set(codes)) == len(codes)
    assert all(kind.__doc__ for kind in kinds)


def test_a_time_out_ends_the_lookup_and_leaves_out_no_filesystem() -> None:
    collector = mountable.Collector("iqn.2001-05.com.example:x")
    with collector.leave_out_failures("/p1"):
        raise errors.NoAnswer("sdb1: the disk does not answer")
    assert collector.notes == ["p1 is left out: sdb1: the disk does not answer"]
    with pytest.raises(errors.TimedOut), collector.leave_out_failures("/p2"):
        raise errors.TimedOut("not ready after 60 s")
    assert not isinstance(errors.TimedOut(""), errors.Failure)
