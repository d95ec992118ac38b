"""Paths within a snapshot: links are followed below its root, and nothing else is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.restore import paths


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    inside = tmp_path / "snapshot"
    (inside / "etc/deep").mkdir(parents=True)
    (inside / "etc/passwd").write_text("inside")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("outside")
    for name, target in (
        ("absolute", "/etc/passwd"),
        ("etc/deep/relative", "../../../../etc/passwd"),
        ("folder", "/etc"),
        ("loop", "loop"),
        ("out", str(tmp_path / "etc/passwd")),
        ("root", "/.."),
    ):
        (inside / name).symlink_to(target)
    os.mkfifo(inside / "fifo")
    handle = os.open(inside, os.O_RDONLY)
    yield handle
    os.close(handle)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "etc/passwd",
        "/absolute",
        "/etc/deep/relative",
        "/folder/passwd",
        "/folder/deep/../passwd",
        "/../../etc/passwd",
        "/root/etc/passwd",
        "//etc/./passwd",
    ],
)
def test_a_file_below_the_root(root: int, path: str) -> None:
    with paths.opened(root, path) as handle:
        assert os.read(handle, 100) == b"inside"


@pytest.mark.parametrize("path", ["/out", "/none", "/etc/passwd/none", "/loop"])
def test_what_is_not_there(root: int, path: str) -> None:
    why = r"(No such file|Not a directory|Too many levels)"
    with pytest.raises(OSError, match=why), paths.opened(root, path):
        pass


def test_a_fifo_is_not_opened(root: int) -> None:
    why = "neither a file nor a directory"
    with pytest.raises(errors.Failure, match=why), paths.opened(root, "/fifo"):
        pass


def test_directories_and_the_root_itself(root: int) -> None:
    for path in ("/", "", "/folder", "/root", "/etc/deep/.."):
        with paths.opened(root, path) as handle:
            assert os.listdir(handle)


def test_patterns_mean_names(root: int) -> None:
    assert paths.matching(root, "/etc/pass*") == ["/etc/passwd"]
    assert paths.matching(root, "/fo*/pass*") == ["/folder/passwd"]
    assert paths.matching(root, "/none*") == []
    assert len(os.listdir("/proc/self/fd")) < 100
