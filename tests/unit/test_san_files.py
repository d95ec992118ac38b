"""The files of the SANs: what is read, and what is refused with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.admin import cli
from auto_iscsi.config import san_files
from auto_iscsi.machine.host import Host
from tests.tree.tree import make_tree

FILE = "/etc/auto.iscsi.san.d/eql1.conf"
GOOD = """\
driver = eqlx
address = 10.0.0.5
volumes = vm-*, home   # and no others
present = yes
allow = root, jo, @backup
timeout = 20s
[options]
ssh_options = "-o KexAlgorithms=+a,b"
portals = a, b
"""


def read(root: Path, text: str) -> tuple[san_files.San | None, list[str]]:
    make_tree(root, {FILE: text})
    san, problems = san_files.read(Host(str(root)), FILE)
    return san, [f"{problem.line} {problem.subject}: {problem.text}" for problem in problems]


def test_a_file_is_a_san(tmp_path: Path) -> None:
    san, problems = read(tmp_path, GOOD)
    assert san and not problems
    assert (san.name, san.driver) == ("eql1", "/usr/libexec/auto-iscsi/drivers/eqlx")
    assert (san.present, san.allow, san.timeout) == (True, ("root", "jo", "@backup"), 20.0)
    assert san.options == {"ssh_options": "-o KexAlgorithms=+a,b", "portals": "a, b"}
    assert san.has_volume("vm-beta") and san.has_volume("home")
    assert not san.has_volume("VM-beta") and not san.has_volume("homes")


def test_by_default_nothing_is_allowed(tmp_path: Path) -> None:
    san, _ = read(tmp_path, "driver = /opt/x/driver\n")
    assert san and san.driver == "/opt/x/driver"
    assert (san.present, san.volumes, san.allow) == (False, (), ("root",))
    assert san.run_as == "auto-iscsi"


WRONG = {
    "": "0 driver: it is not set",
    "driver = ../x": "1 driver: expected the name of a driver, or the path of one",
    "drivr = x": "1 drivr: no such setting, did you mean driver?",
    "driver = x\nvg = y": "2 vg: no such setting; settings of the driver belong below [options]",
    "driver = x\nvolumes = a b": "2 volumes: 'a b' is no name of a volume, and no pattern of one",
    "driver = x\nallow = a, b c": "2 allow: 'b c' is no name of a user, and no @GROUP",
    "driver = x\nrun_as = @g": "2 run_as: expected the name of a user",
    "driver = x\npresent = maybe": "2 present: expected yes or no",
    "driver = x\n[other]\na = b": "2 [other]: the only section here is [options]",
    "driver = x\n[options]\nA B = c": "3 A B: expected name = text, in small letters",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_has_its_line(tmp_path: Path, text: str) -> None:
    san, problems = read(tmp_path, text)
    assert san is None and problems == [WRONG[text]]


def test_the_name_of_the_file_is_the_name_of_the_san(tmp_path: Path) -> None:
    make_tree(tmp_path, {"/etc/auto.iscsi.san.d/a b.conf": "driver = x\n", FILE: GOOD})
    host = Host(str(tmp_path))
    with pytest.raises(errors.BadConfiguration, match="no name of a SAN"):
        san_files.find(host, "a b")
    with pytest.raises(errors.BadConfiguration, match="no SAN is called x: there are a b, eql1"):
        san_files.find(host, "x")
    assert san_files.find(host, "eql1").address == "10.0.0.5"


@pytest.mark.parametrize(
    ("text", "mode", "hint"),
    [
        ("driver = x\n", 0o644, ""),
        ("driver = x\n", 0o664, "chmod go-w"),
        ("driver = x\nsecret_file = /s\n", 0o600, ""),
        ("driver = x\nsecret_file = /s\n", 0o640, "chmod 600"),
        ("driver = x\nkey_file = /s\n", 0o644, "chmod 600"),
    ],
)
def test_who_may_write_and_read_a_file(tmp_path: Path, text: str, mode: int, hint: str) -> None:
    if os.geteuid():
        pytest.skip("needs root, whose files they are")
    file = tmp_path / "eql.conf"
    file.write_text(text)
    file.chmod(mode)
    tmp_path.chmod(0o755)
    problems = san_files.read(Host(), str(file))[1]
    assert [problem.hint.rpartition(" ")[0] for problem in problems] == ([hint] if hint else [])


def test_check_and_explain_know_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tree(tmp_path, {FILE: GOOD.replace("20s", "soon")})
    root = ("--root", str(tmp_path))
    assert cli.main([*root, "check"]) == 1
    assert f"{FILE}:6: error: timeout: expected a time" in capsys.readouterr().out
    assert cli.main([*root, "check", str(tmp_path / FILE[1:])]) == 1
    assert "timeout: expected a time" in capsys.readouterr().out
    assert cli.main([*root, "explain", "eql1"]) == 1
    assert "timeout: expected a time" in capsys.readouterr().out
    make_tree(tmp_path, {FILE: GOOD})
    assert cli.main([*root, "explain", "eql1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"address = 10.0.0.5 {FILE}:2" in shown and "max_presented = 8 built in" in shown
    assert f"portals = a, b {FILE}:9" in shown


def test_edit_installs_no_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / FILE[1:]
    make_tree(tmp_path, {FILE: GOOD})
    monkeypatch.setenv("EDITOR", "sed -i s/20s/soon/")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("SUDO_EDITOR", raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "x")
    assert cli.main(["--root", str(tmp_path), "edit", str(file)]) == 1
    assert file.read_text() == GOOD
