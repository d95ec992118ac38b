"""The comparison of two files: it is silent only where all bytes are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.restore import differences
from auto_iscsi.restore.differences import Side


def diff(old: bytes, new: bytes) -> list[str]:
    return differences.lines(Side("a", old), Side("b", new))


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        (b"x\n", b"y\n", ["-x", "+y"]),
        (b"x\r\n", b"x\n", ["-x\r", "+x"]),
        (b"x", b"x\n", ["-x", "\\ No newline at end of file", "+x"]),
        (b"", b"x\n", ["+x"]),
        (b"\xe9\n", b"\xe8\n", ["-\udce9", "+\udce8"]),
        (b"a\x0cb\n", b"a\nb\n", ["-a\x0cb", "+a", "+b"]),
        (b"a\xe2\x80\xa8b\n", b"a\nb\n", ["-a\u2028b", "+a", "+b"]),
    ],
)
def test_a_difference_is_shown(old: bytes, new: bytes, shown: list[str]) -> None:
    assert diff(old, new)[:2] == ["--- a", "+++ b"]
    assert diff(old, new)[3:] == shown


def test_equal_files_do_not_differ() -> None:
    assert diff(b"x\n\xff", b"x\n\xff") == []


def test_what_cannot_be_compared_has_a_next_command(tmp_path: Path) -> None:
    for compare in (
        lambda: differences._of_file(str(tmp_path)),
        lambda: differences.lines(Side("a", b"x"), Side("b", None)),
    ):
        with pytest.raises(errors.Failure) as refused:
            compare()
        assert "auto-iscsi " in refused.value.hint
