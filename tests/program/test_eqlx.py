"""The driver `eqlx` and a group command line of our own, with a real ssh and sshd between them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.program import group
from tests.program.group import INITIATOR, LEASE, LEASE2, OTHER, SECOND, SNAPSHOT, VOLUME, Group

DIST = group.DRIVER.parents[1]
MADE = ["acl", "online", "readonly"]


@pytest.fixture
def eql(tmp_path: Path) -> Iterator[Group]:
    """A group with one volume of two snapshots, which another host is admitted to."""
    if what := group.lacking():
        pytest.skip(f"needs {what}")
    made = Group(tmp_path)
    try:
        yield made
        assert made.sessions() == 0, "a session was left behind"
    finally:
        made.close()


def untouched(eql: Group) -> bool:
    """Tell whether the group is as it was, but for the description of a snapshot."""
    for each in eql.volume["snapshots"].values():
        state = (each["status"], each["permission"], each["description"] in ("", "auto-iscsi"))
        if state != ("offline", "read-write", True):
            return False
    return eql.records == [group.access(OTHER)] and eql.volume["status"] == "online"


def test_snapshots_are_listed_with_their_times(eql: Group) -> None:
    eql.change(SECOND, status="online")
    reply = eql.call("list", volume=None, initiator=INITIATOR)
    assert reply["complete"]
    first, second = reply["snapshots"]
    assert first["snapshot"] == SNAPSHOT and first["id"] == f"{VOLUME}/{SNAPSHOT}"
    assert (first["created"], first["created_from"]) == ("2010-05-03T04:00:01Z", "name")
    assert [each["presented"] for each in (first, second)] == [False, False]
    assert [each["state"] for each in (first, second)] == ["offline", "ready"]
    eql.admit(group.access(OTHER), group.access(INITIATOR, "snapshot"))
    reply = eql.call("list", volume=VOLUME, initiator=INITIATOR, presented_only=True)
    assert [each["snapshot"] for each in reply["snapshots"]] == [SECOND]
    assert eql.changes() == []


def test_present_and_revoke_twice_each(eql: Group) -> None:
    first, second = eql.present(), eql.present()
    assert first["ok"] and (first["already"], second["already"]) == (False, True)
    assert {**first, "already": True} == second
    assert first["target"] == {
        "iqn": f"{group.PREFIX}-{SNAPSHOT}",
        "portals": ["127.0.0.1:3260"],
        "lun": 0,
        "shared": False,
        "wwid": None,
    }
    assert first["made"] == MADE
    assert eql.of(SNAPSHOT)[:2] == ("online", "read-only")
    assert eql.records == [group.access(OTHER), group.access(INITIATOR, "snapshot")]
    given = {"made": first["made"], "handle": first["handle"]}
    assert eql.revoke(**given) == {"ok": True, "already": False, "kept": []}
    assert eql.revoke(**given) == {"ok": True, "already": True, "kept": []}
    assert untouched(eql)


def test_it_is_read_only_and_admitted_before_it_is_online(eql: Group) -> None:
    eql.present()
    verbs = [line.split() for line in eql.changes()]
    assert [words[-2] if "description" in words else words[-1] for words in verbs] == [
        "description",
        "read-only",
        "snapshot",  # access create … apply-to snapshot
        "online",
    ]
    assert all(words[:3] == ["volume", "select", VOLUME] for words in verbs)
    assert all(words[3] in ("snapshot", "access") for words in verbs)  # never the volume itself


def test_the_record_is_shared_and_goes_with_the_last_snapshot(eql: Group) -> None:
    one, two = eql.present(), eql.present(SECOND, LEASE2)
    assert one["made"] == two["made"] == MADE and len(eql.records) == 2
    reply = eql.revoke(made=one["made"], handle=one["handle"])
    assert reply["kept"] == [f"acl:{SECOND} needs it"] and len(eql.records) == 2
    assert eql.of(SNAPSHOT)[0] == "offline" and eql.of(SECOND)[0] == "online"
    assert eql.revoke(SECOND, LEASE2, made=two["made"], handle=two["handle"])["kept"] == []
    assert untouched(eql)


@pytest.mark.parametrize("applies", ["snapshot", "both"])
def test_a_record_that_was_there_is_used_and_stays(eql: Group, applies: str) -> None:
    eql.admit(group.access(OTHER), group.access(INITIATOR, applies))
    reply = eql.present()
    assert reply["made"] == ["online", "readonly"] and reply["handle"] is None
    assert len(eql.records) == 2
    eql.revoke(made=reply["made"])
    assert eql.records == [group.access(OTHER), group.access(INITIATOR, applies)]


@pytest.mark.parametrize(
    "record", [group.access(INITIATOR, "volume"), group.access(INITIATOR, "snapshot", "chap")]
)
def test_a_record_that_does_not_admit_us_stays_too(eql: Group, record: dict[str, str]) -> None:
    eql.admit(record, group.access(f"{INITIATOR}0", "snapshot"))
    assert "acl" in eql.present()["made"] and len(eql.records) == 3
    assert eql.revoke()["ok"]
    assert eql.records == [record, group.access(f"{INITIATOR}0", "snapshot")]


def test_a_snapshot_that_was_online_stays_online(eql: Group) -> None:
    eql.change(SNAPSHOT, status="online", description="for the auditors")
    reply = eql.present()
    assert reply["made"] == ["acl"]
    assert eql.of(SNAPSHOT) == ("online", "read-write", "for the auditors")
    assert eql.revoke(made=reply["made"], handle=reply["handle"])["ok"]
    assert eql.of(SNAPSHOT) == ("online", "read-write", "for the auditors")
    assert eql.records == [group.access(OTHER)]


def test_numbers_move_and_the_right_record_is_deleted(eql: Group) -> None:
    eql.admit(group.access(OTHER, "snapshot"), group.access(OTHER))
    reply = eql.present()
    assert reply["handle"] == {"acl": "3"}
    eql.admit(*eql.records[1:], group.access(f"{OTHER}2", "snapshot"))  # ours is number 2 now
    assert eql.revoke(made=reply["made"], handle=reply["handle"])["ok"]
    assert eql.records == [group.access(OTHER), group.access(f"{OTHER}2", "snapshot")]


def test_nothing_is_revoked_under_a_session(eql: Group) -> None:
    made = eql.present()["made"]
    eql.change(SNAPSHOT, connections=1)
    before = eql.changes()
    error = eql.revoke(made=made)["error"]
    assert (error["code"], error["effect"]) == ("busy", "none") and error["retry_after_s"]
    assert eql.changes() == before and eql.of(SNAPSHOT)[0] == "online"
    eql.change(SNAPSHOT, connections=0)
    assert eql.revoke(made=made)["ok"] and untouched(eql)


@pytest.mark.parametrize("word", ["description", "read-only", "create", "online"])
def test_a_present_that_was_killed_is_finished_or_undone(eql: Group, word: str) -> None:
    eql.kill("present", f"after:{word}", **group.wanted())
    eql.wait_for(lambda: eql.sessions() == 0)  # ssh ended with the driver
    assert eql.revoke()["ok"] and untouched(eql)  # nobody knows what it made but the tag
    eql.kill("present", f"after:{word}", **group.wanted())
    again = eql.present()
    assert again["ok"] and again["made"] == MADE and len(eql.records) == 2
    assert eql.revoke(made=again["made"], handle=again["handle"])["ok"] and untouched(eql)


@pytest.mark.parametrize("word", ["offline", "read-write", "delete", "description"])
def test_a_revoke_that_was_killed_is_finished(eql: Group, word: str) -> None:
    made = eql.present()
    request = {**group.wanted(), "made": made["made"], "handle": made["handle"]}
    eql.kill("revoke", f"after:{word}", **request)
    assert eql.call("revoke", **request)["ok"] and untouched(eql)
    assert eql.call("revoke", **request)["already"]


def test_only_the_driver_is_killed_and_no_session_is_left(eql: Group) -> None:
    eql.quirks("hang:before:online")
    process = eql.start("present", **group.wanted())
    eql.wait_for((eql.folder / "hangs").exists, 20)
    process.kill()
    eql.wait_for(lambda: eql.sessions() == 0)
    process.communicate()


def test_the_array_does_not_answer_and_the_driver_says_so_in_time(eql: Group) -> None:
    eql.quirks("hang:before:online")
    before = time.monotonic()
    error = eql.present(deadline=6.0)["error"]
    assert time.monotonic() - before < 12
    assert (error["code"], error["effect"]) == ("timeout", "unknown")
    eql.wait_for(lambda: eql.sessions() == 0)
    eql.quirks()
    assert eql.revoke()["ok"] and untouched(eql)


def test_sigterm_logs_out(eql: Group) -> None:
    eql.quirks("hang:before:grpparams")
    process = eql.start("present", **group.wanted())
    eql.wait_for((eql.folder / "hangs").exists, 20)
    process.send_signal(signal.SIGTERM)
    reply = json.loads(process.communicate(timeout=60)[0])
    assert (reply["error"]["code"], reply["error"]["effect"]) == ("timeout", "none")
    eql.wait_for(lambda: eql.sessions() == 0)


@pytest.mark.parametrize("quirk", ["motd", "reprint", "events", "silent", "asks"])
def test_the_array_has_its_ways(eql: Group, quirk: str) -> None:
    eql.quirks(quirk, "motd")
    made = eql.present()
    assert made["made"] == MADE and eql.present()["already"]
    assert eql.revoke(made=made["made"], handle=made["handle"])["ok"] and untouched(eql)
    error = eql.call("present", **{**group.wanted("vm-beta-0"), "volume": VOLUME})["error"]
    assert error["code"] == "not_found"


def test_a_refused_command_that_is_typed_again_is_added_to_no_other(eql: Group) -> None:
    state = eql.read()
    state["volumes"][VOLUME]["snapshots"] = {}
    state["quirks"] = ["reprint", "stubborn", "no-description"]
    eql.write(state)
    state["volumes"][VOLUME]["snapshots"] = group.group()["volumes"][VOLUME]["snapshots"]
    eql.write(state)
    made = eql.present()
    assert made["ok"] and eql.of(SNAPSHOT)[0] == "online"
    assert eql.revoke(made=made["made"], handle=made["handle"])["ok"] and untouched(eql)
    assert not any(line.count("volume select") > 1 for line in eql.typed())


def test_without_descriptions_the_reply_says_what_was_made(eql: Group) -> None:
    eql.quirks("no-description")
    made = eql.present()
    assert made["made"] == MADE and "not tagged" in eql.stderr
    assert eql.revoke(made=None)["kept"] == ["online:nothing says that this lease made it"]
    assert eql.revoke(made=made["made"], handle=made["handle"])["ok"] and untouched(eql)


def test_without_descriptions_a_record_stays_while_it_may_be_needed(eql: Group) -> None:
    eql.quirks("no-description")
    one, two = eql.present(), eql.present(SECOND, LEASE2)
    eql.change(SECOND, connections=1)
    given = {"made": one["made"], "handle": one["handle"]}
    error = eql.revoke(**given)["error"]
    assert error["code"] == "busy" and SECOND in error["message"]
    assert eql.of(SNAPSHOT)[0] == "offline" and len(eql.records) == 2
    eql.change(SECOND, connections=0)
    assert eql.revoke(SECOND, LEASE2, made=two["made"])["ok"]
    assert eql.revoke(**given)["ok"] and untouched(eql)


def test_a_lease_that_nobody_ended_is_taken_over(eql: Group) -> None:
    eql.kill("present", "after:create", **group.wanted())
    again = eql.present(lease=LEASE2)
    assert again["made"] == MADE and len(eql.records) == 2
    assert eql.revoke(made=None)["ok"] and eql.of(SNAPSHOT)[0] == "online"  # the first lease
    assert eql.revoke(made=MADE)["kept"] and len(eql.records) == 2
    assert eql.revoke(lease=LEASE2, made=MADE, handle=again["handle"])["ok"] and untouched(eql)


def test_the_name_of_the_volume_itself_is_never_given_out(eql: Group) -> None:
    eql.change(SNAPSHOT, iqn=eql.volume["iqn"])
    error = eql.present()["error"]
    assert error["code"] == "conflict" and "the volume itself" in error["message"]
    assert eql.changes() == []


def test_a_line_that_is_not_understood_is_no_snapshot_and_not_gone(eql: Group) -> None:
    made = eql.present()
    eql.change(SNAPSHOT, permission="read-mostly")
    listed = eql.call("list", volume=VOLUME)
    assert not listed["complete"] and [each["snapshot"] for each in listed["snapshots"]] == [SECOND]
    assert "read-mostly" in eql.stderr
    error = eql.revoke(made=made["made"])["error"]
    assert (error["code"], error["effect"]) == ("internal", "none") and len(eql.records) == 2
    eql.change(SNAPSHOT, permission="read-only")
    assert eql.revoke(made=made["made"])["ok"] and untouched(eql)


def test_an_array_that_would_admit_to_the_volume_is_refused(eql: Group) -> None:
    eql.quirks("both")
    error = eql.present()["error"]
    assert error["code"] == "unsupported" and "both" in error["message"]
    assert eql.records == [group.access(OTHER)] and eql.of(SNAPSHOT)[0] == "offline"
    eql.quirks()
    assert eql.revoke()["ok"] and untouched(eql)


def test_an_array_without_read_only_needs_the_word_of_its_administrator(eql: Group) -> None:
    eql.quirks("no-read-only")
    error = eql.present()["error"]
    assert "read_only = no" in error["message"] and eql.of(SNAPSHOT)[0] == "offline"
    made = eql.present(options={"read_only": "no"})
    assert made["ok"] and eql.of(SNAPSHOT)[:2] == ("online", "read-write")
    assert eql.revoke(made=made["made"], handle=made["handle"])["ok"] and untouched(eql)


def test_a_full_array_is_asked_again_later(eql: Group) -> None:
    eql.quirks("limit:0")
    error = eql.present()["error"]
    assert (error["code"], error["retry_after_s"]) == ("busy", 10)
    assert "maximum number of sessions" in error["message"]


@pytest.mark.parametrize("number", [1, 9, 14, 17])
def test_the_connection_is_closed_and_nothing_is_lost(eql: Group, number: int) -> None:
    eql.quirks(f"close:{number}")
    error = eql.present()["error"]
    assert error["code"] == "unreachable" and "closed the connection" in error["message"]
    eql.quirks()
    assert eql.revoke()["ok"] and untouched(eql)


def test_what_is_gone_is_revoked(eql: Group) -> None:
    made = eql.present()
    state = eql.read()
    del state["volumes"][VOLUME]["snapshots"][SNAPSHOT]
    eql.write(state)
    given = {"made": made["made"], "handle": made["handle"]}
    assert eql.revoke(**given)["ok"] and eql.records == [group.access(OTHER)]
    assert eql.revoke(**given)["already"]
    assert eql.present()["error"]["code"] == "not_found"
    eql.write({**state, "volumes": {}})
    assert eql.revoke(**given) == {"ok": True, "already": True, "kept": []}
    assert eql.present()["error"]["code"] == "not_found"


def test_another_lease_is_left_alone(eql: Group) -> None:
    eql.present()
    before = eql.changes()
    assert eql.revoke(lease=LEASE2, made=None)["already"]
    assert eql.revoke(lease=LEASE2, made=["online"])["kept"]
    assert eql.changes() == before and LEASE in eql.of(SNAPSHOT)[2]


@pytest.mark.parametrize("member", ["volume", "snapshot", "initiator"])
def test_hostile_words_are_not_typed(eql: Group, member: str) -> None:
    for text in ("a b", "a\nvolume delete a", "a;b", "a\r", '"a"', "-a", "ä", "", "a\x15b"):
        given = {**group.wanted(), member: text}
        given["id"] = f"{given['volume']}/{given['snapshot']}"
        error = eql.call("present", **given)["error"]
        assert (error["code"], error["effect"]) == ("invalid", "none")
    assert eql.call("revoke", **given, made=None)["error"]["code"] == "invalid"
    assert eql.typed() == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ssh_options", "ProxyCommand=/bin/sh"),
        ("ssh_options", "KexAlgorithms=+a StrictHostKeyChecking=no"),
        ("known_hosts", "/dev/null /etc/hosts"),
        ("known_hosts", "/nowhere"),
        ("group", "a|.*"),
    ],
)
def test_settings_start_no_program_and_accept_no_stranger(
    eql: Group, option: str, value: str
) -> None:
    assert eql.present(options={option: value})["error"]["code"] == "invalid"
    assert eql.typed() == []


def test_old_algorithms_can_be_allowed(eql: Group) -> None:
    old = "KexAlgorithms=+diffie-hellman-group14-sha1 HostKeyAlgorithms=+ssh-rsa"
    assert eql.present(options={"ssh_options": old, "group": "group-0"})["ok"]
    assert eql.revoke()["ok"]
    wrong = eql.present(options={"ssh_options": "Ciphers=none-such"})["error"]
    assert wrong["code"] == "invalid" and "ssh_options" in wrong["message"]


def test_an_unknown_host_key_is_refused(eql: Group) -> None:
    other = eql.folder / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    line = f"[127.0.0.1]:{eql.port} {other.with_suffix('.pub').read_text()}"
    other.with_suffix(".hosts").write_text(line)
    for known in (str(other.with_suffix(".hosts")), "/dev/null"):
        error = eql.present(options={"known_hosts": known})["error"]
        assert error["code"] == "auth" and "known_hosts" in error["message"]
    assert eql.typed() == []


def test_a_key_that_the_array_does_not_know_is_refused(eql: Group) -> None:
    other = eql.folder / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    os.replace(other, eql.folder / "key")
    error = eql.present()["error"]
    assert error["code"] == "auth" and "refused the login" in error["message"]


def test_no_secret_is_shown(eql: Group) -> None:
    """The key is in no argument, and no file: only in the memory of the driver."""
    eql.quirks("hang:before:grpparams")
    process = eql.start("present", **group.wanted())
    eql.wait_for((eql.folder / "hangs").exists, 20)
    key = (eql.folder / "key").read_text().splitlines()[1]
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            seen = (
                Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
            )
        except OSError:
            continue
        assert key not in seen
    os.killpg(process.pid, signal.SIGKILL)
    out, err = process.communicate()
    assert key not in out + err
    eql.wait_for(lambda: eql.sessions() == 0)


def test_info_needs_no_array(eql: Group) -> None:
    eql.sshd.terminate()
    eql.sshd.wait()
    reply: dict[str, Any] = eql.call("info")
    assert (reply["target_model"], reply["max_parallel"]) == ("own", 1)
    error = eql.present()["error"]
    assert (error["code"], error["effect"]) == ("unreachable", "none")


def test_it_keeps_to_the_protocol() -> None:
    """The conformance suite, in a folder that is root's all the way up, as the core demands."""
    if what := group.lacking():
        pytest.skip(f"needs {what}")
    with tempfile.TemporaryDirectory(dir="/run", prefix="auto-iscsi-eqlx-") as folder:
        eql = Group(Path(folder))
        driver, config = Path(folder, "eqlx"), Path(folder, "eql1.conf")
        shutil.copy(group.DRIVER, driver)
        config.write_text(
            f"driver = {driver}\naddress = 127.0.0.1:{eql.port}\nuser = root\nrun_as = root\n"
            f"key_file = {folder}/key\nvolumes = {VOLUME}\npresent = yes\n"
            f"[options]\nknown_hosts = {folder}/known_hosts\n"
        )
        config.chmod(0o600)
        command = [f"{DIST}/auto-iscsi", "san", "test", str(driver), "--config", str(config)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout + done.stderr
            assert " 0 failed, 0 skipped" in done.stdout
            assert untouched(eql)
        finally:
            eql.close()
