"""Restoring with a real rsync: what is copied, what stays, and what is kept beside it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.admin import output, restore_report
from auto_iscsi.restore import restoring
from auto_iscsi.san.catalogue import Entry

if not shutil.which("rsync"):
    pytest.skip("needs rsync", allow_module_level=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    inside = tmp_path / "snapshot"
    (inside / "etc").mkdir(parents=True)
    (inside / "etc/passwd").write_text("old")
    (inside / "etc/link").symlink_to("/etc/shadow")
    os.mkfifo(inside / "etc/fifo")
    (inside / "etc/secret").write_text("s")
    (inside / "etc/secret").chmod(0o600)
    handle = os.open(inside, os.O_RDONLY)
    yield handle
    os.close(handle)


def restore(folder: int, name: str, destination: object, **changed: bool) -> restoring.Restored:
    settings = {"overwrite": False, "backup": True, "dry_run": False, **changed}
    options = restoring.Options(str(destination), **settings)
    return restoring.restore_from(folder, name, f"/{name}", options, lambda _: None)


def test_a_directory_as_it_was(folder: int, tmp_path: Path) -> None:
    done = restore(folder, "etc", tmp_path / "new")
    assert done == restoring.Restored(("link", "passwd", "secret"), (), "", (), ("fifo",))
    assert (tmp_path / "new/passwd").read_text() == "old"
    assert os.readlink(tmp_path / "new/link") == "/etc/shadow"
    assert stat.S_IMODE((tmp_path / "new/secret").stat().st_mode) == 0o600
    assert not (tmp_path / "new/fifo").exists()
    # A directory that is there gets it under its own name, and the second time all is there.
    assert restore(folder, "etc", tmp_path / "new").changes == ("link", "passwd", "secret")
    assert (tmp_path / "new/etc/passwd").read_text() == "old"
    assert restore(folder, "etc", tmp_path / "new").changes == ()


def test_what_differs_stays_and_is_named(folder: int, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/etc").mkdir()
    (tmp_path / "new/etc/passwd").write_text("mine")
    done = restore(folder, "etc", tmp_path / "new")
    assert (done.changes, done.kept) == (("link", "secret"), ("passwd",))
    assert (tmp_path / "new/etc/passwd").read_text() == "mine"
    done = restore(folder, "etc", tmp_path / "new", overwrite=True)
    assert (done.changes, done.kept, done.differs) == (("passwd",), (), ())
    assert (tmp_path / "new/etc/passwd").read_text() == "old"
    assert (tmp_path / f"new/etc/passwd{done.suffix}").read_text() == "mine"


def test_it_is_said_how_far_a_restore_is(folder: int, tmp_path: Path) -> None:
    (tmp_path / "snapshot/etc/large").write_bytes(bytes(3 << 20))
    said: list[str] = []
    options = restoring.Options(str(tmp_path / "new"), overwrite=False, backup=True, dry_run=False)
    restoring.restore_from(folder, "etc", "/etc", options, said.append)
    assert said[0] == f"comparing /etc with {tmp_path}/new"
    assert any(text.startswith("restoring file 4 of 4, 3 MiB") for text in said)
    assert said[-1].endswith("once more")


def test_an_rsync_that_is_killed_is_named(
    folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "bin/rsync"
    killed.parent.mkdir()
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setenv("PATH", f"{killed.parent}:{os.environ['PATH']}")
    with pytest.raises(errors.Failure, match=r"rsync to .*/new: ended by signal 9"):
        restore(folder, "etc", tmp_path / "new")


def test_an_interrupted_restore_leaves_no_rsync_behind(
    folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`timeout -s INT` and kill(1) interrupt only us, and rsync would keep the snapshot in use."""
    slow = tmp_path / "bin/rsync"
    slow.parent.mkdir()
    slow.write_text(
        "#!/bin/sh\n"
        f"case $* in *progress*) echo $$ >{slow}.pid; echo '>f+ a'; exec sleep 60; esac\n"
        f'exec {shutil.which("rsync")} "$@"\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")

    def interrupt(text: str) -> None:
        if text.startswith("restoring"):
            raise KeyboardInterrupt

    options = restoring.Options(str(tmp_path / "new"), overwrite=False, backup=True, dry_run=False)
    with pytest.raises(KeyboardInterrupt):
        restoring.restore_from(folder, "etc", "/etc", options, interrupt)
    pid = int(Path(f"{slow}.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_dry_run_changes_nothing(folder: int, tmp_path: Path) -> None:
    assert restore(folder, "etc", tmp_path / "new", dry_run=True).changes
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_is_refused(folder: int, tmp_path: Path) -> None:
    with pytest.raises(errors.Failure, match="no such directory"):
        restore(folder, "etc", tmp_path / "none/deeper")
    with pytest.raises(errors.Failure, match="no place"):
        restore(folder, "etc", "host:")


def test_no_link_at_the_destination_is_followed(folder: int, tmp_path: Path) -> None:
    """Whoever owns the destination's directory can put a link there: root would write elsewhere."""
    (tmp_path / "snapshot/etc/cron.d").mkdir()
    (tmp_path / "snapshot/etc/cron.d/job").write_text("evil")
    victim = tmp_path / "victim"
    victim.mkdir()
    inside, whole, alone = (tmp_path / name for name in ("inside", "whole", "alone"))
    for each in (inside, whole, alone):
        each.mkdir()
    (inside / "etc").mkdir()
    (inside / "etc/cron.d").symlink_to(victim)  # in the place of a directory in the tree
    (whole / "etc").symlink_to(victim)  # in the place of the tree
    (alone / "passwd").symlink_to(victim)  # in the place of a file
    for name, place in (("etc", inside), ("etc", whole), ("etc/passwd", alone)):
        for dry_run in (True, False):
            with pytest.raises(errors.Failure, match="symbolic link"):
                restore(folder, name, f"{place}/", dry_run=dry_run)
    for name, place in (("etc", whole), ("etc/passwd", alone)):
        with pytest.raises(errors.Failure, match="symbolic link"):
            restore(folder, name, place, overwrite=True)
    assert not list(victim.iterdir())
    # rsync replaces a link in the tree where it may overwrite, and does not follow it.
    done = restore(folder, "etc", inside, overwrite=True)
    assert (inside / "etc/cron.d/job").read_text() == "evil"
    assert os.readlink(f"{inside}/etc/cron.d{done.suffix}") == str(victim)
    assert not list(victim.iterdir())


def test_a_link_to_a_file_is_kept_or_replaced(folder: int, tmp_path: Path) -> None:
    place, file = tmp_path / "place", tmp_path / "file"
    place.mkdir()
    file.write_text("mine")
    (place / "passwd").symlink_to(file)
    assert restore(folder, "etc/passwd", place).kept == ("passwd",)
    assert os.readlink(place / "passwd") == str(file)
    assert restore(folder, "etc/passwd", place, overwrite=True).changes == ("passwd",)
    assert (place / "passwd").read_text() == "old" and not (place / "passwd").is_symlink()
    assert file.read_text() == "mine"


def test_no_link_on_another_host_is_followed(
    folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("RSYNC_RSH", str(ssh))
    place, victim = tmp_path / "place", tmp_path / "victim"
    place.mkdir()
    victim.mkdir()
    assert restore(folder, "etc", f"web1:{place}/").changes == ("link", "passwd", "secret")
    shutil.rmtree(place / "etc")
    (place / "etc").symlink_to(victim)
    (place / "passwd").symlink_to(victim)
    for name in ("etc", "etc/passwd"):
        with pytest.raises(errors.Failure, match="symbolic link"):
            restore(folder, name, f"web1:{place}/")
    assert not list(victim.iterdir())


def test_the_name_of_a_file_is_no_line_of_rsyncs(folder: int, tmp_path: Path) -> None:
    (tmp_path / "snapshot/etc/a\u2028>f+++++++++ shadow").write_text("x")
    names = restore(folder, "etc", tmp_path / "new").changes
    assert "shadow" not in names and len(names) == 4


def test_what_ssh_says_is_the_reason_without_its_frame(
    folder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    frame, says = "@" * 59, "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @"
    ssh.write_text(f"#!/bin/sh\nprintf '%s\\n' '{frame}' '{says}' '{frame}' >&2\nexit 255\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("RSYNC_RSH", str(ssh))
    with pytest.raises(errors.Failure) as refused:
        restore(folder, "etc/passwd", "web1:/root/")
    assert refused.value.reason.endswith(": WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!")
    assert refused.value.hint == "ssh web1 rsync --version"


def test_what_is_no_file_is_left_out_and_named(folder: int, tmp_path: Path) -> None:
    """A restore that lacks something says so: whoever reads it takes it for the whole tree."""
    done = restore(folder, "etc", tmp_path / "new")
    assert done.left_out == ("fifo",)
    assert restore(folder, "etc", tmp_path / "other", dry_run=True).left_out == ("fifo",)
    with pytest.raises(errors.Failure, match="neither a file nor a directory") as refused:
        restore(folder, "etc/fifo", tmp_path / "alone")
    assert "restore /etc:" in refused.value.hint


def test_the_last_line_says_what_was_done(folder: int, tmp_path: Path) -> None:
    time = datetime(2010, 5, 3, 4, 0, 1, tzinfo=timezone.utc)
    entry = Entry("vm-beta", time, "iqn.2001-05.com.example:vm-beta", False, "")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/passwd").write_text("mine")
    options = restoring.Options(f"{tmp_path}/new/", False, True, False)

    def report(name: str) -> output.Report:
        done = restoring.restore_from(folder, name, f"/{name}", options, lambda _: None)
        return restore_report.tell(entry, f"/{name}", options, done, output.Paint(False))

    secret, passwd, tree = report("etc/secret"), report("etc/passwd"), report("etc")
    shown = f"1 file of vm-beta of 2010-05-03 04:00:01 to {tmp_path}/new/"
    assert (secret.status, secret.lines[-1]) == (0, f"restored {shown}")
    assert passwd.status == 1 and passwd.lines[-1].endswith("/new/; 1 not overwritten")
    assert tree.status == 0 and tree.lines[-1].endswith("/new/; 1 left out")
    assert "left out: fifo (a device, FIFO or socket)" in tree.lines
    assert tree.data["left_out"] == ("fifo",)
