"""A machine for each test, of which nothing is left."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tree.machine import Machine


@pytest.fixture(params=["/etc/iscsi/nodes"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine whose SAN has nothing yet; the parameter says where its node records are."""
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-") as folder:
        here = Machine(Path(folder), nodes=request.param)
        yield here
        here.close()
