"""A machine for each test, of which nothing is left."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tree.machine import Machine

NODES = "/etc/iscsi/nodes"
CACHE = tempfile.mkdtemp(prefix="auto-iscsi-cache-")  # for what Python compiles
atexit.register(shutil.rmtree, CACHE)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine whose SAN has nothing yet; its parameter says where its node records are."""
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-") as folder:
        here = Machine(Path(folder), getattr(request, "param", NODES), CACHE)
        try:
            yield here
        finally:
            here.close()
