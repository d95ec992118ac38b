"""Is a program the same bytes wherever it is built, with our code in it and nothing else?"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("auto.iscsi", "auto-iscsi")
#: Nothing of these may show in what is built. In Estonian, names have another order: z before t.
ELSEWHERE = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "et_EE.UTF-8",
    "TZ": "Pacific/Kiritimati",
    "PYTHONOPTIMIZE": "2",
    "PYTHONHASHSEED": "7",
    "SOURCE_DATE_EPOCH": "86400",
    "DEB_BUILD_OPTIONS": "parallel=3",
    # What is compared with other files' times goes by these as they are.
    "NO_FAKE_STAT": "1",
}
DATE = "2031-02-03 04:05:06"


def copied(to: Path) -> Path:
    """Return a copy of what is built from, with other times and modes, and names turned round."""
    sources = [
        "Makefile",
        "LICENSE",
        "NEWS",
        "README.md",
        "setup.cfg",
        "auto_iscsi",
        "etc",
        "man",
        "debian",
        "rpm",
        "tools",
    ]
    to.mkdir(parents=True)
    for name in reversed(sources):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, to / name)
    for path in to.rglob("*"):
        os.utime(path, (10**9, 10**9))
    (to / "tests").mkdir()
    (to / "tests/prepare").write_text("#!/bin/sh\n")
    (to / "tests/prepare").chmod(0o755)
    return to


def said(*command: str | Path, **how: Any) -> str:
    done = subprocess.run(
        command,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **how,
    )
    assert not done.returncode, done.stdout[-5000:]
    return str(done.stdout)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second build: another folder, umask, time zone, locale, date."""
    top = tmp_path_factory.mktemp("far")
    said("localedef", "-i", "et_EE", "-f", "UTF-8", top / "et_EE.UTF-8")
    there = {**ELSEWHERE, "LOCPATH": str(top)}
    names = said("sh", "-c", "printf 't\nz\n' | sort", env=there)
    assert names.split()[:2] == ["z", "t"], "this is no other locale"
    folder = copied(top / "folder")
    # And without a network: all that it takes is on this machine.
    said(
        "unshare",
        "--net",
        "faketime",
        DATE,
        "make",
        "build",
        "deb",
        "rpm",
        cwd=folder,
        env=there,
        umask=0o077,
    )
    return folder / "dist"


@pytest.mark.parametrize("program", PROGRAMS)
def test_two_builds_are_one(program: str, elsewhere: Path) -> None:
    assert (elsewhere / program).read_bytes() == (ROOT / "dist" / program).read_bytes()


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_two_packages_are_one(kind: str, elsewhere: Path) -> None:
    [second] = elsewhere.glob(f"*.{kind}")
    assert second.read_bytes() == (ROOT / "dist" / second.name).read_bytes()


def test_it_holds_our_modules_as_source_and_compiled_and_nothing_else() -> None:
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "auto_iscsi").rglob("*.py")}
    wanted = {"__main__.py", *ours}
    with zipfile.ZipFile(ROOT / "dist/auto-iscsi") as archive:
        assert set(archive.namelist()) == {*wanted, *(f"{name}c" for name in wanted)}
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED, entry.filename
        for name in ours:
            assert archive.read(name) == (ROOT / name).read_bytes()


def test_the_map_is_found_through_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "one").symlink_to(ROOT / "dist/auto.iscsi")
    (tmp_path / "a/two").symlink_to("../one")
    for command, cwd in (
        (tmp_path / "a/two", "/"),
        ("./two", tmp_path / "a"),
        ("a/two", tmp_path),
        ("./auto.iscsi", ROOT / "dist"),
    ):
        done = subprocess.run([command, ".git"], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 1 and "not an iSCSI target name" in done.stderr


def test_the_compiled_modules_are_taken_as_they_are() -> None:
    with zipfile.ZipFile(ROOT / "dist/auto-iscsi") as archive:
        for name in archive.namelist():
            if name.endswith(".pyc"):
                head = archive.read(name)[:8]
                assert head[:4] == importlib.util.MAGIC_NUMBER, name
                assert int.from_bytes(head[4:], "little") == 1, f"{name}: not unchecked-hash"


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_starts_the_python_of_the_system_shut_off_from_the_caller(program: str) -> None:
    path = ROOT / "dist" / program
    # The map without what the distribution installed, too, as long as it does not need it.
    options = b"-IS" if program == "auto.iscsi" else b"-I"
    assert path.read_bytes().startswith(b"#!/usr/bin/python3 " + options + b"\n")
    assert path.stat().st_mode & 0o777 == 0o755


def test_another_python_runs_the_source(tmp_path: Path) -> None:
    # As on a host whose Python is not the one that built it: no .pyc fits there.
    program = tmp_path / "auto-iscsi"
    with zipfile.ZipFile(ROOT / "dist/auto-iscsi") as archive, open(program, "wb") as stream:
        stream.write(b"#!/usr/bin/python3 -I\n")
        with zipfile.ZipFile(stream, "w") as other:
            for name in archive.namelist():
                content = archive.read(name)
                compiled = name.endswith("c") or name == "bundle"
                other.writestr(name, b"\0\0\r\n" + content[4:] if compiled else content)
    program.chmod(0o755)
    for command in ([program, "lookup"], [shutil.copy(ROOT / "dist/auto.iscsi", tmp_path)]):
        done = subprocess.run([*command, "foo"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert "not an iSCSI target name" in done.stderr
