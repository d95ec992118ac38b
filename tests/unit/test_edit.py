"""auto-iscsi edit: a text without errors replaces the file in one step; errors never do."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from auto_iscsi.admin import edit
from auto_iscsi.config import config_files
from tests.tree.tree import make_tree

PROJECT = Path(__file__).parents[2]


class Desk:
    """A person who edits: the text that the editor writes at each call, and the answers."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        make_tree(self.root, {config_files.FILE: "lun = 1\n"})
        self.file = self.root / "etc/auto.iscsi.conf"
        self.editor = folder / "editor"
        self.folder = folder

    def edit(self, *texts: str, answers: str = "", **more: str) -> tuple[int, str, str]:
        """Run `auto-iscsi edit` with an editor that writes one text after the other."""
        for number, text in enumerate(texts):
            (self.folder / f"text{number}").write_text(text)
        self.script(
            f"cd {self.folder}; n=$(cat calls 2>/dev/null || echo 0); echo $((n+1)) > calls\n"
            'cp text$n "$1"'
        )
        return self.run(answers, **more)

    def script(self, text: str) -> None:
        self.editor.write_text(f"#!/bin/sh\n{text}\n")
        self.editor.chmod(0o755)

    def run(self, answers: str = "", *arguments: str, **more: str) -> tuple[int, str, str]:
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(**more),
            cwd=PROJECT,
            input=answers,
            capture_output=True,
            text=True,
        )
        assert [path.name for path in self.file.parent.iterdir()] == ["auto.iscsi.conf"]
        assert not list((self.folder / "tmp").iterdir())
        return done.returncode, done.stdout, done.stderr

    def command(self, *arguments: str) -> list[str]:
        (self.folder / "tmp").mkdir(exist_ok=True)
        return [sys.executable, "-m", "auto_iscsi", "--root", str(self.root), "edit", *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        words = {"PATH": "/usr/bin:/bin", "TMPDIR": str(self.folder / "tmp")}
        return {**words, "SUDO_EDITOR": str(self.editor), **more}


def identity(path: Path) -> tuple[int, int, int]:
    """Return values that differ if the file was replaced or changed."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_text_without_errors_replaces_the_file(desk: Desk) -> None:
    os.chmod(desk.file, 0o640)
    before = desk.file.stat()
    status, out, err = desk.edit("lun = 2\n")
    assert (status, err) == (0, "") and out == f"{desk.file}: changed\n"
    assert desk.file.read_text() == "lun = 2\n"
    after = desk.file.stat()
    assert after.st_ino != before.st_ino and stat.S_IMODE(after.st_mode) == 0o640


def test_owner_and_mode_stay(desk: Desk) -> None:
    if os.geteuid():
        pytest.skip("needs root, to have a file of somebody else's")
    os.chown(desk.file, 65534, 1234)
    os.chmod(desk.file, 0o604)
    assert desk.edit("lun = 2\n")[0] == 0
    after = desk.file.stat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (65534, 1234, 0o604)


def test_a_text_with_errors_can_be_mended(desk: Desk) -> None:
    status, out, _ = desk.edit("lun = x\n", "lun = 3\n", answers="?\ne\n")
    assert status == 0 and desk.file.read_text() == "lun = 3\n"
    assert f"{desk.file}:1: error: lun: expected a number" in out
    assert out.count("What now?") == 2


@pytest.mark.parametrize("answers", ["x\n", "", "q\nX\n"], ids=["x", "end of input", "q, X"])
def test_a_text_with_errors_is_never_installed(desk: Desk, answers: str) -> None:
    before = identity(desk.file)
    status, out, _ = desk.edit("[*\n", answers=answers)
    assert status == 1 and out.endswith(f"{desk.file}: not changed\n")
    assert identity(desk.file) == before and desk.file.read_text() == "lun = 1\n"


def test_warnings_are_shown_and_do_not_prevent_the_change(desk: Desk) -> None:
    status, out, _ = desk.edit("[vm]\nlun = 2\n")
    assert status == 0 and f"{desk.file}:1: warning: [vm]" in out


def test_the_other_files_count_but_their_errors_do_not_prevent_the_change(desk: Desk) -> None:
    # `run` allows no other file beside the configuration, so the drop-ins are elsewhere.
    elsewhere = desk.folder / "drop-ins"
    make_tree(elsewhere, {"a.conf": "lun = x\n[*]\nfstype = xfs\n"})
    os.symlink(elsewhere, desk.file.parent / "auto.iscsi.conf.d")
    done = desk_run_with_drop_ins(desk, "[eui.*]\nfstype = ext4\n")
    assert done.returncode == 0
    assert f"{desk.file}:1: warning: [eui.*]: no effect" in done.stdout
    assert f"{config_files.FOLDER}/a.conf:1: error: lun" in done.stdout


def desk_run_with_drop_ins(desk: Desk, text: str) -> subprocess.CompletedProcess[str]:
    desk.script(f"printf '{text}' > \"$1\"")
    return subprocess.run(
        desk.command(),
        env=desk.environment(),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_nothing_is_written_when_nothing_was_changed(desk: Desk) -> None:
    before = identity(desk.file)
    status, out, _ = desk.edit("lun = 1\n")
    assert (status, out) == (0, f"{desk.file}: not changed\n")
    assert identity(desk.file) == before


def test_an_editor_that_fails_changes_nothing(desk: Desk) -> None:
    desk.script('echo "lun = 2" > "$1"; exit 3')
    status, _, err = desk.run()
    assert status == 1 and "ended with status 3" in err
    assert desk.file.read_text() == "lun = 1\n"


def test_a_missing_editor_is_reported(desk: Desk) -> None:
    status, _, err = desk.run(SUDO_EDITOR="/no/such/editor")
    assert status == 1 and "/no/such/editor" in err


def test_the_editor_is_chosen_as_sudo_chooses_it(desk: Desk) -> None:
    desk.script('echo "$@" | sed "s,/[^ ]*/,," > ' + f"{desk.folder}/called")
    desk.run(SUDO_EDITOR="", VISUAL=f"{desk.editor} -v", EDITOR="false")
    assert (desk.folder / "called").read_text() == "-v auto.iscsi.conf\n"


def test_an_editor_that_replaces_the_draft_works(desk: Desk) -> None:
    desk.script('echo "lun = 2" > "$1.x"; mv "$1.x" "$1"; touch "$1~"')
    assert desk.run()[0] == 0
    assert desk.file.read_text() == "lun = 2\n"


def test_what_somebody_else_changed_meanwhile_is_not_overwritten(desk: Desk) -> None:
    desk.script(f'echo "lun = 2" > "$1"; echo "lun = 3" > {desk.file}')
    done = subprocess.run(
        desk.command(),
        env=desk.environment(),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1 and "somebody else changed it" in done.stderr
    assert desk.file.read_text() == "lun = 3\n"
    (kept,) = (desk.folder / "tmp").iterdir()
    assert str(kept) in done.stderr and kept.read_text() == "lun = 2\n"


def test_a_second_edit_at_the_same_time_is_refused(desk: Desk) -> None:
    desk.script(f'cat {desk.folder}/pipe >/dev/null; echo "lun=2" >"$1"')
    os.mkfifo(desk.folder / "pipe")
    options: dict[str, Any] = {"env": desk.environment(), "cwd": PROJECT}
    first = subprocess.Popen(desk.command(), stdout=subprocess.DEVNULL, **options)
    with open(desk.folder / "pipe", "wb"):  # waits until the first editor reads
        second = subprocess.run(desk.command(), capture_output=True, text=True, **options)
    assert first.wait() == 0
    assert second.returncode == 1 and "somebody else is editing it" in second.stderr
    assert desk.file.read_text() == "lun=2\n"
    assert desk.edit("lun = 4\n")[0] == 0


def test_a_link_stays_a_link(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("lun = 1\n")
    desk.file.unlink()
    desk.file.symlink_to(tmp_path / "real")
    assert desk.edit("lun = 2\n")[0] == 0
    assert desk.file.is_symlink() and (tmp_path / "real").read_text() == "lun = 2\n"


def test_a_missing_file_is_created(desk: Desk) -> None:
    desk.file.unlink()
    assert desk.edit("lun = 2\n")[0] == 0
    assert stat.S_IMODE(desk.file.stat().st_mode) == 0o644


def test_a_missing_folder_is_named_with_the_command_that_makes_it(desk: Desk) -> None:
    drop_in = desk.root / "etc/auto.iscsi.conf.d/vm.conf"
    status, _, complaint = desk.run("", str(drop_in))
    assert status == 1 and f"to do: mkdir {drop_in.parent}\n" in complaint


def test_ctrl_c_belongs_to_the_editor(desk: Desk) -> None:
    desk.script('trap "echo lun = 5 > $1; exit 0" INT; kill -INT $PPID $$; sleep 5; exit 9')
    assert desk.run()[0] == 0
    assert desk.file.read_text() == "lun = 5\n"


def test_another_file_is_checked_by_itself(desk: Desk, tmp_path: Path) -> None:
    desk.script('echo "fstype = xfs" > "$1"')
    other = tmp_path / "draft.conf"
    assert desk.run("", str(other))[0] == 0 and other.read_text() == "fstype = xfs\n"


def test_nobody_reads_a_private_file_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "array.conf"
    path.write_text("before")
    path.chmod(0o600)
    modes, has_ended = set(), threading.Event()

    def watch() -> None:
        while not has_ended.is_set():
            with contextlib.suppress(FileNotFoundError):
                modes.add(stat.S_IMODE(os.stat(f"{path}.new").st_mode))

    watcher = threading.Thread(target=watch)
    watcher.start()
    edit._install(b"x" * (1 << 26), str(path))
    has_ended.set()
    watcher.join()
    assert modes == {0o600}
