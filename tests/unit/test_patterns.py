"""Which names a section's pattern matches, and what can be proved about all names."""

from __future__ import annotations

import fnmatch
import re
import sys
from types import FrameType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from auto_iscsi import errors, keys
from auto_iscsi.config import pattern_proofs, patterns
from tests.unit.key_examples import GRAMMAR
from tests.unit.language import time_limit

GLOBS = st.text("*?[]!-:.iqnab01_", max_size=14)
NAMES = st.from_regex(GRAMMAR, fullmatch=True).filter(lambda name: len(name) < 60)


@settings(max_examples=1000)
@given(GLOBS, st.text("iqnab01-:.", max_size=14))
@example("[!]a]", "b")
@example("[!]", "a")
@example("[a-c-e]", "-")
@example("[--0]", ".")
@example("[b-ac]", "c")
@example("[!b-a]", "c")
@example("a*a", "a")
@example("*aab", "aaab")
@example("[b-a]", "b")
def test_a_pattern_matches_what_fnmatch_says(glob: str, name: str) -> None:
    try:
        expected = fnmatch.fnmatchcase(name, glob)
    except re.error:  # Python 3.9 for [b-a]
        return
    assert patterns.matches(glob, name) == expected


def test_a_range_that_is_empty_matches_nothing() -> None:
    assert not patterns.matches("[b-a]", "a")
    try:
        fnmatch.fnmatchcase("c", "[b-ac]")
    except re.error:  # Python 3.9: then the whole pattern matches nothing
        assert not patterns.matches("[b-ac]", "c")
    else:
        assert patterns.matches("[b-ac]", "c")


def test_no_pattern_takes_for_ever() -> None:
    with time_limit():
        assert not patterns.matches("*[a]" * 60 + "?b", "a" * 223)
        assert not patterns.matches("*[a]" * 60 + "[b]", "a" * 223)
        assert not patterns.matches("*a" * 100 + "b", "a" * 223)


def test_of_a_thousand_patterns_only_those_are_compiled_whose_literal_parts_the_name_has() -> None:
    name, compiled = "iqn.2001-05.com.example:vm-77-disk1", []

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is fnmatch.translate.__code__:
            compiled.append(frame.f_locals["pat"])

    sys.setprofile(watch)
    try:
        numbers = [n for n in range(1000) if patterns.matches(f"*:vm-{n}-disk[0-9]", name)]
    finally:
        sys.setprofile(None)
    assert numbers == [77] and compiled == ["*:vm-77-disk[0-9]"]


@settings(max_examples=200)
@given(NAMES, st.data())
def test_a_pattern_made_from_a_name_matches_it(name: str, data: st.DataObject) -> None:
    glob = ""
    for character in name:
        glob += data.draw(st.sampled_from([character, "?", "*", f"[{character}]", character]))
    assert patterns.matches(glob, name)
    shortest = pattern_proofs.example_name(glob)
    assert shortest is not None and patterns.matches(glob, shortest)


def accepted(text: str) -> bool:
    state = 0
    for character in text:
        if character not in pattern_proofs._NAMES[state]:
            return False
        state = pattern_proofs._NAMES[state][character]
    return state in pattern_proofs._COMPLETE


def is_name(text: str) -> bool:
    try:
        keys.parse(text)
    except errors.BadKey:
        return False
    return True


@settings(max_examples=200)
@given(NAMES, st.integers(0, 60), st.sampled_from("-.:a0z_"))
def test_the_automaton_accepts_what_keys_accepts(name: str, at: int, other: str) -> None:
    for text in (name, name[:at], name[:at] + other + name[at + 1 :], name + other):
        assert accepted(text) == is_name(text), text


@given(GLOBS)
def test_an_example_is_a_target_name_that_matches(glob: str) -> None:
    shortest = pattern_proofs.example_name(glob)
    if shortest is not None:
        assert is_name(shortest) and patterns.matches(glob, shortest)


@settings(max_examples=150)
@given(GLOBS, NAMES)
def test_a_pattern_that_matches_a_name_has_an_example(glob: str, name: str) -> None:
    if patterns.matches(glob, name):
        assert pattern_proofs.example_name(glob) is not None


@settings(max_examples=200)
@given(GLOBS.map("*{}".format), GLOBS.map("*{}*".format), NAMES)
def test_a_covered_pattern_matches_no_name_that_its_cover_does_not(
    wide: str, narrow: str, name: str
) -> None:
    if pattern_proofs.covers(wide, narrow) and patterns.matches(narrow, name):
        assert patterns.matches(wide, name)


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("*", "iqn.*", True),
        ("iqn.*", "*", False),
        ("*:*", "iqn.*:*", True),
        ("[ien]*", "*", True),
        ("iqn.*", "*:*", True),
        ("*vm*", "*-vm-*", True),
        ("*-vm-*", "*vm*", False),
        ("*disk[0-9]", "*:disk[2-4]", True),
        ("*disk[2-4]", "*:disk[0-9]", False),
        ("eui.*[0-9a-f]", "eui.*", True),
        ("*" + "?" * 40 + "a" + "?" * 40, "*b*", False),
    ],
)
def test_one_pattern_covers_another(wide: str, narrow: str, covered: bool) -> None:
    assert pattern_proofs.covers(wide, narrow) is covered
