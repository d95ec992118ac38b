"""A driver in Python answers by the protocol, whatever it is asked and whatever it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timezone
from pathlib import Path
from typing import Any

import pytest

from auto_iscsi.drivers import eqlx_output, protocol, wire
from auto_iscsi.san import replies

ROOT = Path(__file__).resolve().parents[2]
REQUEST = {
    "protocol": 1,
    "request_id": "a1",
    "san": "eql",
    "deadline_s": 20,
    "config": {"address": "10.0.0.5", "options": {"mode": "own"}},
}
WANTED = {
    **REQUEST,
    "volume": "vm-beta",
    "snapshot": "vm-beta-2010-05-03-04:00:01.50612",
    "id": "vm-beta/7",
    "initiator": "iqn.1993-08.org.debian:01:browse",
    "host": "browse",
    "lease": "0b7e6f9a-6e05-4c50-9d1e-1f6f0d4e4f5a",
    "readonly": True,
}
HEAD = """
import sys, time
from auto_iscsi.drivers import protocol, wire
def list_snapshots(call): return protocol.Listing([protocol.Snapshot("v", "s", "i", 1272859201.0)])
def present(call, wanted): return protocol.Presented(protocol.Target("iqn.2001-05.x:y", ["a:1"]))
def revoke(call, wanted): return protocol.Revoked()
"""
TAIL = """
driver = protocol.Driver("t", "own", list_snapshots, present, revoke)
sys.exit(protocol.serve(driver))
"""


def run(verb: str, request: Any, code: str = "", **options: Any) -> tuple[int, Any, str]:
    """Run a driver; return its exit status, its reply and its log."""
    text = request if isinstance(request, bytes) else json.dumps(request).encode()
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code + TAIL, *verb.split()],
        input=text,
        capture_output=True,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
        timeout=60,
        **options,
    )
    return done.returncode, json.loads(done.stdout), done.stderr.decode()


def error(verb: str, request: Any, code: str = "") -> tuple[int, str, str]:
    """Run a driver that must refuse; return its exit status, the code and the effect."""
    status, reply, _ = run(verb, request, code)
    assert reply["ok"] is False and reply["error"]["message"].isprintable()
    return status, reply["error"]["code"], reply["error"]["effect"]


def test_each_verb_has_its_reply() -> None:
    info = run("info", REQUEST)
    assert info[0] == 0 and info[1]["protocols"] == [1] and info[1]["target_model"] == "own"
    status, listed, _ = run("list", REQUEST)
    (snapshot,) = listed["snapshots"]
    assert (status, snapshot["created"]) == (0, "2010-05-03T04:00:01Z")
    status, presented, _ = run("present", WANTED)
    assert (status, presented["target"]["portals"], presented["made"]) == (0, ["a:1"], [])
    assert run("revoke", {**WANTED, "made": ["acl"], "handle": {"acl": "3"}})[1]["ok"]


@pytest.mark.parametrize("request_", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, {"protocol": 2}])
def test_what_is_no_request_is_refused(request_: Any) -> None:
    status, code, effect = error("present", request_)
    assert (status, effect) == (1, "none") and code in ("invalid", "unsupported")


@pytest.mark.parametrize("verb", ["", "format", "info list"])
def test_another_verb_is_refused(verb: str) -> None:
    assert error(verb, REQUEST) == (1, "unsupported", "none")


@pytest.mark.parametrize("member", ["volume", "snapshot", "id", "initiator", "host", "lease"])
@pytest.mark.parametrize("text", ["v\nshow", "a;b", "-x", "", None, 7, "$(x)", "a" * 400, "ä"])
def test_a_text_of_another_form_reaches_no_array(member: str, text: Any) -> None:
    code = "def present(call, wanted): raise SystemExit(9)"
    assert error("present", {**WANTED, member: text}, code) == (1, "invalid", "none")


def test_nothing_is_presented_writable() -> None:
    assert error("present", {**WANTED, "readonly": False})[1] == "unsupported"


REFUSALS = {
    "raise wire.Refused('busy', 'x')": (75, "busy", "none"),
    "raise wire.Refused('denied', 'x')": (1, "denied", "none"),
    "raise wire.Refused('exhausted', 'x', retry_after_s=5)": (75, "exhausted", "none"),
    "raise wire.Refused('timeout', 'x')": (75, "timeout", "unknown"),
    "call.about_to_change(); raise wire.Refused('busy', 'x')": (75, "busy", "unknown"),
    "call.nothing_changed(); raise wire.Refused('timeout', 'x')": (75, "timeout", "none"),
    "call.about_to_change(); call.nothing_changed(); raise wire.Refused('auth', 'x')": (
        1,
        "auth",
        "none",
    ),
    "raise wire.Refused('no such code', 'x')": (1, "internal", "unknown"),
    "raise RuntimeError('a\\nbug')": (1, "internal", "unknown"),
}


@pytest.mark.parametrize("line", REFUSALS)
def test_an_error_says_what_it_has_changed(line: str) -> None:
    assert error("present", WANTED, f"def present(call, wanted): {line}") == REFUSALS[line]


def test_the_end_of_the_time_ends_a_call() -> None:
    code = "def present(call, wanted): time.sleep(50)"
    assert error("present", {**WANTED, "deadline_s": 1.5}, code) == (75, "timeout", "unknown")


def test_secrets_come_by_descriptors_and_a_key_is_private() -> None:
    code = """
def list_snapshots(call):
    import os
    path = call.key_path()
    assert open(path).read() == "the key" and os.stat(path).st_mode & 0o777 == 0o600
    raise wire.Refused("denied", call.secret() + " " + call.option("mode"))
"""
    handles = [os.memfd_create("x"), os.memfd_create("y")]
    os.write(handles[0], b"pass word\nmore")
    os.write(handles[1], b"the key")
    request = {**REQUEST, "config": {**REQUEST["config"], "secret_fd": handles[0]}}  # type: ignore
    request["config"]["key_fd"] = handles[1]  # type: ignore[index]
    status, reply, _ = run("list", request, code, pass_fds=handles)
    assert (status, reply["error"]["message"]) == (1, "pass word own")
    assert error("list", REQUEST, code)[1] == "invalid"


@pytest.mark.parametrize("year", ["0001", "0500", "0999", "1000", "9998", "9999"])
def test_the_name_of_one_snapshot_does_not_break_the_list_of_its_san(year: str) -> None:
    """Whoever may take snapshots of one volume at the array names them."""
    at = eqlx_output.created(f"vm-{year}-06-01-00:00:00", timezone.utc)
    told = protocol._told(protocol.Snapshot("vm", "s", "vm/s", created=at, created_from="name"))
    (listed,) = replies.listing({"snapshots": [told]}, "eql1").snapshots
    is_time = year in ("0500", "0999", "1000", "9998")
    assert (listed.created, listed.created_from) == ((at, "name") if is_time else (None, "none"))


@pytest.mark.parametrize("seconds", [1e30, float("inf"), float("nan"), -1e12])
def test_a_time_outside_the_calendar_is_none(seconds: float) -> None:
    assert wire.written_time(seconds) is None
