"""Do ruff, mypy, shellcheck and mandoc find nothing?"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .tracked_files import ROOT, tracked

PYTHON = ("auto_iscsi", "bench", "tests", "tools")
RUFF = (
    "--isolated",
    "--no-cache",
    "--line-length=100",
    "--target-version=py39",
    "--select=E,W,F,I,B,UP,C4,SIM,RET,RUF,PIE,FLY",
    "--ignore=SIM905,RUF001,RUF002,RUF003,RUF043",
)


#: The shell script that auto-iscsi replaces: tests compare with it, so it is not corrected.
ORIGINAL = "tests/san/original/auto.iscsi"


def shell_scripts() -> list[str]:
    """Return the tracked files whose first line names a shell."""
    scripts = []
    for name in set(tracked()) - {ORIGINAL}:
        with open(ROOT / name, "rb") as stream:
            if stream.readline(40).startswith((b"#!/bin/sh", b"#!/bin/bash")):
                scripts.append(name)
    return scripts


def clean(*command: str) -> None:
    """Run a tool in the project's folder; it must neither fail nor print anything."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode or done.stdout.strip():
        pytest.fail(
            f"{' '.join(command[:3])} …: exit {done.returncode}\n{done.stdout}", pytrace=False
        )


def test_ruff_finds_nothing() -> None:
    clean(sys.executable, "-m", "ruff", "check", "--quiet", *RUFF, *PYTHON)


def test_the_code_is_formatted() -> None:
    options = [
        option
        for option in RUFF
        if option.startswith(("--isolated", "--no-cache", "--line", "--target"))
    ]
    clean(sys.executable, "-m", "ruff", "format", "--check", "--quiet", *options, *PYTHON)


def test_the_types_hold() -> None:
    clean(sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir=/dev/null", *PYTHON)


def test_shellcheck_finds_nothing_in_any_script() -> None:
    scripts = shell_scripts()
    assert {"tests/prepare", "tools/install", "debian/auto-iscsi.postinst"} <= set(scripts)
    clean("shellcheck", "etc/completion", *sorted(scripts))


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "man").iterdir()))
def test_mandoc_finds_nothing_in(page: str) -> None:
    clean("mandoc", "-T", "lint", "-W", "warning", f"man/{page}")
