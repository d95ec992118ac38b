"""A failed lookup reports one line with the reason and what to do, and changes nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from auto_iscsi import errors
from auto_iscsi.map import lookup
from tests.tree.machine import INITIATOR, VOL1, VOL10, Machine
from tests.tree.tree import contents


@pytest.mark.parametrize("status", [6, 8, 12, 18, 19, 24, 77])
def test_the_log_has_each_exit_code_with_its_meaning_and_a_hint(
    machine: Machine, status: int
) -> None:
    portal = machine.target(VOL1, answers={"login": {"exit": status}})
    answer = machine.lookup(VOL1)
    assert answer.status == 1
    assert answer.log.startswith(f"{VOL1}: login through {portal}: ")
    reason, semicolon, hint = answer.log.rpartition("; ")
    assert reason.endswith(f" (iscsiadm exit {status})") and semicolon and hint
    assert (INITIATOR in hint) == (status in (19, 24))


def test_without_iscsiadm_the_log_names_the_package(machine: Machine) -> None:
    machine.target(VOL1)
    (machine.root / "usr/sbin/iscsiadm").unlink()
    assert machine.lookup(VOL1).log == "iscsiadm is not installed; install open-iscsi"


def changed(machine: Machine, before: dict[str, bytes]) -> set[str]:
    """Return the files that changed, other than the cache of the parsed configuration.

    On a slow machine, the configuration has settled by then and is kept.
    """
    after = contents(machine.root)
    names = {name for name in {**before, **after} if before.get(name) != after.get(name)}
    return names - {"run/auto-iscsi/config"}


def test_a_disabled_target_is_refused_before_anything_changes(machine: Machine) -> None:
    portal = machine.target(VOL1, record=False)
    machine.configure(f"portals = {portal}\n[*-vol1]\nenabled = no")
    before = contents(machine.root)
    answer = machine.lookup(VOL1)
    assert answer.log == f"{VOL1}: enabled = no; auto-iscsi explain {VOL1} names the line"
    assert changed(machine, before) == set()


def test_a_wrong_setting_is_reported_before_anything_changes(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.target(VOL10, portal)
    machine.configure("[*-vol1]\n  partitoin = 2\n")
    before = contents(machine.root)
    answer = machine.lookup(VOL1)
    assert answer.log.startswith("/etc/auto.iscsi.conf:2: partitoin: no such setting, did you mean")
    assert changed(machine, before) == set()
    assert machine.visit(VOL10) == machine.entry(VOL10, portal)


def test_without_permission_the_log_says_to_run_it_as_root(machine: Machine) -> None:
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    machine.target(VOL1)
    machine.lookup(VOL1)
    machine.root.chmod(0o755)
    for folder in ("/run/auto-iscsi", "/run/auto-iscsi/lock"):
        (machine.root / folder.lstrip("/")).chmod(0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(errors.NotPermitted, match="permission denied; run it as root"):
                lookup.lookup(machine.host, VOL1)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("verb", ["login", "new"])
@pytest.mark.parametrize("lock", ["locked", "not locked"])
def test_the_lock_of_the_record_database_is_named_only_when_it_exists(
    machine: Machine, verb: str, lock: str
) -> None:
    portal = machine.target(VOL1, record=verb == "login", answers={verb: {"exit": 6}})
    machine.configure(f"portals = {portal}")
    if lock == "locked":
        machine.files({"/run/lock/iscsi/lock.write": ""})
    line = machine.lookup(VOL1).log
    assert ("rm /run/lock/iscsi/lock.write" in line) == (lock == "locked")
    assert ("df -h /etc/iscsi" in line) == (lock != "locked")


def test_a_target_that_iscsiadm_left_out_of_an_answer_is_not_called_unoffered(
    machine: Machine,
) -> None:
    portal = machine.target(VOL10, record=False)
    machine.configure(f"portals = {portal}")
    said = f"iscsiadm: TargetName {VOL1}-very-long too long, ignoring"
    machine.plan["complaint"] = said
    machine.save()
    for _ in ("asked", "remembered"):
        assert machine.lookup(VOL1).log.endswith(f"; iscsiadm left targets out: {said}")
    assert machine.visit(VOL10) == machine.entry(VOL10, portal)


def test_a_full_run_is_said_before_anything_is_asked_of_the_san(machine: Machine) -> None:
    if os.geteuid():
        pytest.skip("needs root, for a mount namespace")
    portal = machine.target(VOL1)
    machine.files({"/run": None, "/left": ""})
    script = """
        PATH=/usr/sbin:/usr/bin:/sbin:/bin
        mount -t tmpfs -o size=8k,mode=755 none "$0/run" || exit 99
        head -c 8192 /dev/zero >"$0/run/full"
        "$@"
        status=$?
        find "$0/run/auto-iscsi" -type f >"$0/left"
        exit $status
    """
    full = ("/usr/bin/unshare", "-m", "/bin/sh", "-c", script, str(machine.root))
    answer = machine.start(VOL1, under=full).answer()
    folder = machine.root / "run/auto-iscsi"
    assert answer.status == 1 and answer.log.startswith(f"{folder}/")
    assert answer.log.endswith(
        f"no space left on device; make room: df -h {folder}; df -i {folder}"
    )
    assert machine.runs() == [] and (machine.root / "left").read_text() == ""
    assert machine.visit(VOL1) == machine.entry(VOL1, portal)


def test_reading_the_configuration_has_a_time_limit(machine: Machine) -> None:
    if os.geteuid():
        pytest.skip("needs root: only a cache of root's is read")
    machine.target(VOL1)
    machine.visit(VOL1)
    cache = machine.root / "run/auto-iscsi/settings" / VOL1
    cache.parent.mkdir(0o700, exist_ok=True)
    cache.unlink(missing_ok=True)
    os.mkfifo(cache, 0o600)  # whoever opens it waits
    waiting = machine.start(VOL1)
    status = Path(f"/proc/{waiting.process.pid}/status")

    def catches_alarms() -> bool:
        lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
        return bool(int(lines["SigCgt"], 16) >> (signal.SIGALRM - 1) & 1)

    machine.wait_for(catches_alarms, "a time limit")
    waiting.process.send_signal(signal.SIGALRM)  # as when the time is over
    assert waiting.answer().log == f"{VOL1}: not ready after 60 s; see lookup_timeout"


def test_an_iscsid_that_does_not_start_is_named(machine: Machine) -> None:
    if os.geteuid():
        pytest.skip("needs root, for a mount namespace")
    portal = machine.target(VOL1, record=False)
    machine.plan["iscsid"] = "never"
    machine.files({"/etc/secret": "a-secret-12345\n"})
    (machine.root / "proc/77/comm").unlink()
    machine.configure(
        f"portals = {portal}\nchap_user = browse\nchap_secret_file = /etc/secret\n"
        "login_timeout = 1s"
    )
    machine.save()
    with pytest.raises(errors.IscsidNotRunning, match=f"{VOL1}: iscsid does not start; systemctl"):
        lookup.lookup(machine.host, VOL1)
    assert machine.runs("--login") == []
