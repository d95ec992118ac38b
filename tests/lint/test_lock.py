"""Do the tests run with what the lock files name, and with nothing else?"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tests/requirements.lock"
LOCKS = (TOOLS, ROOT / "tests/matrix.lock", ROOT / "tools/libraries.txt")
#: What makes a virtual environment.
OWN = {"pip", "setuptools", "wheel"}
REQUIREMENT = re.compile(r"^([a-z][\w.-]*)==(\S+)", re.MULTILINE)


def canonical(name: str) -> str:
    """Return a package's name as the lock files spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(file: Path) -> set[tuple[str, str]]:
    return {(canonical(name), version) for name, version in REQUIREMENT.findall(file.read_text())}


def test_nothing_is_installed_that_is_not_locked() -> None:
    if sys.prefix == sys.base_prefix:
        pytest.skip("not in the tests' own Python: tests/prepare run")
    folder = sysconfig.get_path("purelib")
    installed = {
        (canonical(package.metadata["Name"]), package.version)
        for package in importlib.metadata.distributions(path=[folder])
    }
    names = {name for name, _ in installed}
    assert {"pytest", "mypy", "ruff"} <= names
    others = {each for each in installed if each[0] not in OWN}
    assert others <= locked(TOOLS)


def test_what_is_asked_for_by_name_is_locked() -> None:
    wanted = locked(ROOT / "tests/requirements.txt")
    assert wanted and wanted <= locked(TOOLS)


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_every_package_has_a_hash(file: Path) -> None:
    text = file.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if re.match(r"[a-z]", line)]
    assert lines
    assert [line for line in lines if "--hash=sha256:" not in line] == []
