"""A file that users other than root can write is not used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.config import config_files
from auto_iscsi.machine.host import Host
from tests.tree.tree import make_tree

DROP_IN = f"{config_files.FOLDER}/a.conf"


def status(mode: int, owner: int = 0) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 1, owner, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("mode", [0o100644, 0o100600, 0o100444, 0o100640, 0o40755, 0o101644])
def test_a_file_that_only_root_can_write_is_trusted(mode: int) -> None:
    assert config_files.permission_problem("/f", status(mode)) is None


@pytest.mark.parametrize(
    ("mode", "owner", "hint"),
    [
        (0o100664, 0, "chmod go-w /f"),
        (0o100646, 0, "chmod go-w /f"),
        (0o40777, 0, "chmod go-w /f"),
        (0o41777, 0, "chmod go-w /f"),
        (0o100600, 1000, "chown root /f"),
    ],
)
def test_a_file_that_others_can_write_is_not_trusted(mode: int, owner: int, hint: str) -> None:
    problem = config_files.permission_problem("/f", status(mode, owner))
    assert problem and problem.kind == "unsafe" and problem.hint == hint


@pytest.mark.parametrize("mode", [0o100640, 0o100604, 0o100644, 0o100610])
def test_a_secret_that_others_can_read_is_not_used(mode: int) -> None:
    problem = config_files.permission_problem("/f", status(mode), secret=True)
    assert problem and problem.hint == "chmod 600 /f"
    assert config_files.permission_problem("/f", status(0o100600), secret=True) is None
    assert config_files.permission_problem("/f", status(0o100400), secret=True) is None


@pytest.mark.parametrize("name", [config_files.FILE, config_files.FOLDER, DROP_IN])
@pytest.mark.parametrize(("mode", "owner"), [(0o722, 0), (0o720, 0), (0o700, 65534)])
def test_in_a_chroot_an_unsafe_file_refuses_every_target(
    tmp_path: Path, name: str, mode: int, owner: int
) -> None:
    make_tree(tmp_path, {config_files.FILE: "lun = 1\n", DROP_IN: "lun = 2\n", "/run": None})
    assert in_chroot(tmp_path) == "2 sections"
    os.chmod(tmp_path / name.lstrip("/"), mode)
    os.chown(tmp_path / name.lstrip("/"), owner, 0)
    outcome = in_chroot(tmp_path)
    assert outcome.startswith(f"{name}: ") and outcome.endswith(
        f"{'chown' if owner else 'chmod'} {name}"
    )


def in_chroot(root: Path) -> str:
    """Return the result of loading the configuration in a chroot."""
    if os.geteuid():
        pytest.skip("needs root, for chroot")
    from auto_iscsi.config import syntax

    syntax.parse(b"lun = 1")  # imports everything before the chroot
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chroot(root)
            outcome = f"{len(config_files.load(Host()))} sections"
        except errors.BadConfiguration as failure:
            outcome = f"{failure.reason}; {failure.hint}".replace(" go-w ", " ").replace(
                " root ", " "
            )
        except BaseException as error:
            outcome = repr(error)
        os.write(writing, outcome.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:
        outcome = stream.read().decode()
    os.waitpid(child, 0)
    return outcome
