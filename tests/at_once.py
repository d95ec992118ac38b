"""Tests that mostly wait, or start processes, run at once, each on a machine of its own.

`pytestmark = at_once.MARK` in a file, or `@at_once.MARK` on a test, whose arguments are a machine and
parameters, no other fixtures. A folder's conftest.py says how a machine is made, as a `Crowd`, and
gives its `call` as pytest_pyfunc_call. The first of them that is due runs all that were asked for.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

MARK = pytest.mark.at_once
# More of them, and a machine with two cores is busy with starting processes alone.
AT_ONCE = 4


def marked(item: pytest.Item) -> bool:
    return item.get_closest_marker("at_once") is not None


class Crowd:
    """Those of a folder, whose argument `name` is what `make` makes."""

    def __init__(
        self, name: str, make: Callable[[dict[str, Any]], contextlib.AbstractContextManager[object]]
    ) -> None:
        self.name = name
        self.make = make
        self.outcomes: dict[str, concurrent.futures.Future[None]] = {}

    def call(self, item: pytest.Function) -> bool | None:
        """Do as pytest_pyfunc_call does: True when the test was run, or what it raised."""
        if not marked(item):
            return None
        if not self.outcomes:
            together = [i for i in item.session.items if isinstance(i, pytest.Function)]
            together = [i for i in together if marked(i) and self.name in i.fixturenames]
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                self.outcomes = {i.nodeid: pool.submit(self._run, i) for i in together}
        self.outcomes[item.nodeid].result()
        return True

    def _run(self, item: pytest.Function) -> None:
        parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        with self.make(parameters) as machine:
            item.obj(**{**parameters, self.name: machine})
