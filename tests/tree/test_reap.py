"""Which sessions end, which never, and what is left of them?"""

from __future__ import annotations

import os
import sys
import time

import pytest

from auto_iscsi.iscsi import claims
from auto_iscsi.reaper import decisions
from tests.tree import kernel
from tests.tree.machine import DAY, VOL1, VOL10, Machine, Reaped
from tests.tree.tree import make_tree

NOTHING = Reaped(0, "", "")


def verdict(machine: Machine, target: str = VOL1) -> decisions.Decision:
    """Return the verdict on a target's one session."""
    (found,) = [each for each in decisions.decide(machine.host) if each.target == target]
    return found


def idle(machine: Machine, name: str = VOL1, *, record: bool = True) -> str:
    """Have a session that a lookup opened a day ago; return its portal."""
    portal = machine.target(name, record=record)
    machine.visit(name)
    machine.age(name, DAY)
    return portal


def test_an_idle_session_its_claim_and_our_record_go(machine: Machine) -> None:
    portal = machine.portal()
    machine.configure(f"portals = {portal}")
    idle_portal = machine.target(VOL1, portal, record=False)
    machine.visit(VOL1)
    machine.age(VOL1, DAY)
    assert machine.reap() == (0, f"auto-iscsi: ended 1 session: {VOL1}\n", "")
    assert machine.sids() == [] and machine.target_files() == []
    assert not machine.folder(VOL1, idle_portal).exists()
    assert machine.reap() == NOTHING
    machine.visit(VOL1)
    assert len(machine.sids()) == 1


def test_a_record_of_somebody_elses_stays(machine: Machine) -> None:
    portal = idle(machine)
    before = machine.values(VOL1, portal)
    assert machine.reap("--quiet") == NOTHING
    assert machine.sids() == [] and machine.values(VOL1, portal) == before


def test_a_record_of_ours_that_somebody_made_anew_stays(machine: Machine) -> None:
    portal = machine.portal()
    machine.configure(f"portals = {portal}")
    machine.target(VOL1, portal, record=False)
    machine.visit(VOL1)
    machine.age(VOL1, DAY)
    machine.record(VOL1, portal)
    machine.reap()
    assert machine.sids() == [] and machine.folder(VOL1, portal).exists()


def test_the_lease_covers_automounts_memory(machine: Machine) -> None:
    machine.target(VOL1)
    machine.configure("idle = 0")
    machine.visit(VOL1)
    machine.age(VOL1, 60 + 3)  # automount's own negative timeout, and a mount
    assert machine.reap() == NOTHING
    assert "lease 90s" in verdict(machine).reason and 0 < (verdict(machine).when or 0) < 90
    machine.age(VOL1, 60)
    machine.reap()
    assert machine.sids() == []


def test_now_waits_for_no_lease_but_ends_nothing_in_use(machine: Machine) -> None:
    machine.target(VOL1)
    machine.configure("idle = 1h\nlease = 1h")
    machine.visit(VOL1)
    kept = machine.reap("--now")  # who looked it up may be about to use it
    assert (kept.status, kept.err) == (0, "") and f"kept {VOL1}: looked up just now" in kept.out
    machine.age(VOL1, 70)  # automount's own negative timeout, and a mount
    assert machine.reap() == NOTHING
    mountinfo = machine.host.read("/proc/self/mountinfo") or ""
    mounted = "99 22 8:17 / /mnt ro - ext3 /dev/sdb1 ro"
    machine.files({"/proc/self/mountinfo": f"{mountinfo}\n{mounted}\n"})
    assert machine.reap("--now") == (0, f"auto-iscsi: kept {VOL1}: mounted at /mnt\n", "")
    assert machine.reap("--now", "--quiet") == NOTHING
    machine.files({"/proc/self/mountinfo": f"{mountinfo}\n"})
    assert machine.reap("--now") == (0, f"auto-iscsi: ended 1 session: {VOL1}\n", "")


def test_idle_counts_from_the_end_of_use(machine: Machine) -> None:
    idle(machine)
    mountinfo = machine.host.read("/proc/self/mountinfo") or ""
    mounted = "99 22 8:17 / /mnt ro - ext3 /dev/sdb1 ro"
    machine.files({"/proc/self/mountinfo": f"{mountinfo}\n{mounted}\n"})
    assert machine.reap() == NOTHING
    assert verdict(machine).reason == "mounted at /mnt"
    machine.files({"/proc/self/mountinfo": f"{mountinfo}\n"})
    assert machine.reap() == NOTHING
    assert verdict(machine).reason.startswith("idle for ")
    machine.age(VOL1, DAY)
    machine.reap()
    assert machine.sids() == []


def in_use(machine: Machine, by: str) -> str:
    """Have something use partition 1 of the disk sdb; return what is said of it."""
    disk = "/sys/class/iscsi_session/session1/device/target2:0:0/2:0:0:0/block/sdb"
    if by == "another mount namespace":
        machine.files(
            {
                "/proc/self/ns/mnt": "",
                "/proc/4711/ns/mnt": "",
                "/proc/4711/comm": "container\n",
                "/proc/4711/mountinfo": "99 22 8:17 / /data ro - ext3 /dev/sdb1 ro\n",
            }
        )
        return "mounted at /data by process 4711 (container)"
    if by == "btrfs":
        machine.files({"/proc/self/mountinfo": "99 22 0:44 / /mnt ro - btrfs /dev/sdb1 ro\n"})
        return "mounted at /mnt"
    if by == "lvm":
        machine.files({f"{disk}/sdb1/holders/dm-3": None, "/sys/block/dm-3/dm/name": "vg-lv\n"})
        return "held by dm-3 (vg-lv)"
    if by == "md":
        machine.files({f"{disk}/holders/md127": None})
        return "held by md127"
    if by == "swap":
        machine.files({"/proc/swaps": "Filename Type Size\n/dev/sdb1 partition 9 0 -2\n"})
        return "swap on /dev/sdb1"
    if by == "a loop device":
        machine.files({"/sys/block/loop7/loop/backing_file": "/dev/sdb1\n"})
        return "behind loop7"
    if by == "somebody in the key's directory":
        mounted = "98 22 0:44 / /iscsiauto rw - autofs /usr/libexec/auto-iscsi/auto.iscsi rw\n"
        mountinfo = machine.host.read("/proc/self/mountinfo") or ""
        machine.files({"/proc/self/mountinfo": f"{mountinfo}\n{mounted}"})
        machine.files({"/proc/4711/comm": "bash\n", "/proc/4711/fd": None})
        (machine.root / "proc/4711/cwd").symlink_to(f"/iscsiauto/{VOL1}")
        return "entered by process 4711 (bash)"
    machine.files({"/proc/4711/comm": "dd\n", "/proc/4711/fd": None})
    (machine.root / "proc/4711/fd/3").symlink_to("/dev/sdb")
    return "open in process 4711 (dd)"


@pytest.mark.parametrize(
    "by",
    [
        "another mount namespace",
        "btrfs",
        "lvm",
        "md",
        "swap",
        "a loop device",
        "somebody in the key's directory",
        "a program",
    ],
)
def test_what_is_in_use_never_ends(machine: Machine, by: str) -> None:
    idle(machine)
    said = in_use(machine, by)
    assert machine.reap() == NOTHING
    assert machine.sids() == [1] and machine.claim(VOL1).ours
    assert verdict(machine)[6:9] == ("keep", said, None)
    assert said in machine.reap("--dry-run").out


def test_a_disk_that_cannot_be_looked_at_is_in_use(machine: Machine) -> None:
    idle(machine)
    (machine.root / "dev/sdb").unlink()
    assert "no such file" in machine.reap("--dry-run").out
    assert machine.reap() == NOTHING and machine.sids() == [1]


@pytest.mark.parametrize("claim", ["none", "of another boot", "of the number before"])
def test_a_session_that_is_not_ours_never_ends(machine: Machine, claim: str) -> None:
    portal = machine.target(VOL1)
    if claim != "none":
        machine.visit(VOL1)
        machine.age(VOL1, DAY)
        kept = machine.claim(VOL1)
        machine.log_out(1)
        if claim == "of another boot":
            machine.reboot()
        else:
            (machine.root / "san/sessions/1").rmdir()  # the module was loaded again
    machine.session(VOL1, portal)  # by hand, and it gets the same number
    assert machine.sids() == [1]
    if claim == "of the number before":  # this filesystem may use an inode number again
        inode = os.stat(machine.host.path("/sys/class/iscsi_session/session1")).st_ino
        claims.write(machine.host, VOL1, kept._replace(opened=((1, inode + 1),)))
    assert machine.reap() == NOTHING
    assert machine.sids() == [1] and verdict(machine).reason == "not ours"
    machine.visit(VOL1)
    machine.age(VOL1, DAY)
    assert not machine.claim(VOL1).ours
    assert machine.reap() == NOTHING and machine.sids() == [1]


@pytest.mark.parametrize(("reap", "ends"), [("own", False), ("any", True), ("never", False)])
def test_others_sessions(machine: Machine, reap: str, ends: bool) -> None:
    machine.session(VOL10, machine.target(VOL10))
    machine.configure(f"[*vol10]\nreap = {reap}\nidle = 1h")
    assert machine.reap() == NOTHING
    assert (machine.claim(VOL10).watched != ()) == ends  # idle for as long as somebody looks
    if ends:
        machine.age(VOL10, DAY)
    machine.reap()
    assert (machine.sids() == []) == ends
    machine.reap()
    assert machine.target_files() == []


def test_never_is_never(machine: Machine) -> None:
    idle(machine)
    machine.configure("reap = never")
    assert machine.reap() == NOTHING and machine.sids() == [1]


def test_a_lost_session_goes_without_being_idle(machine: Machine) -> None:
    machine.target(VOL1)
    machine.visit(VOL1)
    machine.age(VOL1, 91)
    machine.state(1, "FAILED")
    machine.reap()
    assert machine.sids() == []


def test_a_lost_session_in_use_is_reported(machine: Machine) -> None:
    idle(machine)
    in_use(machine, "btrfs")
    machine.state(1, "FAILED")
    assert machine.reap() == NOTHING and machine.sids() == [1]
    assert verdict(machine)[6:9] == ("report", "FAILED, yet mounted at /mnt", None)


def test_a_target_whose_settings_are_wrong_is_kept(machine: Machine) -> None:
    idle(machine)
    machine.configure("idle = soon")
    assert machine.reap() == NOTHING and machine.sids() == [1]
    assert "idle" in verdict(machine).reason


@pytest.mark.parametrize("status", [2, 10, 28, 32])
def test_a_logout_that_fails_is_said_and_tried_again(machine: Machine, status: int) -> None:
    idle(machine, VOL10)
    idle(machine)
    machine.change(VOL1, answers={"logout": {"exit": status}})
    if status == 2:  # iscsid does not know it, the kernel does
        said = machine.reap(timeout=60)
        assert "still there after its logout" in said.err
    else:
        said = machine.reap()
        assert f"{VOL1}: logout of session 2" in said.err and f"exit {status}" in said.err
    assert said.status == 1 and said.out == f"auto-iscsi: ended 1 session: {VOL10}\n"
    machine.change(VOL1, answers={})
    assert machine.reap().status == 0 and machine.sids() == [] and machine.target_files() == []


def test_two_reapers(machine: Machine) -> None:
    idle(machine)
    handle = claims.lock(machine.host, "reap", 0.0)
    assert handle is not None
    assert machine.reap() == NOTHING and machine.sids() == [1]
    claims.unlock(machine.host, "reap", handle)
    machine.reap()
    assert machine.sids() == []


def test_a_target_that_a_lookup_holds_is_left_to_it(machine: Machine) -> None:
    idle(machine)
    with claims.hold_target(machine.host, VOL1, 0.0):
        assert machine.reap() == NOTHING and machine.sids() == [1]


def test_a_lookup_waits_for_a_logout_whose_reaper_was_killed(machine: Machine) -> None:
    portal = idle(machine)
    machine.stop_before("logout")
    reaper = machine.start_reaper()
    machine.reached("logout")
    reaper.kill()
    reaper.wait()
    lookup = machine.start(VOL1)
    machine.wait_for(machine.held(VOL1), "the lookup")
    machine.go_on()
    answer = lookup.answer()
    assert answer.entry == machine.entry(VOL1, portal), answer.log
    assert machine.sids() == [2]


def test_dry_run_changes_nothing(machine: Machine) -> None:
    idle(machine)
    machine.session(VOL10, machine.target(VOL10))
    before = machine.claim(VOL1)
    said = machine.reap("--dry-run")
    rows = [line.split() for line in said.out.splitlines()]
    assert said.status == 0 and said.err == ""
    assert rows[1][:5] == [VOL1, "1", "LOGGED_IN", "sdb", "end"]
    assert rows[2][:5] == [VOL10, "2", "LOGGED_IN", "sdc", "keep"]
    assert machine.sids() == [1, 2] and machine.claim(VOL1) == before


def test_wait_goes_on_until_nothing_is_left(machine: Machine) -> None:
    machine.target(VOL1)
    machine.configure("lease = 2s\nidle = 0")
    machine.visit(VOL1)
    assert machine.reap("--wait").out == f"auto-iscsi: ended 1 session: {VOL1}\n"
    assert machine.sids() == []
    assert machine.reap("--wait") == NOTHING  # at once: nothing could


def test_wait_ends_when_what_is_left_has_failed(machine: Machine) -> None:
    idle(machine)
    machine.change(VOL1, answers={"logout": {"exit": 10}})
    said = machine.reap("--wait")  # ten minutes, if there were something to wait for
    assert said.status == 1 and f"{VOL1}: logout of session 1" in said.err


def test_a_login_that_fails_after_its_lookup_leaves_no_claim(machine: Machine) -> None:
    portal = machine.target(VOL1, answers={"login": {"exit": 8}})
    machine.stop_before("login")
    machine.configure("login_timeout = 1s")
    assert machine.lookup(VOL1).status == 1
    machine.go_on()
    machine.quiet()
    machine.change(VOL1, answers={})
    sid = machine.session(VOL1, portal)  # and then an administrator logs in
    time.sleep(1.1)
    machine.state(sid, "LOGGED_IN")
    machine.configure("")
    machine.visit(VOL1)
    assert not machine.claim(VOL1).ours


def test_a_login_that_comes_through_after_its_lookup_is_ours(machine: Machine) -> None:
    machine.target(VOL1)
    machine.stop_before("logged-in")
    machine.configure("login_timeout = 1s\nreplacement_timeout = 7s")
    assert machine.lookup(VOL1).status == 1
    machine.go_on()
    machine.quiet()
    assert machine.reap() == NOTHING
    assert machine.claim(VOL1).opened and not machine.claim(VOL1).asked
    assert machine.recovery_tmo(1) == "7"
    assert machine.target_files() == [str(machine.root / f"run/auto-iscsi/claims/{VOL1}")]


def test_a_thousand_sessions_come_to_an_end(machine: Machine) -> None:
    portal = machine.target(VOL1)
    machine.visit(VOL1)
    text = (machine.root / f"run/auto-iscsi/claims/{VOL1}").read_text()
    for number in range(2, 1002):
        session, connection = (
            machine.root / f"sys/class/{kind}{number}{end}"
            for kind, end in (("iscsi_session/session", ""), ("iscsi_connection/connection", ":0"))
        )
        unit = f"device/target{number}:0:0/{number}:0:0:0"
        address, _, port = portal.rpartition(":")
        make_tree(
            session,
            {
                "targetname": f"{VOL1}-{number}\n",
                "state": "LOGGED_IN\n",
                "tpgt": "1\n",
                f"{unit}/type": "0\n",
                f"{unit}/block/sd{number}/dev": f"8:{number}\n",
                f"{unit}/block/sd{number}/sd{number}1/partition": "1\n",
            },
        )
        make_tree(connection, {"persistent_address": address, "persistent_port": port})
        make_tree(
            machine.root,
            {
                f"/run/auto-iscsi/claims/{VOL1}-{number}": text,
                f"/dev/sd{number}": "",
            },
        )
    # 0.3 s on a quiet machine; the time limit is there for what is quadratic.
    said = machine.reap("--dry-run", timeout=120)
    assert said.out.count(" LOGGED_IN ") == 1001


@pytest.mark.parametrize(
    "draft", [f"claims/.{VOL1}", f"disks/.{VOL1}", f"settings/.{VOL1}.4711", ".config.4711"]
)
def test_what_a_killed_lookup_wrote_half_goes(machine: Machine, draft: str) -> None:
    machine.files({f"/run/auto-iscsi/{draft}": "half"})
    assert machine.reap().status == 0 and machine.target_files() == []
    assert not (machine.root / "run/auto-iscsi" / draft).exists()


@pytest.mark.parametrize("name", ["../../../etc/victim", f"{VOL10}\x1b]0;x\x07\u2028y"])
def test_a_name_that_only_a_portal_can_have_thought_of_is_no_path_and_no_escape(
    machine: Machine, name: str
) -> None:
    machine.target(VOL1)
    machine.configure("reap = any\nidle = 0\nlease = 1")
    machine.visit(VOL1)  # the folders of claims and locks are there
    machine.files({"/etc/victim": "before\n"})
    kernel.open_session(str(machine.root), name, "127.0.0.1", 3260, 1)
    for _ in range(2):
        assert machine.reap().err == ""
        machine.age(VOL1, DAY)
    assert (machine.root / "etc/victim").read_text() == "before\n"
    assert [path.name for path in (machine.root / "etc").glob("*victim*")] == ["victim"]
    machine.session(VOL10, machine.target(VOL10))
    kernel.open_session(str(machine.root), name, "127.0.0.1", 3260, 1)
    shown = machine.program((sys.executable, "-m", "auto_iscsi"), "status").stdout
    assert VOL10 in shown and "\x1b" not in shown and "\u2028" not in shown
