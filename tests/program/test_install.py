"""`make install` puts the packages' files below a prefix, and `make uninstall` removes them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.program.packaged_files import FILES

ROOT = Path(__file__).resolve().parents[2]


def make(*words: str, umask: int = 0o022) -> str:
    """Run make with what is built already, and return its output."""
    return subprocess.run(
        ["make", *words], cwd=ROOT, check=True, umask=umask, text=True, stdout=subprocess.PIPE
    ).stdout


def installed(root: Path) -> dict[str, bytes]:
    """Return the files and links below a folder: path → content, or where the link leads."""
    return {
        f"/{path.relative_to(root)}": (
            str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        )
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local", "/opt/x"])
def test_install_puts_the_packages_files_below_a_prefix_and_uninstall_removes_them(
    tmp_path: Path, prefix: str
) -> None:
    where = (f"DESTDIR={tmp_path}", f"PREFIX={prefix}")
    make("install", *where, umask=0o077)
    files = installed(tmp_path)
    # systemd does not look below /opt.
    units = "/etc" if prefix == "/opt/x" else f"{prefix}/lib"
    examples = {name for name in files if name.startswith(f"{prefix}/share/doc/auto-iscsi/")}
    expected = {re.sub("^/usr/(?!lib/)", f"{prefix}/", name) for name in FILES}
    assert set(files) - examples == {re.sub("^/usr/lib/", f"{units}/", name) for name in expected}
    assert {Path(name).suffix for name in examples} <= {".rules"}
    for path in tmp_path.rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o444 == 0o444, path
    if prefix != "/usr":
        for name, content in files.items():
            for package in (b"/usr/libexec", b"/usr/sbin/auto", b"/usr/share/auto"):
                assert package not in content, name
    assert (
        files[f"{units}/systemd/system/auto-iscsi.service"].count(
            f"ExecStart={prefix}/sbin/auto-iscsi reap".encode()
        )
        == 1
    )
    # A module of an earlier version, and its byte-code.
    modules = tmp_path / prefix[1:] / "share/auto-iscsi/auto_iscsi"
    (modules / "__pycache__").mkdir()
    for name in ("gone.py", "__pycache__/gone.cpython-311.pyc"):
        (modules / name).write_text("")
    make("install", *where)
    assert installed(tmp_path) == files
    (modules / "__pycache__").mkdir()
    (modules / "__pycache__/keys.cpython-311.pyc").write_text("")
    make("uninstall", *where)
    assert installed(tmp_path) == {}
    for folder in ("libexec/auto-iscsi", "share/auto-iscsi", "share/doc/auto-iscsi"):
        assert not (tmp_path / prefix[1:] / folder).exists()


def test_files_of_the_administrator_stay(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    (etc / "cron.d").mkdir(parents=True)
    theirs = {
        "auto.iscsi": "the shell script\n",
        "auto.iscsi.conf": "lun = 3\n",
        "cron.d/auto-iscsi": "# not here\n",
    }
    for name, content in theirs.items():
        (etc / name).write_text(content)
    for _ in range(2):
        output = make("install", f"DESTDIR={tmp_path}")
        assert "/etc/auto.iscsi.conf (yours stays)" in output
    kept = {
        "/etc/auto.iscsi.conf": b"lun = 3\n",
        "/etc/cron.d/auto-iscsi": b"# not here\n",
        "/etc/auto.iscsi.orig": b"the shell script\n",
    }
    link = {"/etc/auto.iscsi": b"/usr/local/libexec/auto-iscsi/auto.iscsi"}
    etc_files = {k: v for k, v in installed(tmp_path).items() if k.startswith("/etc/")}
    assert etc_files == {**kept, **link}
    output = make("uninstall", f"DESTDIR={tmp_path}")
    assert installed(tmp_path) == kept
    assert "mv /etc/auto.iscsi.orig /etc/auto.iscsi" in output


def test_uninstall_keeps_a_link_of_the_administrator(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    make("install", f"DESTDIR={tmp_path}")
    (tmp_path / "etc/auto.iscsi").unlink()
    (tmp_path / "etc/auto.iscsi").symlink_to("/root/mine")
    make("uninstall", f"DESTDIR={tmp_path}")
    assert installed(tmp_path) == {"/etc/auto.iscsi": b"/root/mine"}


def test_on_another_distribution_the_installed_programs_are_enough_to_build(tmp_path: Path) -> None:
    def prepare(target: str) -> tuple[int, str]:
        done = subprocess.run(
            [ROOT / "tests/prepare", target],
            env={"PATH": str(tmp_path)},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.returncode, done.stdout

    for name in ("dirname", "python3", "rpmbuild"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    assert prepare("rpm") == (0, "")
    status, output = prepare("deb")
    assert status == 1 and "neither Debian nor Ubuntu: install what they call debhelper" in output
    (tmp_path / "rpmbuild").unlink()
    status, output = prepare("rpm")
    assert status == 1 and output.endswith("install what they call rpm\n")
