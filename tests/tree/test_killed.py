"""A lookup or a reaper is killed before each change that it makes; the next run repairs that."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.tree.machine import DAY, VOL1, Machine

FEWEST = 20  # changes that a cold lookup or a reaper makes at least


def killed(machine: Machine, *words: str) -> Iterator[int]:
    """Kill the program before its first change, its second, … until it ends by itself."""
    for number in itertools.count(1):
        command = (sys.executable, "-m", "tests.tree.steps", f"{number}", "-", str(machine.root))
        done = machine.program(command, *words)
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0 and number > FEWEST, (number, done.stderr)
            return
        machine.quiet()
        yield number


def check_nothing_is_left(machine: Machine, portal: str, step: int) -> None:
    """Check that a reaper leaves nothing of ours a day later: session, record, claim, locks."""
    if machine.claim(VOL1).looked_up:
        machine.age(VOL1, DAY)
    result = machine.reap()
    assert (result.status, result.err) == (0, ""), (step, result)
    assert (machine.sids(), machine.target_files()) == ([], []), step
    assert not machine.folder(VOL1, portal).exists(), step


@pytest.mark.parametrize("following", ["lookup", "reap"])
def test_after_a_lookup_was_killed(machine: Machine, following: str) -> None:
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}\nreplacement_timeout = 7s\nattempts = 1000")
    for step in killed(machine, "lookup", VOL1):
        if following == "lookup":
            assert machine.visit(VOL1) == machine.entry(VOL1, portal), step
            assert len(machine.sids()) == 1 and machine.claim(VOL1).opened, step
            assert machine.recovery_tmo(machine.sids()[0]) == "7", step
            assert machine.claim(VOL1).records == (machine.folder(VOL1, portal).name,), step
        check_nothing_is_left(machine, portal, step)


@pytest.mark.parametrize("following", ["lookup", "reap"])
def test_after_a_reaper_was_killed(machine: Machine, following: str) -> None:
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}")

    def make_idle_session() -> None:
        machine.visit(VOL1)
        machine.age(VOL1, DAY)

    make_idle_session()
    for step in killed(machine, "reap"):
        if following == "lookup":
            assert machine.visit(VOL1) == machine.entry(VOL1, portal), step
            assert len(machine.sids()) == 1, step
        check_nothing_is_left(machine, portal, step)
        make_idle_session()
