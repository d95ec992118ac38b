"""`make release` refuses a wrong state, and makes a tag, artefacts and checksums."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import auto_iscsi

ROOT = Path(__file__).resolve().parents[2]
VERSION = auto_iscsi.__version__


def git(folder: Path, *words: str) -> str:
    who = (
        "-c",
        "user.name=Tester",
        "-c",
        "user.email=tester@auto-iscsi.invalid",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "tag.gpgsign=false",
        "-c",
        "safe.directory=*",
    )
    return subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def release(folder: Path, *words: str) -> tuple[int, str]:
    """Run make release; return its status and its output."""
    done = subprocess.run(
        ["make", "release", *words],
        cwd=folder,
        text=True,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A new repository in which the tracked files of this folder are committed."""
    folder = tmp_path / "clone"
    folder.mkdir()
    names = git(ROOT, "ls-files", "-z", "--cached").split("\0")
    for name in names:
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    git(folder, "init", "--quiet")
    for name, value in (("user.name", "Tester"), ("user.email", "tester@auto-iscsi.invalid")):
        git(folder, "config", name, value)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


def tags(clone: Path) -> list[str]:
    return git(clone, "tag").split()


def change(path: Path, edit: Callable[[str], str]) -> None:
    path.write_text(edit(path.read_text()))


def test_a_wrong_version_an_unclean_tree_or_an_existing_tag_is_refused(clone: Path) -> None:
    assert release(clone)[0] == 2
    status, output = release(clone, "VERSION=next")
    assert status and "no version" in output
    status, output = release(clone, "VERSION=9.9.9")
    assert status
    for place in ("__init__.py", "(first line)", "debian/changelog", "(Version)", "(%changelog)"):
        assert place in output
    assert output.count(f"says {VERSION}") == 5
    change(clone / "NEWS", lambda text: text + "  * One more.\n")
    status, output = release(clone, f"VERSION={VERSION}")
    assert status and "not clean" in output
    git(clone, "checkout", "--", "NEWS")
    change(clone / "NEWS", lambda text: text.replace(VERSION, "9.9.9", 1))
    git(clone, "commit", "--quiet", "--all", "--message", "one of them is ahead")
    status, output = release(clone, f"VERSION={VERSION}")
    assert status and "NEWS (first line) says 9.9.9" in output and "changelog" not in output
    git(clone, "reset", "--quiet", "--hard", "HEAD^")
    git(clone, "tag", f"v{VERSION}", "HEAD")
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "after it")
    status, output = release(clone, f"VERSION={VERSION}")
    assert status and f"a tag v{VERSION} already" in output
    assert not (clone / "dist").exists()


def test_a_release_is_a_tag_and_artefacts_with_their_checksums(clone: Path) -> None:
    status, output = release(clone, f"VERSION={VERSION}")
    assert status == 0, output
    assert tags(clone) == [f"v{VERSION}"]
    assert git(clone, "cat-file", "-t", f"v{VERSION}") == "tag\n"
    assert git(clone, "status", "--porcelain") == ""
    dist = clone / "dist"
    artefacts = {str(path.relative_to(dist)) for path in dist.rglob("*") if path.is_file()}
    assert artefacts == {
        "SHA256SUMS",
        "standalone/auto-iscsi",
        "standalone/auto.iscsi",
        "standalone/auto.snapshots",
        "standalone/drivers/eqlx",
        "standalone/drivers/lio",
        f"auto-iscsi_{VERSION}_all.deb",
        f"auto-iscsi-{VERSION}.noarch.rpm",
        f"auto-iscsi-{VERSION}.tar.gz",
    }
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dist, check=True)
    listed = {line.split()[1] for line in (dist / "SHA256SUMS").read_text().splitlines()}
    assert listed == artefacts - {"SHA256SUMS"}
    for name in sorted(artefacts - {"SHA256SUMS", f"auto-iscsi-{VERSION}.tar.gz"}):
        assert (dist / name).read_bytes() == (ROOT / "dist" / name).read_bytes(), name
    content = subprocess.run(
        ["tar", "-tzf", dist / f"auto-iscsi-{VERSION}.tar.gz"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert f"auto-iscsi-{VERSION}/Makefile\n" in content
