"""The report of versions: what a snapshot says of a file, whatever that is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from auto_iscsi.admin import output, versions_report
from auto_iscsi.restore import versions
from auto_iscsi.san import catalogue


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    handle = os.open(tmp_path, os.O_RDONLY)
    yield handle
    os.close(handle)


@pytest.mark.parametrize("seconds", [-(1 << 62), 1 << 62, 1 << 40, 0])
def test_any_time_of_a_file_is_shown(folder: int, tmp_path: Path, seconds: int) -> None:
    """btrfs and XFS have 64 bits for it, and localtime(3) fewer."""
    (tmp_path / "a\x1b[2J").write_text("x")
    (version,) = versions._versions(folder, "/a*", False)
    version = version._replace(mtime=seconds * 10**9)
    entry = catalogue.Entry("vm", datetime(2010, 5, 3, tzinfo=timezone.utc), "iqn.x", False, "")
    lines = versions_report._group_lines(
        versions_report._Group(version, (entry,)), output.Paint(False)
    )
    assert lines[0].startswith("/a\\x1b[2J  ") and lines[1] == "  in 2010-05-03 00:00:00"
