"""The parsed files are kept for the next lookup, and not used in any doubt."""

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

KEPT = "run/auto-iscsi/config"
DROP_IN = f"{config_files.FOLDER}/a.conf"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine on which what the files say is kept."""
    make_tree(tmp_path, {config_files.FILE: "lun = 1\n", DROP_IN: "[*]\nlun = 2\n", "/run": None})
    make_tree(tmp_path, {"/other": "lun = 3\n", "/folder": None})
    keep(tmp_path)
    assert used(tmp_path)
    return tmp_path


def keep(root: Path) -> None:
    host = Host(str(root))
    sections = config_files.load(host, remember=False)
    file_cache.write(
        host, config_files.list_existing(host), [tuple(s) for s in sections], settled=0
    )


def used(root: Path) -> bool:
    """Say whether what was kept would be used."""
    host = Host(str(root))
    return file_cache.read(host, config_files.list_existing(host)) is not None


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
def test_it_is_not_used_after(root: Path, change: str) -> None:
    time.sleep(0.02)  # longer than a time stamp of the kernel's lasts
    CHANGES[change](root)
    assert not used(root)


def test_a_text_of_the_same_length_with_its_old_time_is_another_text(root: Path) -> None:
    path = root / "etc/auto.iscsi.conf"
    before = path.stat()
    time.sleep(0.02)
    path.write_text("lun = 3\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert config_files.load(Host(str(root)))[0].values == {"lun": "3"}


def relink(path: Path) -> None:
    """Put a link to it in the place of a file or folder."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def swap(path: Path, other: Path) -> None:
    path.unlink()
    other.rename(path)


DOUBTS: dict[str, Callable[[Path], object]] = {
    "others can look into the folder": lambda root: os.chmod(root / "run/auto-iscsi", 0o755),
    "others can write the folder": lambda root: os.chmod(root / "run/auto-iscsi", 0o722),
    "others can write it": lambda root: os.chmod(root / KEPT, 0o602),
    "others can read it": lambda root: os.chmod(root / KEPT, 0o640),
    "it is a link": lambda root: relink(root / KEPT),
    "the folder is a link": lambda root: relink(root / "run/auto-iscsi"),
    "it is a folder": lambda root: swap(root / KEPT, root / "folder"),
    "it is empty": lambda root: (root / KEPT).write_bytes(b""),
    "its end is missing": lambda root: os.truncate(root / KEPT, (root / KEPT).stat().st_size - 1),
    "a bit has fallen over": lambda root: (root / KEPT).write_bytes(
        (root / KEPT).read_bytes()[:-3] + b"?" + (root / KEPT).read_bytes()[-2:]
    ),
    "another version wrote it": lambda root: (root / KEPT).write_bytes(
        b"0" + (root / KEPT).read_bytes()[1:]
    ),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_it_is_not_used_when(root: Path, doubt: str) -> None:
    before = config_files.load(Host(str(root)))
    DOUBTS[doubt](root)
    assert not used(root)
    assert config_files.load(Host(str(root))) == before


def test_it_is_not_used_by_another_user(root: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to become somebody else")
    os.chown(root / KEPT, 65534, 65534)
    assert not used(root)


def test_a_file_that_was_changed_just_now_is_not_kept(tmp_path: Path) -> None:
    # Another change within the same time stamp could not be told from this one.
    make_tree(tmp_path, {config_files.FILE: "lun = 1\n", "/run": None})
    config_files.load(Host(str(tmp_path)))
    assert not (tmp_path / KEPT).exists()
    time.sleep(file_cache.SETTLE_TIME + 0.1)
    config_files.load(Host(str(tmp_path)))
    assert (tmp_path / KEPT).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / KEPT).parent.stat().st_mode & 0o777 == 0o700
    assert used(tmp_path)


def test_a_file_with_problems_is_never_kept(tmp_path: Path) -> None:
    make_tree(tmp_path, {config_files.FILE: "lun\n", "/run": None})
    time.sleep(file_cache.SETTLE_TIME + 0.1)
    for _ in range(2):
        with pytest.raises(errors.BadConfiguration):
            config_files.load(Host(str(tmp_path)))
    assert not (tmp_path / KEPT).exists()


def test_a_machine_where_nothing_can_be_kept_works(tmp_path: Path) -> None:
    make_tree(tmp_path, {config_files.FILE: "lun = 1\n", "/run": "a file"})
    assert config_files.load(Host(str(tmp_path)))[0].values == {"lun": "1"}


def test_with_it_configobj_is_not_even_imported(root: Path) -> None:
    code = (
        "import sys; from auto_iscsi.config import config_files;"
        "from auto_iscsi.machine.host import Host;"
        f"config_files.load(Host({str(root)!r})); sys.exit('configobj' in sys.modules)"
    )
    project = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=project).returncode == 0
