"""The packages have the right files, modes and dependencies."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import auto_iscsi
from tests.program.packaged_files import FILES, ROOT

DEB = ROOT / f"dist/auto-iscsi_{auto_iscsi.__version__}_all.deb"
RPM = ROOT / f"dist/auto-iscsi-{auto_iscsi.__version__}.noarch.rpm"

#: dh_python3 adds it: it makes byte-code for a new Python.
DEBIAN_HOOK = "/usr/share/python3/runtime.d/auto-iscsi.rtupdate"
DEBIAN_DOCS = {"NEWS", "README.md", "san-driver.md", "changelog", "copyright"}


def run(*command: str) -> str:
    if not shutil.which(command[0]):
        pytest.fail(f"{command[0]} is not installed: tests/prepare test", pytrace=False)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def control(field: str) -> str:
    return run("dpkg-deb", "--field", str(DEB), field).strip()


def deb_files() -> dict[str, str]:
    """Return path → mode and link; without .gz, and with /usr/lib for /lib."""
    files = {}
    for line in run("dpkg-deb", "--contents", str(DEB)).splitlines():
        mode, owner, _, _, _, name = line.split(None, 5)
        assert owner == "root/root", line
        if mode[0] != "d":
            path, _, link = name[1:].partition(" -> ")
            path = re.sub("^/lib/", "/usr/lib/", path)
            files[path.removesuffix(".gz")] = f"{mode} {link}".strip()
    return files


def test_the_debian_package_has_these_files_and_modes() -> None:
    docs, lintian = "/usr/share/doc/auto-iscsi/", "/usr/share/lintian/overrides/auto-iscsi"
    files = deb_files()
    assert files.pop(lintian) == "-rw-r--r--"
    assert files.pop(DEBIAN_HOOK) == "-rwxr-xr-x"
    examples = {f"examples/{path.name}" for path in (ROOT / "etc").glob("*.rules")}
    shown = {name[len(docs) :] for name in files if name.startswith(docs)}
    assert shown == DEBIAN_DOCS | examples
    assert {name: mode for name, mode in files.items() if not name.startswith(docs)} == FILES


def test_the_folders_of_the_package_are_readable_for_all() -> None:
    listing = run("dpkg-deb", "--contents", str(DEB)).splitlines()
    assert {line.split()[0] for line in listing if line[0] == "d"} == {"drwxr-xr-x"}


def test_only_configuration_and_cron_line_are_conffiles() -> None:
    # The master line is none, because it depends on the host (tools/join-automount).
    assert run("dpkg-deb", "--info", str(DEB), "conffiles").split() == [
        "/etc/auto.iscsi.conf",
        "/etc/cron.d/auto-iscsi",
    ]


def test_the_programs_and_modules_of_the_package_are_those_of_the_clone(tmp_path: Path) -> None:
    run("dpkg-deb", "--extract", str(DEB), str(tmp_path))
    for program in ("auto.iscsi", "auto-iscsi"):
        packed = tmp_path / "usr/libexec/auto-iscsi" / program
        assert packed.read_bytes() == (ROOT / "tools" / program).read_bytes()
    for module in (ROOT / "auto_iscsi").rglob("*.py"):
        packed = tmp_path / "usr/share/auto-iscsi" / module.relative_to(ROOT)
        assert packed.read_bytes() == module.read_bytes()


def test_the_package_depends_on_each_library_and_contains_none() -> None:
    dependencies = [dependency.split()[0] for dependency in control("Depends").split(", ")]
    assert dependencies == [
        "autofs",
        "dmsetup",
        "iproute2",
        "open-iscsi",
        "passwd",
        "python3",
        "python3-configobj",
        "python3-pyudev",
        "python3-sh",
        "sensible-utils",
        "tzdata",
        "python3:any",  # dh_python3's
    ]


def test_lintian_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # it leaves a file there
    assert run("lintian", "--info", "--display-info", "--pedantic", "--allow-root", str(DEB)) == ""


def test_rpmlint_finds_nothing() -> None:
    config = str(ROOT / "rpm/rpmlint.toml")
    assert " 0 errors, 0 warnings" in run("rpmlint", "-c", config, str(RPM))


def test_the_rpm_has_the_same_files() -> None:
    form = "[%{FILENAMES} %{FILEMODES:perms} %{FILELINKTOS} %{FILEFLAGS:fflags}|\n]"
    files = {}
    for line in run("rpm", "-qp", "--qf", form, str(RPM)).splitlines():
        path, mode, link = line.split("|")[0].split(" ")[:3]
        if mode[0] != "d" and not re.match("/usr/share/(doc|licenses)/", path):
            files[path.removesuffix(".gz")] = f"{mode} {link}".strip()
    # rpm owns the master line, which join-automount writes.
    assert files == {**FILES, "/etc/auto.master.d/iscsi.autofs": "-rw-r--r--"}


def test_cron_runs_the_reaper_without_systemd_and_prints_nothing_after_the_removal(
    tmp_path: Path,
) -> None:
    [line] = [text for text in (ROOT / "etc/cron").read_text().splitlines() if " root " in text]
    when, command = line.split(" root ")
    assert when == "*/5 * * * *" and command.count("/usr/sbin/auto-iscsi") == 2
    program, systemd = tmp_path / "auto-iscsi", tmp_path / "systemd"
    command = command.replace("/usr/sbin/auto-iscsi", str(program))
    command = command.replace("/run/systemd/system", str(systemd))
    assert run("/bin/sh", "-c", command) == ""  # removed, not purged
    program.write_text('#!/bin/sh\necho "$*"\n')
    program.chmod(0o755)
    assert run("/bin/sh", "-c", command) == "reap --quiet\n"
    systemd.mkdir()
    assert run("/bin/sh", "-c", command) == ""
