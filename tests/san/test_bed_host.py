"""The parts of the test bed that run on the host: archives, cache, disk files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.san.bed import apt, cache, disk, sparse

DEBIAN = """\
# a comment with a # in it
Types: deb deb-src
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
  bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
Enabled: no
URIs: http://archive.example/disabled
Suites: bookworm
Components: main
"""
OTHERS = """\
deb [signed-by=/usr/share/keyrings/vendor.gpg] http://vendor.example/apt bookworm main
deb http://vendor.example/apt stable main
# deb http://commented.example/debian bookworm main
deb [arch=amd64] http://plain.example/debian bookworm main
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is laid out as /etc/apt."""
    (tmp_path / "sources.list.d").mkdir()
    monkeypatch.setattr(apt, "DIRECTORY", tmp_path)
    return tmp_path


def test_only_debian_archives_are_taken_with_the_guest_suite(sources: Path) -> None:
    (sources / "sources.list.d" / "debian.sources").write_text(DEBIAN)
    (sources / "sources.list.d" / "vendor.list").write_text(OTHERS)
    (sources / "sources.list.d" / "old.list.disabled").write_text("deb http://x/ bookworm main\n")
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert apt.entries("trixie", host="bookworm") == [
        f"deb {signed} http://archive.example/debian trixie main",
        f"deb {signed} http://archive.example/debian trixie-updates main",
        f"deb {signed} http://security.example/debian-security trixie-security main",
        "deb http://plain.example/debian trixie main",
    ]


def test_a_host_without_debian_archives_is_reported(sources: Path) -> None:
    (sources / "sources.list").write_text("deb http://vendor.example/apt noble main\n")
    with pytest.raises(apt.NoSources, match="no Debian archive for bookworm"):
        apt.entries("bookworm", host="bookworm")


def test_a_build_that_fails_leaves_nothing_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BED_CACHE", str(tmp_path))

    def fail(place: Path) -> None:
        (place / "half").write_text("done")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        cache.entry("image", "x", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["image-x.lock"]
    place = cache.entry("image", "x", lambda new: (new / "whole").touch())
    assert cache.entry("image", "x", fail) == place
    assert [path.name for path in place.iterdir()] == ["whole"]


def test_the_entry_that_was_used_longest_ago_is_removed_unless_it_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BED_CACHE", str(tmp_path))
    places = [cache.entry("image", str(number), lambda new: None) for number in range(3)]
    with cache.used(places[0]):
        for age, place in enumerate(places):
            os.utime(place, (age, age))
        cache.prune({"image": 1})
        assert [place.is_dir() for place in places] == [True, False, True]
    cache.clean()
    assert list(tmp_path.iterdir()) == []


def test_only_the_parts_of_a_disk_that_are_not_zero_are_copied(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(3 << 20)
        file.write(b"\0" * sparse.BLOCK + b"x")
        file.seek((64 << 20) - 1)
        file.write(b"y")
    sent = sparse.data_of(image)
    assert sum(size for _, size in sent) == 2 * sparse.BLOCK
    copied = tmp_path / "copied"
    with copied.open("wb") as file:
        file.truncate((64 << 20) + 512)
    sparse.copy_into(image, copied, 512)
    assert copied.read_bytes()[512:] == image.read_bytes()


def test_a_failure_to_make_a_filesystem_names_the_program(tmp_path: Path) -> None:
    wrong = disk.Disk((disk.fs("ext4", size=1, options=["-O", "nonsense"]),), "", 512, "", 0)
    with pytest.raises(RuntimeError, match="mke2fs"):
        disk.build(wrong, tmp_path / "disk")
