"""A machine for each test, of which nothing is left."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import at_once
from tests.tree.machine import Machine

NODES = "/etc/iscsi/nodes"
CACHE = tempfile.mkdtemp(prefix="auto-iscsi-cache-")  # for what Python compiles
atexit.register(shutil.rmtree, CACHE)


@contextlib.contextmanager
def a_machine(parameters: dict[str, Any]) -> Iterator[Machine]:
    """Make a machine; the parameter `machine` says where its node records are."""
    with tempfile.TemporaryDirectory(prefix="auto-iscsi-") as folder:
        here = Machine(Path(folder), parameters.get("machine", NODES), CACHE)
        try:
            yield here
        finally:
            here.close()


CROWD = at_once.Crowd("machine", a_machine)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    return CROWD.call(pyfuncitem)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine | None]:
    """A machine whose SAN has nothing yet; none for tests that run at once, which have theirs."""
    if at_once.marked(request.node):
        yield None
    else:
        with a_machine({}) as here:
            yield here
