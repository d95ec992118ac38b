"""Cases that wait for a second or more: they run at once, as each waits for its own machine only.

A case is a generator that gets a machine. It yields each lookup that it starts, and goes on with
the answer: `answer = yield machine.start(KEY)`.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Generator
from typing import Any

from tests.tree.machine import Answer, Lookup, Machine

Steps = Generator[Lookup, Answer, None]
Case = Callable[[Machine], Steps]
CASES: dict[str, Case] = {}
AT_ONCE = 6  # more of them, and a slow machine is busy with starting processes alone


def slow(*parameters: str) -> Callable[[Callable[..., Steps]], None]:
    """Register a case, once for each parameter if there are any."""

    def register(case: Callable[..., Steps]) -> None:
        if not parameters:
            CASES[case.__name__] = case
        for parameter in parameters:
            CASES[f"{case.__name__}-{parameter}"] = _with(case, parameter)

    return register


def _with(case: Callable[..., Steps], parameter: str) -> Case:
    return lambda machine: case(machine, parameter)


def run_all(
    cases: dict[str, Case], machine: Callable[[], contextlib.AbstractContextManager[Machine]]
) -> dict[str, BaseException | None]:
    """Run cases and return how each ended: with None, or with what it raised."""
    outcomes: dict[str, BaseException | None] = {}
    waiting = collections.deque(cases.items())
    running: collections.deque[tuple[str, contextlib.ExitStack, Steps, Lookup]]
    running = collections.deque()
    while waiting or running:
        lookup: Any
        if waiting and len(running) < AT_ONCE:
            name, case = waiting.popleft()
            stack = contextlib.ExitStack()
            steps, lookup = case(stack.enter_context(machine())), None
        else:
            name, stack, steps, lookup = running.popleft()
        try:
            answer = lookup.answer() if lookup else None
            running.append((name, stack, steps, steps.send(answer)))  # type: ignore[arg-type]
        except StopIteration:
            outcomes[name] = _end(stack)
        except BaseException as error:
            outcomes[name] = error
            _end(stack)
            if not isinstance(error, Exception):
                raise
    return outcomes


def _end(stack: contextlib.ExitStack) -> BaseException | None:
    try:
        stack.close()
    except AssertionError as error:
        return error
    return None
