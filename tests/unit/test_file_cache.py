"""The parsed files are cached for the next lookup; a doubtful cache is not used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.config import config_files, file_cache
from auto_iscsi.machine.host import Host
from tests.tree.tree import make_tree

CACHE = "run/auto-iscsi/config"
DROP_IN = f"{config_files.FOLDER}/a.conf"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with a valid cache of its configuration files."""
    make_tree(tmp_path, {config_files.FILE: "lun = 1\n", DROP_IN: "[*]\nlun = 2\n", "/run": None})
    make_tree(tmp_path, {"/other": "lun = 3\n", "/folder": None})
    write_cache(tmp_path)
    assert used(tmp_path)
    return tmp_path


def write_cache(root: Path) -> None:
    host = Host(str(root))
    sections = config_files.load(host, remember=False)
    file_cache.write(host, file_cache.list_existing(host), [tuple(s) for s in sections], settled=0)


def used(root: Path) -> bool:
    """Say whether a lookup would use the cache."""
    host = Host(str(root))
    return file_cache.read(host, file_cache.list_existing(host)) is not None


def rewrite(root: Path, text: str, name: str = config_files.FILE) -> None:
    (root / name.lstrip("/")).write_text(text)


CHANGES: dict[str, Callable[[Path], object]] = {
    "another text": lambda root: rewrite(root, "lun = 11\n"),
    "another text of the same length": lambda root: rewrite(root, "lun = 3\n"),
    "the same text again": lambda root: rewrite(root, "lun = 1\n"),
    "another file in its place": lambda root: os.rename(
        root / "other", root / "etc/auto.iscsi.conf"
    ),
    "another mode": lambda root: os.chmod(root / "etc/auto.iscsi.conf", 0o600),
    "a drop-in more": lambda root: rewrite(root, "", f"{config_files.FOLDER}/b.conf"),
    "a drop-in less": lambda root: os.unlink(root / DROP_IN.lstrip("/")),
    "a drop-in renamed": lambda root: os.rename(
        root / DROP_IN.lstrip("/"), root / f"{config_files.FOLDER}/b.conf".lstrip("/")
    ),
    "no file": lambda root: os.unlink(root / "etc/auto.iscsi.conf"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_cache_is_not_used_after(root: Path, change: str) -> None:
    time.sleep(0.02)  # longer than the kernel needs to change the time stamp
    CHANGES[change](root)
    assert not used(root)


def test_a_change_that_keeps_the_length_and_the_time_is_noticed(root: Path) -> None:
    path = root / "etc/auto.iscsi.conf"
    before = path.stat()
    time.sleep(0.02)
    path.write_text("lun = 3\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert config_files.load(Host(str(root)))[0].values == {"lun": "3"}


def relink(path: Path) -> None:
    """Rename a file or folder and put a link to it in its place."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def swap(path: Path, other: Path) -> None:
    path.unlink()
    other.rename(path)


DOUBTS: dict[str, Callable[[Path], object]] = {
    "others can look into the folder": lambda root: os.chmod(root / "run/auto-iscsi", 0o755),
    "others can write the folder": lambda root: os.chmod(root / "run/auto-iscsi", 0o722),
    "others can write the file": lambda root: os.chmod(root / CACHE, 0o602),
    "others can read the file": lambda root: os.chmod(root / CACHE, 0o640),
    "the file is a link": lambda root: relink(root / CACHE),
    "the folder is a link": lambda root: relink(root / "run/auto-iscsi"),
    "the file is a folder": lambda root: swap(root / CACHE, root / "folder"),
    "the file is empty": lambda root: (root / CACHE).write_bytes(b""),
    "its end is missing": lambda root: os.truncate(root / CACHE, (root / CACHE).stat().st_size - 1),
    "one byte differs": lambda root: (root / CACHE).write_bytes(
        (root / CACHE).read_bytes()[:-3] + b"?" + (root / CACHE).read_bytes()[-2:]
    ),
    "another version wrote the file": lambda root: (root / CACHE).write_bytes(
        b"0" + (root / CACHE).read_bytes()[1:]
    ),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_the_cache_is_not_used_when(root: Path, doubt: str) -> None:
    before = config_files.load(Host(str(root)))
    DOUBTS[doubt](root)
    assert not used(root)
    assert config_files.load(Host(str(root))) == before


def test_the_cache_of_another_user_is_not_used(root: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to become somebody else")
    os.chown(root / CACHE, 65534, 65534)
    assert not used(root)


def test_a_file_that_was_changed_just_now_is_not_cached(tmp_path: Path) -> None:
    # Another change within the same time stamp could not be told from this one.
    make_tree(tmp_path, {config_files.FILE: "lun = 1\n", "/run": None})
    config_files.load(Host(str(tmp_path)))
    assert not (tmp_path / CACHE).exists()
    time.sleep(file_cache.SETTLE_TIME + 0.1)
    config_files.load(Host(str(tmp_path)))
    assert (tmp_path / CACHE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / CACHE).parent.stat().st_mode & 0o777 == 0o700
    assert used(tmp_path)


def test_a_file_with_problems_is_never_cached(tmp_path: Path) -> None:
    make_tree(tmp_path, {config_files.FILE: "lun\n", "/run": None})
    time.sleep(file_cache.SETTLE_TIME + 0.1)
    for _ in range(2):
        with pytest.raises(errors.BadConfiguration):
            config_files.load(Host(str(tmp_path)))
    assert not (tmp_path / CACHE).exists()


def test_a_machine_that_cannot_store_the_cache_works(tmp_path: Path) -> None:
    make_tree(tmp_path, {config_files.FILE: "lun = 1\n", "/run": "a file"})
    assert config_files.load(Host(str(tmp_path)))[0].values == {"lun": "1"}


def test_with_the_cache_configobj_is_not_imported(root: Path) -> None:
    code = (
        "import sys; from auto_iscsi.config import config_files;"
        "from auto_iscsi.machine.host import Host;"
        f"config_files.load(Host({str(root)!r})); sys.exit('configobj' in sys.modules)"
    )
    project = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=project).returncode == 0
