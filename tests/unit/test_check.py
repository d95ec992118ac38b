"""auto-iscsi check: every mistake on its line, and the sections that change nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from auto_iscsi.admin import check, cli, output
from auto_iscsi.config import config_files
from auto_iscsi.machine.host import Host
from tests.tree.tree import make_tree

PLAIN = output.Paint(False)


def warnings(folder: Path, text: str) -> list[str]:
    """Return the warnings about a file; fail if there are errors."""
    (folder / "f").write_text(text)
    report = check.report(Host(), [str(folder / "f")], False, PLAIN)
    assert report.status == 0
    return [line.replace(f"{folder}/", "") for line in report.lines if not line.endswith(": ok")]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    status = cli.main([*arguments])
    printed = capsys.readouterr()
    assert printed.err == ""
    return status, printed.out.splitlines()


def test_a_clean_file_is_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f").write_text("lun = 1\n[*-vm-*]\nlun = 2\n")
    assert run(capsys, "check", f"{tmp_path}/f") == (0, [f"{tmp_path}/f: ok"])


def test_all_problems_of_all_files_are_reported_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").write_text("option = ro\n\n[*disk[0-9]]\nlun = x\nlun\n[vm]\nlun = 1\n")
    (tmp_path / "a").write_text("[eui.*]\nenabled = perhaps\n")
    (tmp_path / "c").write_text("[*]\n")
    status, lines = run(capsys, "check", "b", "a", "c", "d")
    assert status == 1
    assert lines == [
        "b:1: error: option: no such setting, did you mean options?",
        "b:3: error: [*disk[0-9]]: a pattern that begins or ends with a bracket needs quotes: "
        '["*disk[0-9]"]',
        "b:4: error: lun: expected a number from 0 to 16383 or all",
        "b:5: error: neither [PATTERN] nor SETTING = VALUE",
        "b:6: warning: [vm]: not a target's name (iqn.YYYY-MM.DOMAIN[:NAME], eui.HEX, naa.HEX); "
        "did you mean [*vm]?",
        "a:2: error: enabled: expected yes or no",
        "d: error: no such file",
        "c: ok",
    ]


def test_without_arguments_the_files_of_a_lookup_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tree(
        tmp_path, {config_files.FILE: "lun = 1\n", f"{config_files.FOLDER}/a.conf": "lun = x\n"}
    )
    status, lines = run(capsys, "--root", str(tmp_path), "check")
    assert (status, lines[0].split(": error")[0]) == (1, f"{config_files.FOLDER}/a.conf:1")
    assert lines[1:] == [f"{config_files.FILE}: ok"]


def test_no_file_at_all_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(capsys, "--root", str(tmp_path), "check")
    assert status == 0 and "built-in settings" in lines[0]


def test_a_folder_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check", str(tmp_path)) == (1, [f"{tmp_path}: error: not a regular file"])


def test_a_file_without_read_permission_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("lun = 1\n")
    os.chmod(tmp_path / "f", 0)
    somebody = 65534 if os.geteuid() == 0 else os.geteuid()  # root may read everything
    before = os.geteuid()
    os.seteuid(somebody)
    try:
        report = check.report(Host(), [f"{tmp_path}/f"], False, PLAIN)
    finally:
        os.seteuid(before)
    assert report.status == 1 and "permission denied" in report.lines[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[vm]\nlun = 1\n", "f:1: warning: [vm]: not a target's name"),
        ("[iqn.2001-13.com.x:a]\nlun = 1\n", "f:1: warning: [iqn.2001-13.com.x:a]: not a target's"),
        ("[vm-*]\nlun = 1\n", "did you mean [*vm-*]?"),
        ("[*:vm+beta]\nlun = 1\n", 'no target\'s name contains "+"'),
        ("[*:a b*]\nlun = 1\n", 'no target\'s name contains " "'),
        ("['*[']\nlun = 1\n", 'no target\'s name contains "["'),
        ("[eui.*z]\nlun = 1\n", "it can match no target"),
        ("[eui.?]\nlun = 1\n", "did you mean [eui.?*]?"),
        (
            "[eui.*]\nlun = 1\n[*]\nlun = 2\n",
            "f:1: warning: [eui.*]: no effect: overridden for all its targets by f:4",
        ),
        ("[EUI.*]\nlun = 1\n[e*]\nlun = 2\n", "no effect: overridden"),
        ("[eui.*]\nlun = 1\nfstype = xfs\n[*]\nlun = 2\n[eui.?*]\nfstype = xfs\n", "by f:5, f:7"),
        ("lun = 1\n[*]\nlun = 2\n", "f:1: warning: settings above the first section: no effect"),
    ],
)
def test_a_section_that_changes_nothing_is_a_warning(
    tmp_path: Path, text: str, expected: str
) -> None:
    lines = warnings(tmp_path, text)
    assert len(lines) == 1 and expected in lines[0], lines


@pytest.mark.parametrize(
    "text",
    [
        "[iqn.2001-05.COM.example:A]\nlun = 1\n",
        "[*]\nlun = 1\n[eui.*]\nlun = 2\n",
        "[eui.*]\nlun = 1\n[eui.0*]\nlun = 2\n",
        "[eui.*]\nlun = 1\nfstype = xfs\n[*]\nlun = 2\n",
        "[eui.*]\n",
        "lun = 1\n[*:*]\nlun = 2\n",
        "",
    ],
)
def test_a_section_that_changes_something_is_no_warning(tmp_path: Path, text: str) -> None:
    assert warnings(tmp_path, text) == []


def test_a_drop_in_may_override_what_the_file_says_for_all(tmp_path: Path) -> None:
    make_tree(
        tmp_path, {config_files.FILE: "lun = 1\n", f"{config_files.FOLDER}/a.conf": "lun = 2\n"}
    )
    report = check.report(Host(str(tmp_path)), [], False, PLAIN)
    assert report.lines == [f"{config_files.FILE}: ok", f"{config_files.FOLDER}/a.conf: ok"]


def test_a_section_that_a_drop_in_overrides_is_a_warning(tmp_path: Path) -> None:
    make_tree(
        tmp_path,
        {config_files.FILE: "[eui.*]\nlun = 1\n", f"{config_files.FOLDER}/a.conf": "lun = 2\n"},
    )
    report = check.report(Host(str(tmp_path)), [], False, PLAIN)
    assert f"{config_files.FILE}:1: warning: [eui.*]" in report.lines[0]
    assert report.lines[0].endswith(f"by {config_files.FOLDER}/a.conf:1")


def test_with_strict_a_warning_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f").write_text("[vm]\nlun = 1\n")
    assert run(capsys, "check", f"{tmp_path}/f")[0] == 0
    assert run(capsys, "check", "--strict", f"{tmp_path}/f")[0] == 1


def test_the_json_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f").write_text("lun = x\n[vm]\nlun = 1\n")
    status, lines = run(capsys, "check", "--json", f"{tmp_path}/f")
    data = json.loads("\n".join(lines))
    assert status == 1 and data["ok"] is False and data["files"] == [f"{tmp_path}/f"]
    assert data["problems"][0] == {
        "kind": "wrong-value",
        "severity": "error",
        "file": f"{tmp_path}/f",
        "line": 1,
        "subject": "lun",
        "text": "expected a number from 0 to 16383 or all",
        "hint": "",
    }
    assert data["problems"][1]["severity"] == "warning"
    assert {problem["kind"] for problem in data["problems"]} <= set(config_files.KINDS)


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("[\u202e\u009b31m]\n\u202e = 1\n")
    report = check.report(Host(), [f"{tmp_path}/f"], False, PLAIN)
    assert len(report.lines) == 2 and all(line.isprintable() for line in report.lines)


def test_a_thousand_sections_are_checked_in_seconds(tmp_path: Path) -> None:
    text = "".join(
        f"[iqn.2001-05.com.example:*-vm-{n}-*]\nlun = 1\n[*:disk-{n}?]\nfstype = xfs\n"
        for n in range(500)
    )
    (tmp_path / "f").write_text(text)
    assert check.report(Host(), [f"{tmp_path}/f"], False, PLAIN).status == 0
