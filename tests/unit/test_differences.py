"""The comparison of two files: it is silent only where all bytes are the same."""

from __future__ import annotations

import sys
from typing import Callable

import pytest

from auto_iscsi import errors
from auto_iscsi.restore import copying, differences
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


@pytest.mark.parametrize(
    ("compare", "hint"),
    [
        (lambda: differences._of_file("/tmp", "web:/etc/x"), "auto-iscsi restore"),
        (lambda: differences._of_file(sys.executable, "web:/etc/x"), "versions --hash web:/etc/x "),
        (
            lambda: differences.lines(Side("a", None, "web:/etc/x"), Side("b", b"")),
            "auto-iscsi versions web:/etc/x lists",
        ),
        (lambda: differences._of_file("/nosuch/monday", "web:/etc/x"), "@WHEN"),
    ],
)
def test_what_cannot_be_compared_has_a_next_command(
    monkeypatch: pytest.MonkeyPatch, compare: Callable[[], object], hint: str
) -> None:
    monkeypatch.setattr(copying, "LARGEST", 1)
    with pytest.raises(errors.Failure) as refused:
        compare()
    assert hint in refused.value.hint
