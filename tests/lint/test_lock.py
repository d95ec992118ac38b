"""Do the tests run with the packages of the lock files, and with no others?"""

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
#: The packages that every virtual environment has.
OWN = {"pip", "setuptools", "wheel"}
REQUIREMENT = re.compile(r"^([a-z][\w.-]*)==(\S+)", re.MULTILINE)


def canonical(name: str) -> str:
    """Return a package's name as the lock files spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(file: Path) -> set[tuple[str, str]]:
    return {(canonical(name), version) for name, version in REQUIREMENT.findall(file.read_text())}


def test_every_installed_package_is_locked() -> None:
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


def test_every_required_package_is_locked() -> None:
    required = locked(ROOT / "tests/requirements.txt")
    assert required and required <= locked(TOOLS)


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_every_package_has_a_hash(file: Path) -> None:
    text = file.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if re.match(r"[a-z]", line)]
    assert lines
    assert [line for line in lines if "--hash=sha256:" not in line] == []
