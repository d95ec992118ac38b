"""The line that the system's log gets for a login, and the user that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auto_iscsi.iscsi import audit
from auto_iscsi.machine.host import Host
from tests.tree.tree import make_tree

UNKNOWN = ("-", "-")


@pytest.mark.parametrize(
    ("chain", "starter"),
    [
        (["automount", "systemd"], "automount"),
        (["strace", "sh", "automount"], "automount"),
        (["bash", "sudo", "bash", "sshd"], "sudo"),
        (["sh", "cron"], "cron"),
        (["bash", "login", "systemd"], "bash"),
        (["systemd"], "systemd"),
        (["a) R 1 (automount"], "a) R 1 (automount"),
        ([], "-"),
    ],
)
def test_the_starter_is_automount_sudo_or_cron_or_else_the_parent(
    tmp_path: Path, chain: list[str], starter: str
) -> None:
    for pid, name in enumerate(chain, 100):
        parent = pid + 1 if pid - 99 < len(chain) else 0
        make_tree(tmp_path, {f"/proc/{pid}/stat": f"{pid} ({name}) S {parent} 1 1 0 -1\n"})
    assert audit.find_starter(Host(str(tmp_path)), 100) == starter


@pytest.mark.parametrize(
    ("environment", "via", "user"),
    [
        ({"AUTOFS_UID": "1000", "AUTOFS_USER": "user"}, "automount", ("1000", "user")),
        ({}, "automount", UNKNOWN),  # a uid without a passwd entry, and not root
        ({"SUDO_UID": "7", "SUDO_USER": "jo"}, "automount", UNKNOWN),
        ({"SUDO_UID": "7", "SUDO_USER": "jo"}, "sudo", ("7", "jo")),
        ({"AUTOFS_UID": "1000", "AUTOFS_USER": "user"}, "bash", ("0", "root")),
        ({"AUTOFS_UID": "x y", "AUTOFS_USER": "user"}, "automount", ("-", "user")),
        ({}, "cron", ("0", "root")),
    ],
)
def test_the_user_comes_from_automount_sudo_or_the_kernel(
    environment: dict[str, str], via: str, user: tuple[str, str]
) -> None:
    assert audit.find_user(environment, via, 0) == user


@given(st.dictionaries(st.sampled_from(["user", "reason", "via"]), st.text()))
def test_no_value_can_look_like_another_field_or_end_the_line(fields: dict[str, str]) -> None:
    line = audit.format_line("login", fields)
    assert line.isascii() and line.isprintable()
    pairs = re.findall(r' (\w+)=("[^"]*"|\S+)', line)
    assert [name for name, _ in pairs] == list(fields)
    assert line == "login" + "".join(f" {name}={value}" for name, value in pairs)


def test_a_line_has_the_documented_form() -> None:
    fields = {"target": "iqn.2001-05.com.example:vm", "portal": "[fd00::1]:3260", "reason": "idle"}
    assert audit.format_line("logout", {**fields, "user": "jo e", "uid": ""}) == (
        "logout target=iqn.2001-05.com.example:vm portal=[fd00::1]:3260 reason=idle "
        'user="jo e" uid=-'
    )
