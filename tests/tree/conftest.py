"""A machine for each test, which is removed after it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tree.machine import NODE_FOLDERS, Machine


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder for Python's byte-code: outside the clone, and the same for all tests."""
    return str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def machine(request: pytest.FixtureRequest, compiled: str) -> Iterator[Machine]:
    """A machine whose SAN has nothing yet; its parameter says where its node records are."""
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-") as folder:
        made = Machine(Path(folder), getattr(request, "param", NODE_FOLDERS[0]), compiled)
        try:
            yield made
        finally:
            made.close()
