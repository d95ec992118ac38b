"""Completion in bash: what Tab offers after auto-iscsi."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import pytest

from auto_iscsi.admin import cli, codes
from tests.tree.tree import make_tree

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, DIST = ROOT / "etc/completion", ROOT / "dist"
ALPHA = "iqn.2001-05.com.equallogic:0-8a0906-vm-alpha-04:00:01"
BETA = "iqn.2001-05.com.equallogic:0-8a0906-vm-beta-04:00:01"
OTHER = "eui.02004567a425678d"

#: bash splits a line at blanks and at COMP_WORDBREAKS, and calls the function that is registered.
BASH = r"""
set -u
source "$1"
COMP_LINE=$2 COMP_POINT=${#2} COMP_TYPE=9 COMP_KEY=9
[[ $(complete -p auto-iscsi) == "complete -F _auto_iscsi auto-iscsi" ]] || exit 9
_auto_iscsi auto-iscsi
[[ ${#COMPREPLY[@]} = 0 ]] || printf '%s\n' "${COMPREPLY[@]}"
"""


def complete(line: str, cwd: Path = Path("/")) -> list[str]:
    """Return the completions of a line, in order; bash inserts one after the last colon."""
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", str(SCRIPT), line],
        cwd=cwd,
        env={"PATH": f"{DIST}:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split()


def long_options(parser: argparse.ArgumentParser) -> set[str]:
    return {o for action in parser._actions for o in action.option_strings if o[:2] == "--"}


def verbs() -> dict[str, argparse.ArgumentParser]:
    (action,) = [a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with node records in both places and a session without one."""
    make_tree(
        tmp_path,
        {
            f"/etc/iscsi/nodes/{ALPHA}/10.0.0.1,3260,1/default": "",
            f"/var/lib/iscsi/nodes/{BETA}/10.0.0.1,3260,1/default": "",
            "/sys/class/iscsi_session/session1/targetname": f"{BETA}\n",
            "/sys/class/iscsi_session/session2/targetname": f"{OTHER}\n",
        },
    )
    return tmp_path


def test_every_verb_is_offered_and_nothing_else() -> None:
    assert set(complete("auto-iscsi ")) == set(verbs())
    assert complete("auto-iscsi look") == ["lookup"]
    assert complete("auto-iscsi --root / look") == ["lookup"]
    assert complete("auto-iscsi --root=/ look") == ["lookup"]


def test_every_option_is_offered_and_nothing_else() -> None:
    assert set(complete("auto-iscsi -")) == long_options(cli._parser())
    for verb, parser in verbs().items():
        assert set(complete(f"auto-iscsi {verb} -")) == long_options(parser), verb
        assert set(complete(f"auto-iscsi --root / {verb} --he")) == {"--help"}, verb


@pytest.mark.parametrize("verb", ["lookup", "explain", "explain --json"])
def test_targets_come_from_node_records_and_sessions(root: Path, verb: str) -> None:
    assert complete(f"auto-iscsi --root {root} {verb} iqn") == [ALPHA, BETA]
    assert complete(f"auto-iscsi --root={root} {verb} e") == [OTHER]


def test_a_name_is_completed_after_the_last_colon(root: Path) -> None:
    command = f"auto-iscsi --root {root} explain "
    assert complete(command + "iqn.2001-05.com.equallogic:") == [
        ALPHA.partition(":")[2],
        BETA.partition(":")[2],
    ]
    assert complete(command + BETA[:-4]) == ["00:01"]
    assert complete(command + "iqn.2001-05.com.equallogic:no-such") == []


def test_explain_takes_codes_too() -> None:
    assert set(complete("auto-iscsi explain no-")) == {c for c in codes.table() if c[:3] == "no-"}


def test_explain_and_test_take_the_name_of_a_san(root: Path, tmp_path: Path) -> None:
    (root / "etc/auto.iscsi.san.d").mkdir()
    (root / "etc/auto.iscsi.san.d/eql1.conf").write_text("")
    (tmp_path / "my-array.conf").write_text("")
    assert complete(f"auto-iscsi --root {root} explain eq") == ["eql1"]
    san = f"auto-iscsi --root {root} san test --config my-array"
    assert complete(san, tmp_path) == ["my-array.conf"]
    assert complete(f"{san}.conf e", tmp_path) == ["eql1"]


def test_after_one_target_no_other_is_offered(root: Path) -> None:
    assert complete(f"auto-iscsi --root {root} lookup {ALPHA} ") == []


VOLUME = "vm-beta"
SNAPSHOT = f"iqn.2001-05.com.equallogic:0-8a0906-4a90da503-e2e3e8c1f704be-{VOLUME}"


@pytest.fixture
def snapshots(tmp_path: Path) -> str:
    """The option --root for a machine with node records of two snapshots of one volume."""
    records = [f"{SNAPSHOT}-2010-05-0{day}-04:00:01.50612" for day in (3, 4)]
    make_tree(
        tmp_path, {f"/etc/iscsi/nodes/{name}/10.0.0.1,3260,1/default": "" for name in records}
    )
    return f"--root {tmp_path}"


@pytest.mark.parametrize("verb", ["list", "versions", "cat", "diff", "restore"])
def test_volumes_are_offered_once_each(snapshots: str, verb: str) -> None:
    assert complete(f"auto-iscsi {snapshots} {verb} vm") == [VOLUME]
    assert complete(f"auto-iscsi {snapshots} {verb} nn") == []


@pytest.mark.parametrize("line", ["list --since monday", "versions --jobs 8 --until 2010-05-04"])
def test_the_value_of_an_option_is_not_the_volume(snapshots: str, line: str) -> None:
    assert complete(f"auto-iscsi {snapshots} {line} vm") == [VOLUME]
    option = line.rpartition(" ")[0]
    assert complete(f"auto-iscsi {snapshots} {option} vm") == []
    assert complete(f"auto-iscsi {snapshots} {line} {VOLUME} vm") == []


@pytest.mark.parametrize(("verb", "number"), [("diff", 2), ("restore", 1)])
def test_the_last_arguments_are_files(
    snapshots: str, verb: str, number: int, tmp_path: Path
) -> None:
    (tmp_path / "some.conf").touch()
    line = f"auto-iscsi {snapshots} {verb} {VOLUME}@monday:/etc/passwd"
    for given in range(number):
        assert complete(f"{line} {'some.conf ' * given}so", tmp_path) == ["some.conf"]
    assert complete(f"{line} {'some.conf ' * number}so", tmp_path) == []


def test_files_are_offered_where_a_file_is_expected(tmp_path: Path) -> None:
    (tmp_path / "some.conf").touch()
    (tmp_path / "folder").mkdir()
    for line in ("check so", "check --strict other.conf so", "edit so"):
        assert complete(f"auto-iscsi {line}", tmp_path) == ["some.conf"], line
    assert complete("auto-iscsi edit one.conf so", tmp_path) == []
    assert complete("auto-iscsi --root ", tmp_path) == ["folder"]


def test_in_a_shell_at_a_terminal_the_whole_name_is_inserted(root: Path) -> None:
    # The line and the Tab go to a real bash, whose readline splits words at colons.
    typed = f'source {SCRIPT}\nauto-iscsi() {{ echo "<$4>"; }}\n'
    typed += f"auto-iscsi --root {root} lookup {BETA[:-12]}\t\nexit\n"
    done = subprocess.run(
        ["script", "--quiet", "--command", "bash --norc --noprofile -i", "/dev/null"],
        input=typed,
        env={"PATH": "/usr/bin:/bin", "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert f"<{BETA}>" in done.stdout, done.stdout


def test_a_name_of_a_portals_is_no_command(root: Path, tmp_path: Path) -> None:
    """iscsiadm makes a record of whatever a portal offers; the shell would run what is in it."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    hostile = ["iqn.2001-05.com.example:$(touch${IFS}made)", "iqn.2001-05.com.example:`id>made`"]
    hostile += ["iqn.2001-05.com.example:;touch", "iqn.2001-05.com.example:*", "iqn.x:a b"]
    files = {f"/etc/iscsi/nodes/{name}/10.0.0.1,3260,1/default": "" for name in hostile}
    make_tree(root, {**files, "/sys/class/iscsi_session/session3/targetname": f"{hostile[0]}\n"})
    (root / "etc/auto.iscsi.san.d").mkdir()
    for name in ("good", "$(touch made)"):
        (root / f"etc/auto.iscsi.san.d/{name}.conf").write_text("")
    for verb in ("lookup", "explain"):
        completed = complete(f"auto-iscsi --root {root} {verb} iqn", folder)
        assert not list(folder.iterdir())  # nothing ran
        assert {*completed} == {ALPHA, BETA}
    assert complete(f"auto-iscsi --root {root} san list ", folder) == ["good"]
    assert not list(folder.iterdir())
