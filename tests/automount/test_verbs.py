"""versions, cat and diff visit snapshots through the real automount, and leave no session."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import signal
import subprocess

import pytest

from tests.automount.browse import FILE, Browse, result
from tests.automount.offered import MONDAY, TUESDAY, started

PLACE = f"vm-beta:/{FILE}"
PROGRAM = "/usr/libexec/auto-iscsi/auto-iscsi"


@pytest.fixture(autouse=True)
def serve(browse: Browse) -> None:
    """Serve /iscsiauto, by a line that the verbs find."""
    # If automount unmounted just then by itself, the umount(8) of a verb would trigger a lookup.
    portal = started(browse, timeout=60)
    files = {"/etc/auto.master": (browse.machine.root / "san/auto.master").read_text()}
    browse.machine.files(files)
    browse.machine.configure(
        f"portals = {portal}\ntimezone = UTC\nlogin_timeout = 50s\nlookup_timeout = 60s\n"
    )


def begin(browse: Browse, *words: str) -> subprocess.Popen[str]:
    return browse.enter(PROGRAM, *words, user=0)


def run(browse: Browse, *words: str) -> tuple[int, str]:
    process = begin(browse, *words)
    text = result(process)
    return process.returncode, text


def test_a_line_for_each_snapshot_or_for_each_version(browse: Browse) -> None:
    status, text = run(browse, "versions", "--all", "--hash", f"{PLACE[:-1]}*")
    header, latest, oldest, summary = text.splitlines()
    assert header.split()[:3] == ["SNAPSHOT", "VERSION", "CHANGED"] and "SHA-256" in header
    assert latest.startswith("2010-05-04 04:00:01  1 ") and latest.endswith(f"/{FILE}")
    assert oldest.startswith("2010-05-03 04:00:01  2 ")
    assert status == 0 and summary.startswith("2 versions of ")
    status, text = run(browse, "versions", "--all", "vm-beta:/no")
    assert [line.split()[2:] for line in text.splitlines()[1:3]] == [["missing"], ["missing"]]
    assert status == 1 and browse.machine.sids() == []


def test_two_snapshots_or_files_are_compared(browse: Browse) -> None:
    by_place = run(browse, "diff", f"vm-beta@oldest:/{FILE}", "@latest")
    assert by_place[0] == 1 and by_place[1].splitlines()[-2:] == ["-disk-0", "+disk-1"]
    assert run(browse, "diff", PLACE, "@oldest", "@latest") == by_place
    assert run(browse, "diff", PLACE, "@latest", "@latest") == (0, "")
    status, text = run(browse, "diff", PLACE, "@oldest", "/etc/hostname", "--json")
    report = json.loads(text)
    assert status == 1 and (report["new"], report["differs"]) == ("/etc/hostname", True)
    for words in (["@monday:/x", "@latest"], [PLACE, "/x", "@latest"], [PLACE, "@oldest", "/no"]):
        assert run(browse, "diff", *words)[0] == 2
    assert browse.machine.sids() == []


def test_a_file_with_what_is_known_of_it(browse: Browse) -> None:
    assert run(browse, "cat", PLACE) == (0, "disk-1")
    report = json.loads(run(browse, "cat", "--json", PLACE)[1])
    assert base64.b64decode(report["content_base64"]) == b"disk-1\n"
    assert (report["target"], report["size"], report["mode"]) == (TUESDAY, 7, "0644")
    assert browse.machine.sids() == []


def test_a_file_that_cannot_be_written_out_is_no_fault_of_the_snapshot(browse: Browse) -> None:
    script = f"exec {PROGRAM} cat {PLACE}"
    full = browse.enter("sh", "-c", f"{script} >/dev/full", user=0)
    assert full.communicate(timeout=60) == ("", "auto-iscsi: stdout: no space left on device\n")
    assert result(browse.enter("sh", "-c", f"{script} | true", user=0)) == ""
    assert result(browse.enter("sh", "-c", f"{script} 2>&-", user=0)) == "disk-1"
    assert browse.machine.sids() == []


def test_a_terminal_gets_the_file_and_nothing_over_its_last_line(browse: Browse) -> None:
    our_end, its_end = pty.openpty()
    words = browse.command(PROGRAM, "cat", PLACE)
    with subprocess.Popen(words, stdout=its_end, stderr=its_end, start_new_session=True):
        os.close(its_end)
        shown = b""
        with open(our_end, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # EIO: end
            while part := terminal.read(4096):
                shown += part
    assert b"\r\033[Kvisiting vm-beta of 2010-05-04 04:00:01" in shown
    assert shown.endswith(b"\r\033[Kdisk-1\r\n")


def test_a_reaper_that_waits_for_nothing_ends_what_nobody_uses(browse: Browse) -> None:
    sleeper = browse.enter("sh", "-c", f"cd /iscsiauto/{MONDAY} && echo in && exec sleep 1000")
    assert sleeper.stdout and sleeper.stdout.readline() == "in\n"
    assert browse.read(TUESDAY) == "disk-1"
    browse.wait_for(lambda: "ended 1 session" in run(browse, "reap", "--now")[1], "the end")
    assert browse.mounted(MONDAY) and len(browse.machine.sids()) == 1
    sleeper.kill()
    browse.wait_for(lambda: run(browse, "reap", "--now") and not browse.machine.sids(), "the end")


def test_ctrl_c_during_the_login_leaves_no_session(browse: Browse) -> None:
    browse.machine.stop_before("login")
    impatient = begin(browse, "cat", f"vm-beta@oldest:/{FILE}")
    browse.machine.reached("login")
    impatient.send_signal(signal.SIGINT)
    browse.machine.go_on()
    assert result(impatient) == ""
    assert impatient.returncode == 130
    assert browse.machine.sids() == []


def test_ctrl_c_while_the_session_ends_leaves_no_session(browse: Browse) -> None:
    for visits, words in enumerate((("cat", PLACE), ("diff", PLACE, "@oldest", "@latest")), 1):
        browse.machine.stop_before("logout")
        impatient = begin(browse, *words)
        # From the log: a busy machine may miss the moment in which it is mounted.
        browse.wait_for(lambda n=visits: browse.logged_mounts(TUESDAY) == n, "the visit")
        browse.wait_for(lambda: not browse.mounted(TUESDAY), "the end of the visit")
        impatient.send_signal(signal.SIGINT)
        browse.machine.go_on()
        result(impatient)
        assert impatient.returncode == 130
        assert browse.machine.sids() == []


@pytest.mark.parametrize("verb", ["cat", "versions"])
def test_a_second_ctrl_c_does_not_wait_for_the_login(browse: Browse, verb: str) -> None:
    browse.machine.stop_before("login")
    impatient = begin(browse, verb, PLACE)
    browse.machine.reached("login")
    impatient.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):  # it waits for the login, to end the session
        impatient.wait(1)
    impatient.send_signal(signal.SIGINT)
    impatient.wait(30)
    assert impatient.returncode == 130
    browse.machine.go_on()
