"""auto-iscsi check: CHAP settings that require each other, and the files of the secrets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.admin import check, output
from auto_iscsi.config import config_files
from auto_iscsi.iscsi import chap
from auto_iscsi.machine.host import Host
from tests.tree.tree import make_tree

PLAIN = output.Paint(False)
SECRET = "a-secret-12345"
CHAP = "chap_user = browse\nchap_secret_file = /s\n"
MUTUAL = "chap_mutual_user = array\nchap_mutual_secret_file = /t\n"


def reported(root: Path, text: str, files: dict[str, str | None] | None = None) -> list[str]:
    """Return the report for a machine with this configuration and these files."""
    make_tree(root, {config_files.FILE: text, **(files or {})})
    return check.report(Host(str(root)), [], False, PLAIN).lines


def test_a_missing_setting_is_reported_at_the_line_that_requires_it(tmp_path: Path) -> None:
    text = "chap_user = browse\n[*-a]\nlun = 1\nchap_secret_file = /s\n"
    lines = reported(tmp_path, text, {"/s": SECRET})
    assert lines == ["/etc/auto.iscsi.conf:1: error: chap_user: it needs chap_secret_file"]
    text = f"{CHAP}[*-a]\nchap_secret_file =\n"
    assert reported(tmp_path, text) == [
        "/etc/auto.iscsi.conf:1: error: chap_user: it needs chap_secret_file"
    ]


def test_any_file_can_be_checked_without_the_secrets_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("chap_user = browse\nchap_secret_file = /nowhere\n")
    report = check.report(Host(), [f"{tmp_path}/f"], False, PLAIN)
    assert report.lines == [f"{tmp_path}/f: ok"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "/s: no such file"),
        ("", "/s: expected one line"),
        ("\n", "/s: expected one line"),
        (f"{SECRET}\n{SECRET}\n", "/s: expected one line"),
        (f"{SECRET} \n", "white space"),
        (f"caf\u00e9{SECRET}", "ASCII"),
        ("x" * 256, "above 255 bytes"),
    ],
)
def test_a_secret_that_cannot_be_used(tmp_path: Path, content: str | None, why: str) -> None:
    (line,) = reported(tmp_path, CHAP, {} if content is None else {"/s": content})
    assert line.startswith("/etc/auto.iscsi.conf:2: error: chap_secret_file: /s: ") and why in line
    assert SECRET not in line
    make_tree(tmp_path / "other", {} if content is None else {"/s": content})
    with pytest.raises(errors.BadConfiguration, match="/s: ") as failure:
        chap.read_secret(Host(str(tmp_path / "other")), "/s")
    assert SECRET not in str(failure.value)


def test_a_secret_of_a_length_that_targets_refuse_is_a_warning(tmp_path: Path) -> None:
    (line,) = reported(tmp_path, CHAP, {"/s": "short\n"})
    assert line == (
        "/etc/auto.iscsi.conf:2: warning: chap_secret_file: /s: 5 bytes, many targets take 12 to 16"
    )


def test_both_secrets_must_differ(tmp_path: Path) -> None:
    (line,) = reported(tmp_path, CHAP + MUTUAL, {"/s": SECRET, "/t": f"{SECRET}\r\n"})
    assert line.startswith("/etc/auto.iscsi.conf:4: error: chap_mutual_secret_file: /t: the same")
    assert SECRET not in line
    make_tree(tmp_path, {"/t": "another-secret"})
    assert reported(tmp_path, CHAP + MUTUAL) == ["/etc/auto.iscsi.conf: ok"]


def test_a_secret_that_this_user_may_not_read_is_not_reported(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    assert reported(tmp_path, CHAP, {"/s": SECRET}) == ["/etc/auto.iscsi.conf: ok"]
    (tmp_path / "s").chmod(0o600)
    tmp_path.chmod(0o755)
    for folder in list(tmp_path.parents)[:-2]:
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        lines = check.report(Host(str(tmp_path)), [], False, PLAIN).lines
    finally:
        os.seteuid(0)
    assert lines == ["/etc/auto.iscsi.conf: ok"]
