"""Are the packages the same when they are built elsewhere, and do the programs start?"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.program import sources

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("auto.iscsi", "auto-iscsi")
#: None of these may change the packages. In Estonian, z comes before t.
ELSEWHERE = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "et_EE.UTF-8",
    "TZ": "Pacific/Kiritimati",
    "PYTHONOPTIMIZE": "2",
    "PYTHONHASHSEED": "7",
    "SOURCE_DATE_EPOCH": "86400",
    "DEB_BUILD_OPTIONS": "parallel=3",
    # faketime leaves the times of files alone, which make compares.
    "NO_FAKE_STAT": "1",
}
DATE = "2031-02-03 04:05:06"


def run(*command: str | Path, **how: Any) -> str:
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


def test_a_second_build_has_the_same_bytes(tmp_path: Path) -> None:
    """The second build has another folder, umask, time zone, locale and date."""
    run("localedef", "-i", "et_EE", "-f", "UTF-8", tmp_path / "et_EE.UTF-8")
    environment = {**ELSEWHERE, "LOCPATH": str(tmp_path)}
    names = run("sh", "-c", "printf 't\nz\n' | sort", env=environment)
    assert names.split()[:2] == ["z", "t"], "the locale is not Estonian"
    folder = sources.copy_to(tmp_path / "folder")
    # Without a network, too: the build needs nothing from outside.
    make = ("unshare", "--net", "faketime", DATE, "make", "deb", "rpm")
    run(*make, cwd=folder, env=environment, umask=0o077)
    for kind in ("deb", "rpm"):
        [second] = (folder / "dist").glob(f"*.{kind}")
        assert second.read_bytes() == (ROOT / "dist" / second.name).read_bytes(), kind


def test_the_map_starts_through_links(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_starts_the_system_s_python_isolated_from_the_caller(program: str) -> None:
    path = ROOT / "dist" / program
    # -B: a lookup writes no byte-code. -S: the map adds the folders of the distribution's libraries
    # only when it needs one.
    options = b"-BIS" if program == "auto.iscsi" else b"-BI"
    assert path.read_bytes().startswith(b"#!/usr/bin/python3 " + options + b"\n")
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return the folder in which `make install` put everything, without byte-code."""
    # With a DESTDIR, `make install` makes no byte-code and tells systemd nothing.
    where = (f"PREFIX={tmp_path}", f"sysconfdir={tmp_path}/etc")
    run("make", "install", "DESTDIR=/.", *where, cwd=ROOT)
    assert not list(tmp_path.rglob("*.pyc"))
    return tmp_path


def code_of_modules(installed: Path) -> dict[str, str]:
    """Return, by module of a lookup, the suffix of the file that Python loaded: .py or .pyc."""
    modules = installed / "share/auto-iscsi"
    code = f"import sys; sys.path.insert(0, {str(modules)!r}); import auto_iscsi.map.lookup"
    lines = run("/usr/bin/python3", "-v", "-BIS", "-c", code).splitlines()
    begin = "# code object from "
    files = [Path(line[len(begin) :].strip("'")) for line in lines if line.startswith(begin)]
    return {path.name.split(".")[0]: path.suffix for path in files if modules in path.parents}


def test_byte_code_of_the_hosts_python_is_used_and_no_other(installed: Path) -> None:
    modules = installed / "share/auto-iscsi/auto_iscsi"
    sources = code_of_modules(installed)
    assert {"lookup", "keys", "errors"} <= set(sources)
    assert set(sources.values()) == {".py"}
    assert not list(modules.rglob("*.pyc")), "a lookup wrote byte-code"
    run("/usr/bin/python3", "-m", "compileall", "-q", modules)
    assert set(code_of_modules(installed).values()) == {".pyc"}
    # Byte-code of another build: the module has changed since.
    os.utime(modules / "keys.py", (10**9, 10**9))
    # Byte-code of another Python: the first two bytes are the number of its format.
    [errors] = modules.glob("__pycache__/errors.*.pyc")
    errors.write_bytes(b"\0\0\r\n" + errors.read_bytes()[4:])
    others = {name for name, kind in code_of_modules(installed).items() if kind == ".py"}
    assert others == {"keys", "errors"}
    command: list[str | Path] = [installed / "libexec/auto-iscsi/auto.iscsi", "foo"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not an iSCSI target name" in done.stderr
