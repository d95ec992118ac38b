"""Each error in a file is reported with its line and the correct form."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from auto_iscsi import errors
from auto_iscsi.config import config_files
from auto_iscsi.config import schema as table
from auto_iscsi.machine.host import Host
from tests.tree.tree import make_tree
from tests.unit import language

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


def problems(data: bytes) -> list[str]:
    return [str(problem) for problem in config_files.parse("F", data)[1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[iqn.x:disk[0-9]]",
            "F:1: [iqn.x:disk[0-9]]: a pattern that begins or ends with a "
            'bracket needs quotes: ["iqn.x:disk[0-9]"]',
        ),
        ("[[0-9]*]", '["[0-9]*"]'),
        ("[[a]]", "do not nest"),
        ("[a]\n[[b]]", "F:2: [[b]]: sections do not nest"),
        ("[a", "F:1: [a: expected [PATTERN]"),
        ("[a] lun", "F:1: [a] lun: expected [PATTERN]"),
        ("[a]\n\n[a]", "F:3: [a]: the file has this section already, line 1"),
        ("lun = 1\nlun = 2", "F:2: lun: set twice in this section"),
        ("lun = '1", "F:1: lun: quotes or commas"),
        ("options = a,,b", "F:1: options: quotes or commas"),
        ('lun = """1\n', "F:1: lun: the triple quotes"),
        ("\nlun", "F:2: neither [PATTERN] nor SETTING = VALUE"),
        ("= 1", "F:1: neither"),
        ("# " + "x" * 5000, "F:1: longer than 4096 characters"),
        ("a = 1\nb = \x00", "F:2: not a text file (control character 0x00)"),
        ("a = 1\rb = 2", "F:1: not a text file (control character 0x0d)"),
        (b"\xff\xfea\x00", "F:1: not UTF-8 (byte 0xff)"),
        (b"a = 1\n\xc3\x28", "F:2: not UTF-8 (byte 0xc3)"),
    ],
    ids=ascii,
)
def test_each_error_is_reported_with_its_line(text: str | bytes, expected: str) -> None:
    faults = problems(text if isinstance(text, bytes) else text.encode())
    assert len(faults) == 1 and expected in faults[0], faults


def test_all_errors_are_found_at_once_and_the_settings_below_a_wrong_header_match_no_target() -> (
    None
):
    data = b"""\
lun = 1
[*disk[0-9]]
lun = 2
lun = 3
[good]
fstype = 'xfs
options
[good]
lun = 4
fstype = ext4
"""
    sections, faults = config_files.parse("F", data)
    assert [problem.line for problem in faults] == [2, 4, 6, 7, 8]
    assert [(s.glob, s.values) for s in sections] == [
        ("*", {"lun": "1"}),
        ("", {"lun": "2"}),
        ("good", {}),
        ("", {"lun": "4", "fstype": "ext4"}),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "options = " + ",  ".join(["ro"] * 200) + ",  '",
        "options = " + "  , ".join(["ro"] * 200) + '  , "',
        "options = " + ",".join(['"ro"'] * 200) + " x",
        " " * 4000 + "x",
        "[" * 4000,
        "[a" + "]" * 4000 + "x",
        "[a" + "] " * 2000 + "x",
        "['a" + " " * 4000,
        "a" + " " * 4000 + "b",
        "'" * 4000,
        "options = " + "," * 4000,
    ],
    ids=lambda line: line[:20],
)
def test_no_line_takes_for_ever(line: str) -> None:
    # The regular expressions of ConfigObj would need years for the first three.
    with language.time_limit():
        assert problems(line.encode())


@pytest.mark.parametrize("size", [config_files.MAX_BYTES + 1, 10 << 20])
def test_a_huge_file_is_refused_unread(tmp_path: Path, size: int) -> None:
    make_tree(tmp_path, {config_files.FILE: ""})
    with open(tmp_path / "etc/auto.iscsi.conf", "wb") as stream:
        stream.truncate(size)
    with pytest.raises(errors.BadConfiguration, match=r"auto\.iscsi\.conf: \d+ bytes, the limit"):
        config_files.load(Host(str(tmp_path)))


def test_the_refusal_names_the_first_problem_how_many_more_and_the_check(tmp_path: Path) -> None:
    broken = {
        config_files.FILE: "lun = 1\nlun = 2\nlun = 3\n",
        f"{config_files.FOLDER}/a.conf": "[",
    }
    make_tree(tmp_path, broken)
    with pytest.raises(errors.BadConfiguration) as failure:
        config_files.load(Host(str(tmp_path)))
    assert (
        failure.value.reason
        == f"{config_files.FILE}:2: lun: set twice in this section (and 2 more)"
    )
    assert "auto-iscsi check" in failure.value.hint


def test_all_wrong_values_of_a_target_are_counted(tmp_path: Path) -> None:
    make_tree(
        tmp_path, {config_files.FILE: "lun = x\nlunn = 1\n[eui.*]\nlun = y\n[iqn.*]\nlun = z\n"}
    )
    with pytest.raises(errors.BadConfiguration, match=r":1: lun: .* \(and 2 more\); ") as failure:
        table.resolve(config_files.load(Host(str(tmp_path))), language.TARGET)
    assert "auto-iscsi check" in failure.value.hint


@settings(max_examples=1000)
@given(language.ANYTHING)
def test_no_file_crashes_the_parser(data: bytes) -> None:
    sections, faults = config_files.parse("F", data)
    lines = data.count(b"\n") + 1
    for section in sections:
        assert set(section.values) == set(section.lines)
        assert all(0 < line <= lines for line in section.lines.values())
        table.read_section(section)
    assert all(0 < problem.line <= lines for problem in faults)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_the_fuzzer_found_interesting_still_works(path: Path) -> None:
    from tests.unit import fuzz_config

    fuzz_config.check_file(path.read_bytes())


def test_there_is_a_corpus() -> None:
    assert CORPUS
