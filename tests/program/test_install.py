"""What does `make install` leave below a folder, and `make uninstall` there?"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.program.packaged_files import FILES

ROOT = Path(__file__).resolve().parents[2]


def make(*words: str, umask: int = 0o022) -> str:
    """Run make on what is built already, and return what it says."""
    return subprocess.run(
        ["make", *words], cwd=ROOT, check=True, umask=umask, text=True, stdout=subprocess.PIPE
    ).stdout


def installed(root: Path) -> dict[str, bytes]:
    """Return what is there: path → content, or where a link leads."""
    return {
        f"/{path.relative_to(root)}": (
            str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        )
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("prefix", ["/usr", "/usr/local", "/opt/x"])
def test_it_puts_the_packages_files_below_a_prefix_and_takes_them_away(
    tmp_path: Path, prefix: str
) -> None:
    where = (f"DESTDIR={tmp_path}", f"PREFIX={prefix}")
    make("install", *where, umask=0o077)
    found = installed(tmp_path)
    # systemd does not look below /opt.
    units = "/etc" if prefix == "/opt/x" else f"{prefix}/lib"
    examples = {name for name in found if name.startswith(f"{prefix}/share/doc/auto-iscsi/")}
    wanted = {re.sub("^/usr/(?!lib/)", f"{prefix}/", name) for name in FILES}
    assert set(found) - examples == {re.sub("^/usr/lib/", f"{units}/", name) for name in wanted}
    assert {Path(name).suffix for name in examples} <= {".rules"}
    for path in tmp_path.rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o444 == 0o444, path
    if prefix != "/usr":
        for name, content in found.items():
            for package in (b"/usr/libexec", b"/usr/sbin/auto", b"/usr/share/auto"):
                assert package not in content, name
    assert (
        found[f"{units}/systemd/system/auto-iscsi.service"].count(
            f"ExecStart={prefix}/sbin/auto-iscsi reap".encode()
        )
        == 1
    )
    # What an earlier version had, and what a Python made of it.
    modules = tmp_path / prefix[1:] / "share/auto-iscsi/auto_iscsi"
    (modules / "__pycache__").mkdir()
    for name in ("gone.py", "__pycache__/gone.cpython-311.pyc"):
        (modules / name).write_text("")
    make("install", *where)
    assert installed(tmp_path) == found
    (modules / "__pycache__").mkdir()
    (modules / "__pycache__/keys.cpython-311.pyc").write_text("")
    make("uninstall", *where)
    assert installed(tmp_path) == {}
    for folder in ("libexec/auto-iscsi", "share/auto-iscsi", "share/doc/auto-iscsi"):
        assert not (tmp_path / prefix[1:] / folder).exists()


def test_it_keeps_what_the_administrator_has(tmp_path: Path) -> None:
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
        said = make("install", f"DESTDIR={tmp_path}")
        assert "/etc/auto.iscsi.conf (yours stays)" in said
    kept = {
        "/etc/auto.iscsi.conf": b"lun = 3\n",
        "/etc/cron.d/auto-iscsi": b"# not here\n",
        "/etc/auto.iscsi.orig": b"the shell script\n",
    }
    link = {"/etc/auto.iscsi": b"/usr/local/libexec/auto-iscsi/auto.iscsi"}
    found = {k: v for k, v in installed(tmp_path).items() if k.startswith("/etc/")}
    assert found == {**kept, **link}
    said = make("uninstall", f"DESTDIR={tmp_path}")
    assert installed(tmp_path) == kept
    assert "mv /etc/auto.iscsi.orig /etc/auto.iscsi" in said


def test_a_link_of_the_administrators_is_not_ours_to_take_away(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    make("install", f"DESTDIR={tmp_path}")
    (tmp_path / "etc/auto.iscsi").unlink()
    (tmp_path / "etc/auto.iscsi").symlink_to("/root/mine")
    make("uninstall", f"DESTDIR={tmp_path}")
    assert installed(tmp_path) == {"/etc/auto.iscsi": b"/root/mine"}


def test_on_another_distribution_what_is_there_is_enough_to_build(tmp_path: Path) -> None:
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
    status, said = prepare("deb")
    assert status == 1 and "neither Debian nor Ubuntu: install what they call debhelper" in said
    (tmp_path / "rpmbuild").unlink()
    status, said = prepare("rpm")
    assert status == 1 and said.endswith("install what they call rpm\n")
