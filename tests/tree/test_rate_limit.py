"""Users can cause only so many failed logins and discoveries; successful ones are not limited."""

from __future__ import annotations

import threading
import time

import pytest

from auto_iscsi import errors, portals
from auto_iscsi.config import schema
from auto_iscsi.iscsi import claims, discovery, rate_limit
from tests.tree.machine import VOL1, VOL10, Machine

NAMES = [f"iqn.2001-05.com.equallogic:invented-{number}" for number in range(12)]


def test_lookups_of_invented_names_share_one_discovery(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}\nattempts = 4")
    lookups = [machine.start(name) for name in NAMES]
    answers = [lookup.answer() for lookup in lookups]
    assert {answer.status for answer in answers} == {1}
    assert all(f"discovery at {portal}: the target is not off" in a.log for a in answers)
    seconds = max(answer.seconds for answer in answers)
    assert 1 <= len(machine.runs("discovery")) <= 1 + seconds / rate_limit.OFFER_LIFETIME
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)
    # A target that is presented now is found as soon as the remembered answer is too old.
    machine.target(VOL10, portal, record=False)
    machine.wait_for(lambda: machine.lookup(VOL10).status == 0, "a new target")


def test_an_answer_that_came_while_a_lookup_waited_is_not_asked_for_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow portal: its answer is too old for everybody else when the next lookup has its turn."""
    monkeypatch.setattr(rate_limit, "OFFER_LIFETIME", 0.0)
    portal = portals.parse(machine.portal())
    host, settings = machine.host, schema.resolve([], VOL1)
    until = time.monotonic() + 30
    search = discovery.Search(host, VOL1, settings, until)
    handle = claims.lock(host, f"discovery/{portal}", until)
    assert handle is not None
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(search.ask(portal)))
    waiting.start()
    waiting.join(0.3)
    rate_limit.remember_offer(host, str(portal), "offered")
    claims.unlock(host, f"discovery/{portal}", handle)
    waiting.join(30)
    assert answers == ["offered"]
    assert not machine.runs("discovery")


def test_after_some_failed_logins_a_target_is_not_asked_again_yet(machine: Machine) -> None:
    portal = machine.target(VOL1, answers={"login": {"exit": 19}})
    machine.target(VOL10, portal)
    machine.configure("attempts = 8")
    answers = [machine.lookup(VOL1) for _ in range(5)]
    assert len(machine.runs("--login")) == 2
    assert ["(iscsiadm exit 19)" in answer.log for answer in answers] == [True] * 2 + [False] * 3
    assert answers[2].log.startswith(
        f"{VOL1}: 2 failed attempts in the last minute, 2 on this host; try again in "
    )
    # One target may use a quarter of the attempts, so others still have some.
    assert machine.visit(VOL10) == machine.entry(VOL10, portal)
    machine.change(VOL1, answers={})
    machine.configure("attempts = 40")
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)


def test_successful_attempts_are_not_counted(machine: Machine) -> None:
    portal = machine.portal()
    for name in NAMES:
        machine.target(name, portal, record=False)
    machine.configure(f"portals = {portal}\nattempts = 4")
    for name in NAMES:
        assert machine.visit(name) == machine.entry(name, portal)


def test_an_attempt_is_counted_for_a_minute(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(claims, "now", lambda: clock[0])

    def begin(subject: str) -> float:
        return rate_limit.begin(machine.host, subject, 8, float("inf"))

    for number in range(8):
        begin(f"target-{number}")
        clock[0] += 1
    with pytest.raises(errors.TooOften, match="8 on this host; try again in 52 s"):
        begin("another")
    clock[0] += 51.9
    with pytest.raises(errors.TooOften):
        begin("another")
    clock[0] += 0.2
    began = begin("another")
    with pytest.raises(errors.TooOften):
        begin("one more")
    rate_limit.undo(machine.host, "another", began, float("inf"))
    begin("one more")
