"""What the manual pages say of the configuration is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from auto_iscsi.admin import cli, explain
from auto_iscsi.config import config_files, schema
from tests import manual

MAN = Path(__file__).resolve().parents[2] / "man"
TARGET = "iqn.2001-05.com.example:vm-beta-disk1"


def page(name: str) -> str:
    return (MAN / name).read_text()


@pytest.mark.parametrize("name", schema.TABLE)
def test_each_setting_has_an_example_that_works(name: str) -> None:
    item = page("auto.iscsi.conf.5").split(f".It Ic {name} ", 1)[1].split("\n.It Ic ")[0]
    (example,) = re.findall(rf"^\.Dl ({name} = .*)$", item, re.M)
    assert example == f"{name} = {schema.TABLE[name].example}"
    sections, problems = config_files.parse("F", f"{example}\n".encode())
    assert not problems
    value, default = (
        schema.effective_values(sections, TARGET)[name].value,
        schema.TABLE[name].default,
    )
    assert value != default, "the example shows only the default"


def test_each_worked_configuration_is_clean() -> None:
    from auto_iscsi.admin import check

    for block in manual.worked().values():
        sections, problems = config_files.parse("F", block.encode())
        assert sections and not problems
        assert not [problem for section in sections for problem in schema.read_section(section)[1]]
        assert not check._without_effect(sections)


def test_the_manual_has_each_kind_of_problem_each_outcome_and_each_verb() -> None:
    items = re.findall(r"^\.It Cm (\S+)", page("auto-iscsi.8"), re.M)
    for word in (*config_files.KINDS, *explain.OUTCOMES, *cli.VERBS):
        assert word in items, word


def test_the_limits_are_the_program_s() -> None:
    from auto_iscsi.config import syntax

    text = page("auto.iscsi.conf.5")
    assert f"at most {syntax.LONGEST_LINE} characters" in text
    assert "at most 1 MiB" in text and config_files.MAX_BYTES == 1 << 20
