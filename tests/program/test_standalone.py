"""The standalone programs contain their libraries, and need only a Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tree.machine import VOL1, Machine

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "dist/standalone"
PROGRAMS = ("auto.iscsi", "auto-iscsi")


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if not all((BUILT / name).exists() for name in PROGRAMS):
        pytest.fail("make standalone", pytrace=False)


@pytest.fixture
def bare() -> Iterator[list[str]]:
    """The command of a Python without any site-packages."""
    command = [sys.executable, "-I", "-S"]
    missing = "import sys; assert not [p for p in sys.path if 'packages' in p]"
    subprocess.run([*command, "-c", missing], check=True)
    yield command


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine whose SAN has nothing yet."""
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-") as folder:
        made = Machine(Path(folder))
        try:
            yield made
        finally:
            made.close()


def test_a_lookup_works_without_any_installed_library(machine: Machine, bare: list[str]) -> None:
    # It needs all three: configobj for the file, sh for iscsiadm, pyudev to wait for the disk.
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}\nfstype = ext4\n")
    ours = [*bare, str(BUILT / "auto-iscsi"), "--root", str(machine.root), "lookup", VOL1]
    done = subprocess.run(ours, cwd="/", env={}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == machine.entry(VOL1, portal).replace("ext3", "ext4") + "\n"
    assert machine.runs("--login")


def test_the_standalone_map_refuses_a_wrong_key(bare: list[str]) -> None:
    done = subprocess.run([*bare, BUILT / "auto.iscsi", "foo"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not an iSCSI target name" in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_contains_the_pinned_libraries_and_their_licences(program: str) -> None:
    pins = [
        line.split()[0]
        for line in (ROOT / "tools/libraries.txt").read_text().splitlines()
        if line[0] != "#"
    ]
    with zipfile.ZipFile(BUILT / program) as archive:
        names = archive.namelist()
        licences = {name.split("/")[1] for name in names if name.startswith("licenses/")}
        assert licences == {"auto-iscsi", *(pin.replace("==", "-") for pin in pins)}
        for name in names:
            assert not name.startswith("licenses/") or len(archive.read(name)) > 500, name
    assert {"configobj/__init__.py", "pyudev/__init__.py", "sh.py"} <= set(names)
    rest = [name for name in names if name[:9] != "licenses/" and not name.endswith("/METADATA")]
    assert all(name.endswith((".py", ".pyc")) for name in rest)


def test_doctor_reports_the_libraries_inside_the_program(bare: list[str]) -> None:
    ours = [*bare, str(BUILT / "auto-iscsi"), "doctor"]
    output = subprocess.run(ours, capture_output=True, text=True).stdout
    (line,) = [line for line in output.splitlines() if " libraries " in line]
    assert line.startswith("ok ") and "configobj 5.0.9" in line, line


def test_each_library_comes_from_the_program_even_where_the_host_has_it() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(BUILT / 'auto-iscsi')!r})\n"
        "import configobj, pyudev, sh; print(configobj.__file__, pyudev.__file__, sh.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert all(path.startswith(str(BUILT)) for path in done.stdout.split())


def test_a_second_build_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("auto_iscsi", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "LICENSE", tmp_path)
    shutil.copytree(ROOT / "build/libraries", tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").rglob("*"):
        os.utime(path, (10**9, 10**9))
    subprocess.run(
        [
            "/usr/bin/python3",
            "-B",
            "-S",
            "tools/build_zipapp.py",
            "admin.cli",
            "again",
            "/usr/bin/python3",
            "elsewhere",
        ],
        cwd=tmp_path,
        check=True,
        umask=0o077,
    )
    assert (tmp_path / "again").read_bytes() == (BUILT / "auto-iscsi").read_bytes()
