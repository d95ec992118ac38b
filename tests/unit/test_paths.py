"""Paths within a snapshot: links are followed below its root, and nothing else is opened."""

from __future__ import annotations

import os
import resource
import tracemalloc
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


def test_a_range_without_members_means_nothing(root: int) -> None:
    assert paths.matching(root, "/[z-a]*") == []  # Python 3.9 raises re.error for it


def test_a_pattern_that_means_too_much_ends_early(root: int, tmp_path: Path) -> None:
    """A stranger's snapshot can have a thousand directories with any number of files each."""
    (tmp_path / "snapshot/many").mkdir()
    for folder in range(20):
        (tmp_path / f"snapshot/many/{folder}").mkdir()
        for file in range(1001):
            os.link(tmp_path / "snapshot/etc/passwd", tmp_path / f"snapshot/many/{folder}/{file}")
    tracemalloc.start()
    with pytest.raises(errors.Failure, match="more than 1000 files"):
        paths.matching(root, "/many/*/*")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert len(paths.matching(root, "/many/*")) == 20


def test_a_directory_that_cannot_be_read_is_not_passed_over(root: int) -> None:
    """Its files would be reported as missing in the snapshot."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [os.open(os.devnull, os.O_RDONLY)]
    while used[-1] < 200:  # every number below is taken
        used.append(os.open(os.devnull, os.O_RDONLY))
    assert paths.matching(root, "/e*/d*/rel*") == ["/etc/deep/relative"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used[-1] + 2, before[1]))
    try:
        with pytest.raises(errors.Failure, match="too many open files"):
            paths.matching(root, "/e*/d*/rel*")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for handle in used:
            os.close(handle)
    for pattern in ("/fifo/*", "/loop/*", "/etc/passwd/*", "/none/*"):
        assert paths.matching(root, pattern) == []
