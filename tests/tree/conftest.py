"""A machine for each test, of which nothing is left."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tree.machine import Machine
from tests.tree.slow import CASES, run_all


@contextlib.contextmanager
def a_machine(nodes: str, cache: str) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-") as folder:
        here = Machine(Path(folder), nodes, cache)
        try:
            yield here
        finally:
            here.close()


@pytest.fixture(scope="session")
def cache() -> Iterator[str]:
    """A folder for what Python compiles."""
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-cache-") as folder:
        yield folder


@pytest.fixture
def machine(request: pytest.FixtureRequest, cache: str) -> Iterator[Machine]:
    """A machine whose SAN has nothing yet; a parameter says where its node records are."""
    with a_machine(getattr(request, "param", "/etc/iscsi/nodes"), cache) as here:
        yield here


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, cache: str) -> dict[str, BaseException | None]:
    """What became of the slow cases that were asked for: nothing, or what went wrong."""
    asked_for = [item.nodeid for item in request.session.items]
    wanted = {name: CASES[name] for name in CASES if any(f"[{name}]" in i for i in asked_for)}
    return run_all(wanted, lambda: a_machine("/etc/iscsi/nodes", cache))
