"""Snapshots are presented at the SAN and revoked, and killed at every step."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.config import san_files
from auto_iscsi.drivers import protocol
from auto_iscsi.san import calls, leases, listings, presenting
from tests.tree.machine import NO_CACHE, PATIENCE, REPOSITORY, Answer, Machine
from tests.tree.sans import CONFIGURATION, DRIVER, FILE, IQN, PROGRAM, SNAPSHOT, San


@pytest.fixture
def san(machine: Machine) -> San:
    return San(machine)


def state(san: San) -> str:
    (lease,) = san.leases()
    return lease.state


def test_what_the_san_has_is_listed_and_nothing_else(san: San) -> None:
    data = json.loads(san.run("list", "--json"))
    seen = [(each["volume"], each["snapshot"], each["presented"]) for each in data["snapshots"]]
    assert seen == [
        ("vm-beta", "tuesday", False),
        ("vm-beta", "monday", False),
        ("vm-gamma", "monday", False),
    ]
    assert "secret" not in san.run("list")
    san.machine.program(PROGRAM, "list")
    explained = san.machine.program(PROGRAM, "explain", SNAPSHOT)
    assert explained.returncode == 1 and "auto-iscsi explain eql shows" in explained.stderr


def test_the_list_is_asked_for_once_in_five_seconds(san: San) -> None:
    host = san.machine.host
    found = san_files.find(host, "eql")
    first = calls.recent_snapshots(host, found, time.monotonic() + PATIENCE)
    (san.array / "vm-beta/monday").unlink()
    assert calls.recent_snapshots(host, found, time.monotonic() + PATIENCE) == first
    assert san.calls() == ["info", "list"]
    (san.machine.root / "run/auto-iscsi/san/eql.list").write_text("0.0\n[]")
    assert len(calls.recent_snapshots(host, found, time.monotonic() + PATIENCE).snapshots) == 2


def test_doctor_asks_a_san_only_when_it_is_told_to(san: San) -> None:
    def finding(*words: str) -> dict[str, str]:
        done = san.machine.program(PROGRAM, "doctor", "--json", *words)
        found = {each["code"]: each for each in json.loads(done.stdout)["checks"]}
        assert found["san"]["level"] == "ok"
        return dict(found.get("san-answers", {}))

    (san.machine.root / "usr/sbin/iscsiadm").unlink()  # the fake one has no --version
    assert finding() == {} and san.calls() == []
    assert finding("--san")["level"] == "ok" and "list" in san.calls()
    san.plan(list={"raw": "nonsense"})
    assert finding("--san")["level"] == "problem"


def test_without_volumes_nothing_exists(san: San) -> None:
    san.configure(base="driver = fake\npresent = yes\nrun_as = root\n")
    assert (
        json.loads(san.machine.program(PROGRAM, "san", "list", "--json").stdout)["snapshots"] == []
    )
    assert "no volume vm-beta" in san.run("present", "eql", SNAPSHOT, status=1)
    assert "present" not in san.calls()


def test_presented_in_the_journal_and_revoked(san: San) -> None:
    assert IQN in san.run("present", "eql", SNAPSHOT)
    assert san.presented() == [SNAPSHOT] and state(san) == leases.PRESENTED
    assert "presented" in san.run("list")
    assert SNAPSHOT in san.run("journal")
    san.run("present", "eql", SNAPSHOT)  # again: the same lease
    assert len(san.leases()) == 1
    san.run("revoke", "eql", SNAPSHOT)
    assert (san.presented(), san.leases()) == ([], [])
    assert "nothing is presented" in san.run("journal")
    assert "has not had" in san.run("revoke", "eql", SNAPSHOT, status=1)


def test_a_typed_name_reaches_no_driver(san: San) -> None:
    for name in ("vm-beta@gone", "vm-beta@mon*", "vm-beta@../../x", "vm-;x@monday", "vm-beta"):
        assert "no snapshot" in san.run("present", "eql", name, status=1)
    assert "no volume" in san.run("present", "eql", "secret@monday", status=1)
    assert set(san.calls()) == {"info", "list"} and san.leases() == []


def test_listing_only_is_the_default(san: San) -> None:
    san.configure(base="driver = fake\nvolumes = *\nrun_as = root\n")
    assert "present = yes" in san.run("present", "eql", SNAPSHOT, status=1)
    assert san.calls() == []


def test_the_limits_hold(san: San) -> None:
    san.configure("max_presented = 1\n")
    san.run("present", "eql", SNAPSHOT)
    san.run("present", "eql", SNAPSHOT)  # that is no other one
    assert "max_presented" in san.run("present", "eql", "vm-beta@tuesday", status=1)
    san.configure("max_per_minute = 1\n")
    assert "max_per_minute" in san.run("present", "eql", "vm-beta@tuesday", status=1)
    assert san.presented() == [SNAPSHOT]


def ask(san: San, user: str, uid: str = "4711") -> leases.Lease:
    """Present the snapshot of Monday as a visit of a user would."""
    host = san.machine.host
    found = san_files.find(host, "eql")
    snapshot = protocol.Snapshot("vm-beta", "monday", "vm-beta/monday")
    asker = presenting.Asker(uid, user)
    return presenting.present(host, found, snapshot, asker, time.monotonic() + PATIENCE)


def test_who_is_not_allowed_is_refused_before_the_driver_is_asked(san: San) -> None:
    with pytest.raises(errors.NotAllowed, match="jo .4711. may not present"):
        ask(san, "jo")
    with pytest.raises(errors.NotAllowed):
        ask(san, "-", "-")
    assert (san.calls(), san.leases()) == ([], [])
    san.configure("allow = jo\n")
    assert ask(san, "jo").user == "jo"
    assert ask(san, "root", "0").target  # who could present without a visit


# Visits


def present_there(san: San) -> str:
    """Have the initiator reach what the array presents; return the portal."""
    portal = san.machine.target(IQN, record=False)
    san.plan(present={"portal": portal})
    return portal


def test_a_visit_presents_and_the_reaper_revokes(san: San) -> None:
    machine, portal = san.machine, present_there(san)
    answer = machine.lookup(SNAPSHOT)
    assert (answer.entry, answer.status) == (machine.entry(IQN, portal), 0), answer.log
    assert san.calls() == ["info", "list", "present"]
    assert san.presented() == [SNAPSHOT] and state(san) == leases.LOGGED_IN
    # What is logged in is used as it is.
    time.sleep(3.1)  # the next lookup would wait for the mount of this one
    assert machine.lookup(SNAPSHOT).entry == answer.entry
    assert san.calls() == [] and len(machine.sids()) == 1
    machine.configure(f"portals = {portal}\nidle = 0\nlease = 1s")
    time.sleep(1.1)
    assert machine.reap("--wait", "20s").status == 0
    assert (machine.sids(), san.presented(), san.leases()) == ([], [], [])
    assert "revoke" in san.calls()


def test_a_key_selects_only_what_the_san_lists(san: San) -> None:
    present_there(san)
    for key in ("vm-beta@gone", "vm-beta@mon*", "vm-beta@../../x", "vm-;x@monday", "@monday"):
        answer = san.machine.lookup(key)
        assert answer.status == 1 and len(answer.log.splitlines()) == 1, answer.log
    assert set(san.calls()) <= {"info", "list"}
    assert "no SAN has secret" in san.machine.lookup("secret@monday").log
    assert san.calls() == [] and san.leases() == []


def visit_as(san: San, user: str, uid: int) -> Answer:
    """Look the snapshot up as automount would for a user."""
    san.machine.files({f"/proc/{os.getpid()}/stat": f"{os.getpid()} (automount) S 1 1 1 0"})
    under = ("/usr/bin/env", f"AUTOFS_UID={uid}", f"AUTOFS_USER={user}")
    return san.machine.start(SNAPSHOT, under=under).answer()


def test_a_visit_of_somebody_who_may_not_present_asks_no_driver(san: San) -> None:
    portal = present_there(san)
    answer = visit_as(san, "jo", 4711)
    assert answer.status == 1 and "user jo (4711) may not present" in answer.log
    assert (san.calls(), san.leases()) == ([], [])
    san.configure("allow = jo\n")
    assert visit_as(san, "jo", 4711).status == 0
    # What is presented already can be visited by everybody.
    san.configure()
    time.sleep(3.1)
    assert visit_as(san, "jo", 4711).entry == san.machine.entry(IQN, portal)


def test_root_may_present_whoever_else_is_named(san: San) -> None:
    present_there(san)
    san.configure("allow = jo\n")
    assert visit_as(san, "root", 0).status == 0


def test_the_wrong_file_of_a_san_keeps_no_other_one_from_a_visit(san: San) -> None:
    portal = present_there(san)
    san.machine.files({"/etc/auto.iscsi.san.d/aaa.conf": "driver = fake\nvolume = *\n"})
    assert san.machine.lookup(SNAPSHOT).entry == san.machine.entry(IQN, portal)
    # It could be the one that has what no other one has.
    assert "aaa.conf:2" in san.machine.lookup("home@monday").log


def test_a_driver_that_hangs_ends_with_the_lookup(san: San) -> None:
    portal = present_there(san)
    san.configure("timeout = 5m\n")
    san.plan(present={"wait_after": "never"}, revoke={"wait": "never"})
    san.machine.configure("lookup_timeout = 6s\n")
    answer = san.machine.lookup(SNAPSHOT)
    assert answer.status == 1 and "(timeout)" in answer.log
    (lease,) = san.leases()  # the reaper revokes it later
    assert presenting.decide(san.machine.host, lease).action == presenting.WAIT
    san.plan(present={"portal": portal})
    answer = san.machine.lookup(SNAPSHOT)
    assert answer.entry == san.machine.entry(IQN, portal), answer.log
    assert [each.lease for each in san.leases()] == [lease.lease]


def test_sans_are_asked_at_the_same_time(san: San) -> None:
    """Each of two drivers answers when the other one has been asked, too."""
    for name, other in (("aaa", "zzz"), ("zzz", "aaa")):
        driver = f"/usr/libexec/auto-iscsi/drivers/{name}"
        folder = san.machine.root / "san"
        san.machine.files(
            {
                f"/etc/auto.iscsi.san.d/{name}.conf": CONFIGURATION.replace("fake", name),
                driver: f"#!/bin/sh\n: >{folder}/{name}\n"
                f"while [ ! -e {folder}/{other} ]; do sleep 0.1; done\nexit 1\n",
            }
        )
        (san.machine.root / driver[1:]).chmod(0o755)
    host = san.machine.host
    sans = [san_files.find(host, name) for name in ("aaa", "eql", "zzz")]
    failures = listings.ask_each(host, sans, time.monotonic() + PATIENCE)
    assert list(failures) == ["aaa", "zzz"]
    assert all("gave no reply" in failure.reason for failure in failures.values())


def test_what_a_san_has_is_in_the_catalogue_under_its_key(san: San) -> None:
    def listed() -> list[tuple[str, str, bool]]:
        done = san.machine.program(PROGRAM, "list", "--json")
        data = json.loads(done.stdout)
        assert [each["target"] for each in data["unnamed"]] == ["vm-gamma@monday"]
        return [(each["key"], each["volume"], each["presented"]) for each in data["snapshots"]]

    before = [("vm-beta@tuesday", "vm-beta", False), (SNAPSHOT, "vm-beta", False)]
    assert listed() == before
    assert set(san.calls()) == {"info", "list"}
    present_there(san)
    assert san.machine.lookup(SNAPSHOT).status == 0
    assert listed() == [before[0], (SNAPSHOT, "vm-beta", True)]
    folder = san.machine.root / "run/auto-iscsi/snapshots/vm-beta"
    leads = {path.name: os.readlink(path) for path in folder.iterdir()}
    newest = leads.pop("latest")
    assert leads[newest] == "/iscsiauto/vm-beta@tuesday"
    assert set(leads.values()) == {leads[newest], f"/iscsiauto/{SNAPSHOT}"}


def test_a_section_that_matches_its_key_hides_it_and_refuses_it_before_the_driver(san: San) -> None:
    """As for a target: enabled = no costs no question, and capitals make no difference."""
    san.machine.files({"/san/array/VM-Pay/monday": "1272859201"})
    san.configure(base=CONFIGURATION.replace("vm-*", "*-*"))
    san.machine.configure("[*vm-pay*]\nenabled = no")
    done = san.machine.program(PROGRAM, "list", "--json")
    assert "VM-Pay@monday" not in done.stdout and SNAPSHOT in done.stdout
    san.calls()
    refused = san.machine.lookup("VM-Pay@monday")
    assert refused.status == 1 and "enabled = no" in refused.log
    assert (san.calls(), san.leases()) == ([], [])


def add_broken_san(san: San) -> Path:
    """Have another SAN whose driver always fails; return the file with a line for each call."""
    asked, driver = san.machine.root / "asked", "/usr/libexec/auto-iscsi/drivers/broken"
    text = CONFIGURATION.replace("fake", "broken")
    launcher = f"#!/bin/sh\necho asked >>{asked}\nexit 1\n"
    san.machine.files({"/etc/auto.iscsi.san.d/aaa.conf": text, driver: launcher})
    (san.machine.root / driver[1:]).chmod(0o755)
    return asked


def test_a_san_that_fails_does_not_keep_another_one_from_a_visit(san: San) -> None:
    portal = present_there(san)
    add_broken_san(san)
    answer = san.machine.lookup(SNAPSHOT)
    assert answer.entry == san.machine.entry(IQN, portal), answer.log
    answer = san.machine.lookup("vm-beta@gone")
    assert answer.status == 1 and "aaa: " in answer.log


def test_a_san_that_fails_is_not_asked_again_at_once(san: San) -> None:
    asked = add_broken_san(san)
    host = san.machine.host
    broken = san_files.find(host, "aaa")
    for _ in range(3):
        with pytest.raises(errors.SanFailure, match="gave no reply"):
            calls.recent_snapshots(host, broken, time.monotonic() + PATIENCE)
    assert asked.read_text() == "asked\n"
    failed = san.machine.root / "run/auto-iscsi/san/aaa.list.failed"
    failed.write_text(f"0.0\n{failed.read_text().partition(chr(10))[2]}")
    with pytest.raises(errors.SanFailure):
        calls.recent_snapshots(host, broken, time.monotonic() + PATIENCE)
    assert asked.read_text() == "asked\n" * 2


def test_a_record_of_what_is_not_presented_any_more_hides_no_snapshot(san: San) -> None:
    prefix = "iqn.2001-05.com.equallogic:0-8a0906-4a90da503-e2e3e8c1f704be"
    portal = san.machine.target(f"{prefix}-vm-beta-2010-05-03-04:00:01.50612", offered=False)
    san.machine.configure(f"timezone = UTC\nportals = {portal}\n")
    data = json.loads(san.machine.program(PROGRAM, "list", "--json").stdout)
    keys = [each["key"] for each in data["snapshots"]]
    assert keys == ["vm-beta@tuesday", SNAPSHOT]
    folder = san.machine.root / "run/auto-iscsi/snapshots/vm-beta"
    leads = {os.readlink(path) for path in folder.iterdir()}
    assert f"/iscsiauto/{SNAPSHOT}" in leads


def test_a_session_keeps_it_presented(san: San) -> None:
    san.run("present", "eql", SNAPSHOT)
    san.machine.target(IQN, "127.0.0.1:3260", record=False)
    sid = san.machine.session(IQN, "127.0.0.1:3260")
    assert f"session {sid} exists" in san.run("revoke", "eql", SNAPSHOT, status=1)
    san.boot("another")
    san.calls()
    assert f"keep: session {sid} exists" in san.run("journal", "--finish")
    assert san.calls() == [] and san.presented() == [SNAPSHOT]
    san.machine.log_out(sid)
    san.run("journal", "--finish")
    assert (san.presented(), san.leases()) == ([], [])


def test_the_reaper_revokes_what_nobody_needs(san: San) -> None:
    san.run("present", "eql", SNAPSHOT)
    assert san.machine.reap().out == "" and san.presented() == [SNAPSHOT]  # a login may follow
    san.boot("another")
    assert san.machine.reap("--no-san").out == "" and san.presented() == [SNAPSHOT]
    assert "revoked eql: vm-beta@monday" in san.machine.reap().out
    assert (san.presented(), san.leases()) == ([], [])


def test_what_somebody_else_presented_is_used_and_left(san: San) -> None:
    (san.array / "vm-beta/monday.lease").write_text("somebody else's")
    assert IQN in san.run("present", "eql", SNAPSHOT)
    assert san.leases()[0].made == ()
    san.calls()
    san.run("revoke", "eql", SNAPSHOT)
    assert "revoke" not in san.calls()
    assert san.presented() == [SNAPSHOT] and san.leases() == []


@pytest.mark.parametrize("code", ["denied", "not_found", "busy"])
def test_an_error_without_effect_leaves_nothing(san: San, code: str) -> None:
    san.plan(present={"error": {"code": code, "message": "no\n\033[1m", "effect": "none"}})
    (san.array / "vm-beta/monday.lease").write_text("somebody else's")
    said = san.run("present", "eql", SNAPSHOT, status=1)
    assert f"({code})" in said and "\033" not in said
    assert san.leases() == [] and "revoke" not in san.calls()


def test_an_unknown_effect_is_followed_by_revoke(san: San) -> None:
    san.plan(present={"error": {"code": "timeout", "message": "?", "effect": "unknown"}})
    san.run("present", "eql", SNAPSHOT, status=1)
    assert (san.presented(), san.leases()) == ([], [])
    assert san.calls()[-1] == "revoke"


@pytest.mark.parametrize(
    ("raw", "status"), [("garbage", 0), ("", 1), ('{"ok": true}', 0), ('{"ok": true}', 1)]
)
def test_garbage_is_followed_by_revoke(san: San, raw: str, status: int) -> None:
    san.plan(present={"raw": raw, "status": status})
    san.run("present", "eql", SNAPSHOT, status=1)
    assert san.leases() == [] and san.calls()[-1] == "revoke"


def test_a_driver_that_hangs_is_ended_and_undone(san: San) -> None:
    san.configure("timeout = 2s\n")
    san.plan(present={"wait_after": "never"})
    assert "(timeout)" in san.run("present", "eql", SNAPSHOT, status=1)
    assert (san.presented(), san.leases()) == ([], [])


def test_a_revoke_that_fails_is_kept_shown_and_tried_again(san: San) -> None:
    san.run("present", "eql", SNAPSHOT)
    san.plan(revoke={"error": {"code": "unreachable", "message": "the cable"}})
    assert "the cable" in san.run("revoke", "eql", SNAPSHOT, status=1)
    (lease,) = san.leases()
    assert (lease.state, lease.attempts) == (leases.LOGGED_OUT, 1)
    shown = san.machine.program(PROGRAM, "san", "journal", "--finish")
    assert shown.returncode == 1 and "revoke failed 1x, again in" in shown.stdout
    status = san.machine.program(PROGRAM, "status")
    assert status.returncode == 1 and "the cable" in status.stdout
    data = json.loads(san.machine.program(PROGRAM, "status", "--json").stdout)
    assert data["problems"] == [{"code": "not-revoked", "target": IQN, "session": None}]
    metrics = san.machine.program(PROGRAM, "status", "--metrics").stdout
    assert 'auto_iscsi_presented{san="eql",state="LOGGED_OUT"} 1' in metrics
    assert 'auto_iscsi_problems{code="not-revoked"} 1' in metrics
    san.plan()
    leases.write(san.machine.host, lease._replace(changed=lease.changed - 61))
    san.run("journal", "--finish")
    assert (san.presented(), san.leases()) == ([], [])


def test_a_lease_is_taken_over_after_a_failed_revoke(san: San) -> None:
    san.run("present", "eql", SNAPSHOT)
    san.plan(revoke={"error": {"code": "busy", "message": "later"}})
    san.run("revoke", "eql", SNAPSHOT, status=1)
    san.plan()
    san.run("present", "eql", SNAPSHOT)
    (lease,) = san.leases()
    assert (lease.state, lease.attempts, lease.made) == (leases.PRESENTED, 0, ("mark",))


def test_two_snapshots_cannot_be_one_target(san: San) -> None:
    san.run("present", "eql", SNAPSHOT)
    san.plan(present={"iqn": IQN})
    assert "which vm-beta@monday has" in san.run("present", "eql", "vm-beta@tuesday", status=1)
    assert san.presented() == [SNAPSHOT] and len(san.leases()) == 1


def test_a_driver_that_others_can_write_is_not_run(san: San) -> None:
    folder = (san.machine.root / DRIVER[1:]).parent
    folder.chmod(0o777)
    assert "others than root can write" in san.run("present", "eql", SNAPSHOT, status=1)
    folder.chmod(0o755)
    os.chown(san.machine.root / DRIVER[1:], 65534, 0)
    assert "belongs to user 65534" in san.run("present", "eql", SNAPSHOT, status=1)
    assert san.calls() == []


def test_a_link_to_a_driver_that_others_can_replace_is_not_followed(san: San) -> None:
    driver = san.machine.root / DRIVER[1:]
    away = san.machine.root / "home"
    away.mkdir()
    driver.rename(away / "driver")
    driver.symlink_to("../" * DRIVER[1:].count("/") + "home/driver")
    away.chmod(0o777)
    assert "others than root can write /home" in san.run("present", "eql", SNAPSHOT, status=1)
    assert san.calls() == []
    away.chmod(0o755)
    san.run("present", "eql", SNAPSHOT)


@pytest.mark.parametrize(
    "changed",
    [
        {"began": None},
        {"attempts": "1"},
        {"made": "acl"},
        {"handle": 3},
        {"san": "../eql"},
        {"target": {"iqn": 5, "portals": [1], "lun": 0, "shared": False, "wwid": None}},
        None,  # deeper than the parser goes
    ],
)
def test_a_lease_with_another_kind_of_value_is_damaged(
    san: San, changed: dict[str, object] | None
) -> None:
    """It ended every list of the journal: that of the reaper, and of each lookup at a SAN."""
    san.run("present", "eql", SNAPSHOT)
    (lease,) = san.leases()
    file = san.machine.root / leases.FOLDER[1:] / lease.lease
    written = {**json.loads(file.read_text()), **(changed or {})}
    file.write_text(json.dumps(written) if changed else "[" * 100_000)
    known, damaged = leases.list_all(san.machine.host)
    assert (known, [each.lease for each in damaged]) == ([], [lease.lease])
    san.run("present", "eql", "vm-gamma@monday")  # the others go on


def test_a_damaged_lease_is_named_and_stays(san: San) -> None:
    name = "0b7e6f9a-6e05-4c50-9d1e-1f6f0d4e4f5a"
    san.machine.files({f"{leases.FOLDER}/{name}": "{"})
    shown = san.machine.program(PROGRAM, "san", "journal", "--finish")
    assert shown.returncode == 1 and name in shown.stdout
    assert (san.machine.root / leases.FOLDER[1:] / name).exists()


def test_without_its_file_a_lease_stays_and_the_reaper_says_so(san: San) -> None:
    san.run("present", "eql", SNAPSHOT)
    (san.machine.root / FILE[1:]).unlink()
    san.boot("another")
    reaped = san.machine.reap()
    assert reaped.status == 1 and "no SAN is called eql" in reaped.err
    assert len(san.leases()) == 1


#: Runs a command where the journal is on a filesystem with room for one lease.
LITTLE_ROOM = """
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p "$0/var/lib/auto-iscsi/san"
mount -t tmpfs -o size=4k none "$0/var/lib/auto-iscsi/san" || exit 99
PATH=/ "$@"
echo "exit $?, left:" "$0"/var/lib/auto-iscsi/san/*-*
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a mount namespace")
def test_without_space_for_the_journal_nothing_stays_presented(san: San) -> None:
    root = str(san.machine.root)
    room = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", LITTLE_ROOM, root)
    done = san.machine.program((*room, *PROGRAM), "san", "present", "eql", SNAPSHOT)
    assert "no space left on device" in done.stderr, done.stdout
    assert san.presented() == [] and san.calls()[-2:] == ["present", "revoke"]
    assert done.stdout == f"exit 1, left: {root}/var/lib/auto-iscsi/san/*-*\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a mount namespace")
def test_a_journal_that_is_read_only_by_now_is_no_bug(san: San) -> None:
    san.run("present", "eql", SNAPSHOT)
    folder = f"{san.machine.root}/var/lib/auto-iscsi/san"
    script = '/usr/bin/mount --bind -o ro "$0" "$0" || exit 99; PATH=/ "$@"'
    read_only = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, folder)
    done = san.machine.program((*read_only, *PROGRAM), "san", "revoke", "eql", SNAPSHOT)
    assert done.returncode == 1 and "read-only file system" in done.stderr, done.stderr
    assert san.presented() == [] and len(san.leases()) == 1
    san.run("revoke", "eql", SNAPSHOT)
    assert san.leases() == []


# Killed


def killed(san: San, *words: str) -> Iterator[int]:
    """Kill the program before its first change, its second, … until it ends by itself."""
    san.configure("max_per_minute = 1000\n")
    for number in itertools.count(1):
        root = str(san.machine.root)
        command = (sys.executable, "-m", "tests.tree.steps", f"{number}", "-", root)
        done = san.machine.program(command, "san", *words)
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0 and number > 10, (number, done.stderr)
            return
        yield number


def check_undone(san: San, step: int) -> None:
    """Check that the next boot's finish leaves nothing."""
    san.boot(f"after {step}")
    san.run("journal", "--finish")
    assert (san.presented(), san.leases()) == ([], []), step


@pytest.mark.parametrize("following", ["present", "finish"])
def test_killed_at_every_step_of_present(san: San, following: str) -> None:
    for step in killed(san, "present", "eql", SNAPSHOT):
        assert len(san.leases()) <= 1
        assert not san.presented() or san.leases(), f"{step}: presented, and nobody knows"
        if following == "present":
            assert IQN in san.run("present", "eql", SNAPSHOT)
            assert san.presented() == [SNAPSHOT] and len(san.leases()) == 1, step
            assert state(san) == leases.PRESENTED
        check_undone(san, step)


def test_killed_at_every_step_of_revoke(san: San) -> None:
    san.run("present", "eql", SNAPSHOT)
    for step in killed(san, "revoke", "eql", SNAPSHOT):
        assert not san.presented() or san.leases(), f"{step}: presented, and nobody knows"
        check_undone(san, step)
        san.run("present", "eql", SNAPSHOT)


@pytest.mark.parametrize("moment", ["wait", "wait_after"])
@pytest.mark.parametrize("verb", ["present", "revoke"])
def test_killed_while_the_driver_works(san: San, verb: str, moment: str) -> None:
    """The driver ends with us, and what it may have done is undone."""
    if verb == "revoke":
        san.run("present", "eql", SNAPSHOT)
    san.calls()
    san.plan(**{verb: {moment: "never"}})
    command = [*PROGRAM, "--root", str(san.machine.root), "san", verb, "eql", SNAPSHOT]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/", **NO_CACHE}
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as run:
        calls = san.array / "calls"
        until = time.monotonic() + PATIENCE
        while not (calls.exists() and f"{verb} " in calls.read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
        if moment == "wait_after":
            while bool(san.presented()) is not (verb == "present"):
                assert time.monotonic() < until
                time.sleep(0.05)
        driver = int(calls.read_text().split(f"{verb} ")[1].split()[0])
        assert len(san.leases()) == 1
        run.kill()
    while os.path.exists(f"/proc/{driver}/cmdline") and is_alive(driver):
        assert time.monotonic() < until, "the driver goes on"
        time.sleep(0.05)
    san.plan()
    check_undone(san, 0)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_half_written_lease_is_deleted_later(san: San) -> None:
    san.machine.files({f"{leases.FOLDER}/.half": "{"})
    san.run("journal", "--finish")
    assert len(san.drafts()) == 1
    (draft,) = san.drafts()
    os.utime(draft, (0, 0))
    san.run("journal", "--finish")
    assert san.drafts() == []
