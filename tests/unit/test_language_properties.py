"""Generated configurations: the values are an oracle's; cache, `explain` and lookup agree."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auto_iscsi import errors
from auto_iscsi.admin import explain, output
from auto_iscsi.config import config_files, file_cache
from auto_iscsi.config import schema as table
from auto_iscsi.machine.host import Host
from tests.tree.tree import make_tree
from tests.unit import language

NAMES = (config_files.FILE, f"{config_files.FOLDER}/10-a.conf", f"{config_files.FOLDER}/20-b.conf")
READ = st.lists(language.files(), min_size=1, max_size=3).map(lambda files: dict(zip(NAMES, files)))
PLAIN = output.Paint(False)


def lay_out(root: str, read: dict[str, language.File], bom: bool = False) -> Host:
    start = b"\xef\xbb\xbf" if bom else b""
    data = {name: start + file.text.encode() for name, file in read.items()}
    make_tree(Path(root), {"/run": None, **data})
    return Host(root)


@settings(max_examples=200)
@given(READ, st.booleans())
def test_the_last_matching_line_decides(read: dict[str, language.File], bom: bool) -> None:
    with tempfile.TemporaryDirectory() as root:
        sections = config_files.load(lay_out(root, read, bom))
    wrong = language.refusals(read)
    if wrong:
        with pytest.raises(errors.BadConfiguration) as failure:
            table.resolve(sections, language.TARGET)
        assert failure.value.reason.startswith(f"{wrong[0]}: ")
        assert ("more)" in failure.value.reason) == (len(wrong) > 1)
        return
    expected = language.expected(read)
    for name, choice in table.effective_values(sections, language.TARGET).items():
        row = table.TABLE[name]
        default = (row.as_written(row.default), language.BUILT_IN)
        assert (row.as_written(choice.value), choice.where(name)) == expected.get(name, default)


@settings(max_examples=80)
@given(READ)
def test_what_explain_reports_is_what_a_lookup_uses(read: dict[str, language.File]) -> None:
    with tempfile.TemporaryDirectory() as root:
        host = lay_out(root, read)
        data = explain.report(host, language.TARGET, PLAIN).data
        try:
            used = table.resolve(config_files.load(host), language.TARGET)
        except errors.BadConfiguration as failure:
            assert data["refused"]["reason"] == failure.reason
            return
    assert {name: entry["value"] for name, entry in data["settings"].items()} == {
        name: setting.as_written(getattr(used, table.field(name)))
        for name, setting in table.TABLE.items()
    }


@settings(max_examples=60)
@given(READ)
def test_the_cache_returns_what_was_parsed(read: dict[str, language.File]) -> None:
    with tempfile.TemporaryDirectory() as root:
        host = lay_out(root, read)
        parsed = config_files.load(host, remember=False)
        existing = file_cache.list_existing(host)
        file_cache.write(host, existing, [tuple(section) for section in parsed], settled=0)
        cached = file_cache.read(host, existing)
        assert (
            [config_files.Section._make(each) for each in cached]
            == parsed
            == config_files.load(host)
        )


@settings(max_examples=200)
@given(st.sampled_from(sorted(table.TABLE)), st.data())
def test_a_value_is_shown_as_a_file_would_set_it(name: str, data: st.DataObject) -> None:
    row = table.TABLE[name]
    text, meaning = data.draw(st.sampled_from(language.VALUES[name]))
    for written in (text, meaning, row.as_written(row.default), row.example):
        sections, problems = config_files.parse("F", f"{name} = {written}\n".encode())
        assert not problems
        again = row.as_written(table.effective_values(sections, language.TARGET)[name].value)
        assert again == (meaning if written in (text, meaning) else again)
        if written not in (text, meaning):
            assert again.replace(":3260", "") == written.replace(":3260", "")


def test_every_setting_has_values_here() -> None:
    assert list(language.VALUES) == list(table.TABLE)
