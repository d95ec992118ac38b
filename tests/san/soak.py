"""What a busy week does to a host, in minutes: python3 soak.py SECONDS TARGETS, in the guest.

The configuration, the targets and automount are there. Walkers read the snapshots at random; the
reaper ends what it can; lookups, reapers and iscsid are killed, automount is restarted. Disks go
into standby, are not ready when somebody logs in, or are swapped for another volume; two volumes
have one serial number, and multipathd runs. A visit that fails has to have met one of these. No
visit may show another volume's files, whatever it met. The last line is what happened, as JSON.

TARGETS is JSON: a list of names under `plain` and `twins`; the name and the disks of one target
each under `standby`, `not ready` and `swapped`; under `in use`, names of targets whose snapshots
were taken in use, each with the files of which a visitor reads one.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

ROOT = "/iscsiauto"
WALKERS = 8
MAP = "/usr/libexec/auto-iscsi/auto.iscsi"
#: How long, in seconds, after an injection a visit may begin that fails because of it: automount
#: remembers a failure for one second; iscsid answers nobody while it sees to its sessions.
#: mount(8) goes on with a replay whose lookup was killed; until it ends, the overlay is in use.
#: A disk that was in standby can be mounted, and each visit keeps that mount for two more seconds.
AFTER = {
    "lookup killed": 2.0,
    "replay killed": 8.0,
    "iscsid killed": 6.0,
    "standby": 30.0,
    "not ready": 20.0,
    "swapped": 10.0,
    "twin": 0.0,
}
CONFIGFS = "/sys/kernel/config/target"
#: ALUA states (SPC-5, 6.36): the kernel finds a disk in the last one without a size.
OPTIMIZED, STANDBY, UNAVAILABLE = 0, 2, 3

#: So many visits have to work; a slow machine gets more time for them, up to MORE seconds.
ENOUGH, MORE = 5, 300.0

over = time.monotonic() + float(sys.argv[1])
plan = json.loads(sys.argv[2])
special = {kind: plan[kind] for kind in ("standby", "not ready", "swapped")}
in_use: dict[str, list[str]] = plan["in use"]
targets = [*plan["plain"], *plan["twins"], *in_use, *(name for name, *_ in special.values())]
#: What each target's file says. The swapped one's says which of its volumes it is on.
expected = {target: f"{target}\n" for target in targets}
counts: collections.Counter[str] = collections.Counter()
injected: list[tuple[str, str, float, float]] = []  # what, target or "", since, until
failed: list[tuple[str, float, float, str]] = []
said: list[str] = []
guard = threading.Lock()
pause = threading.Condition()
visitors: dict[int, str] = {}  # the walkers that wait for automount, and for which target
held: set[str] = set()  # targets that nobody visits for now
closed = threading.Event()  # for new visitors


def running() -> bool:
    return time.monotonic() < over


def slept(seconds: float) -> bool:
    """Sleep, but not beyond the end; say whether there is still time."""
    time.sleep(max(0.0, min(seconds, over - time.monotonic())))
    return running()


def count(what: str) -> None:
    with guard:
        counts[what] += 1


def walk(seed: int) -> None:
    """Read one snapshot after the other, as a user's process does."""
    choice = random.Random(seed)
    while running():
        with pause:
            pause.wait_for(lambda: not closed.is_set())
            target = choice.choice([target for target in targets if target not in held])
            visitors[seed] = target
        file = choice.choice(in_use.get(target, ["marker"]))
        begun = time.monotonic()
        reading = subprocess.run(
            ["cat", f"{ROOT}/{target}/{file}"],
            user="user",
            capture_output=True,
            check=False,
        )
        with pause:
            del visitors[seed]
            pause.notify_all()
        count("visits")
        shown = reading.stdout.decode(errors="replace")
        if shown != expected[target]:
            why = (reading.stderr or reading.stdout).decode(errors="replace").strip()
            with guard:
                if shown:
                    said.append(f"{target} shows another volume: {shown!r}")
                failed.append((target, begun, time.monotonic(), why))
        else:
            count("visits that worked")
            if target in plan["twins"]:
                count("visits to twins that worked")
            if target in in_use:
                count(f"visits to {target.rpartition(':')[2]} that worked")
        slept(choice.uniform(0, 4))


def reap(kill: bool) -> None:
    """Run the reaper again and again; sometimes it does not come far."""
    choice = random.Random(1)
    while running():
        reaper = subprocess.Popen(
            ["auto-iscsi", "reap"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        count("reapers")
        if kill and choice.random() < 0.25:
            slept(choice.uniform(0, 4))
            if reaper.poll() is None:
                reaper.kill()
                count("reapers killed")
        out, err = reaper.communicate()
        if out:
            counts["sessions ended"] += int(out.split("ended ")[1].split()[0])
        if reaper.returncode == 1:
            count("logouts that failed")
        elif reaper.returncode not in (0, -signal.SIGKILL):
            said.append(f"reaper: {reaper.returncode} {err}")
        time.sleep(0.5)


def lookups() -> Iterator[tuple[int, str]]:
    """Yield the map programs that run, and their targets."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().decode().split("\0")
        except OSError:
            continue
        if (
            words[-2:-1]
            and words[-2] in targets
            and any(word.startswith("/etc/auto") or word == MAP for word in words)
        ):
            yield int(pid), words[-2]


def kill_lookups() -> None:
    choice = random.Random(2)
    while slept(choice.uniform(5, 15)):
        if closed.is_set():  # a mount whose lookup fails in a restart never expires, says autofs
            continue
        for pid, target in lookups():
            if target in plan["twins"]:  # a session that is left over would hold up a restart
                continue
            time.sleep(choice.uniform(0, 1.5))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                break
            now = time.monotonic()
            with guard:
                what = "replay killed" if target in in_use else "lookup killed"
                injected.append((what, target, now, now))
            count("lookups killed")
            break


def kill_iscsid() -> None:
    choice = random.Random(3)
    while slept(choice.uniform(15, 45)):
        now = time.monotonic()
        pids = subprocess.run(["pidof", "iscsid"], capture_output=True, text=True, check=False)
        for pid in pids.stdout.split():
            with contextlib.suppress(ProcessLookupError):  # one ends with the other
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["systemctl", "start", "iscsid"], check=False)
        with guard:
            injected.append(("iscsid killed", "", now, time.monotonic()))
        count("iscsid killed")


def refusals(since: float) -> str:
    """Return what lookups have refused since a time (time.time())."""
    return subprocess.run(
        ["journalctl", "-qu", "autofs", f"--since=@{since:.0f}", "--grep=auto.iscsi: key"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def restart_automount() -> None:
    """Restart automount when nobody waits for it.

    One that is asked for a key while it takes its mounts away gives up stopping; systemd kills it
    three minutes later, and then its visitors wait for ever (seen with autofs 5.1.8).
    """
    choice = random.Random(4)
    while slept(choice.uniform(15, 60)):
        closed.set()
        with pause:
            pause.wait_for(lambda: not visitors)
            # A mount whose lookup fails in a restart never expires, says autofs.
            while running() and sum(map(has_session, plan["twins"])) > 1:
                time.sleep(0.2)
            begun = time.time()
            subprocess.run(["systemctl", "restart", "autofs"], check=False)
            # It does not say when it is ready; before that it refuses all, without asking us.
            while running() and not refusals(begun):
                subprocess.run(["ls", f"{ROOT}/knock"], capture_output=True, check=False)
                time.sleep(0.2)
            closed.clear()
            pause.notify_all()
        count("automount restarted")


def has_session(target: str) -> bool:
    """Say whether the kernel has a session with a target."""
    folder = "/sys/class/iscsi_session"
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        with contextlib.suppress(OSError), open(f"{folder}/{name}/targetname") as file:
            if file.read().strip() == target:
                return True
    return False


def is_mounted(target: str) -> bool:
    with open("/proc/self/mountinfo") as file:
        return any(f" {ROOT}/{target} " in line and " - autofs " not in line for line in file)


@contextlib.contextmanager
def left_alone(target: str, without_session: bool = False) -> Iterator[None]:
    """Keep the walkers from a target, and wait until it is not mounted, perhaps logged out too."""
    with pause:
        held.add(target)
    try:
        while running() and (
            target in visitors.values()
            or is_mounted(target)
            or (without_session and has_session(target))
        ):
            time.sleep(0.2)
        yield
    finally:
        with pause:
            held.discard(target)


def set_state(disk: str, state: int) -> None:
    """Set the ALUA state of a disk behind its only group of ports."""
    group = f"{CONFIGFS}/core/fileio_0/{disk}/alua/default_tg_pt_gp"
    with open(f"{group}/alua_access_state", "w") as file:
        file.write(str(state))


def befall(what: str, target: str, since: float) -> None:
    """Note what was done to a target from a time until now."""
    with guard:
        injected.append((what, target, since, time.monotonic()))
    count(what)


def stand_by() -> None:
    """Put a disk into standby for a while, whoever uses it."""
    target, disk = special["standby"]
    choice = random.Random(5)
    while slept(choice.uniform(5, 30)):
        since = time.monotonic()
        set_state(disk, STANDBY)
        slept(choice.uniform(2, 8))
        set_state(disk, OPTIMIZED)
        befall("standby", target, since)


def be_late() -> None:
    """Have a disk not be ready when somebody logs in, and become ready by itself."""
    target, disk = special["not ready"]
    choice = random.Random(6)
    while slept(choice.uniform(5, 20)):
        with left_alone(target, without_session=True):
            since = time.monotonic()
            set_state(disk, UNAVAILABLE)
        slept(choice.uniform(4, 15))
        set_state(disk, OPTIMIZED)
        befall("not ready", target, since)


def swap() -> None:
    """Map another volume to a LUN that is not mounted; half the time its session is up."""
    target, *disks = special["swapped"]
    lun = f"{CONFIGFS}/iscsi/{target}/tpgt_1/lun/lun_0"
    choice = random.Random(7)
    number = 0
    while slept(choice.uniform(5, 20)):
        with left_alone(target, without_session=choice.random() < 0.5):
            since = time.monotonic()
            os.unlink(f"{lun}/{disks[number]}")
            os.rmdir(lun)
            number = 1 - number
            os.mkdir(lun)
            os.symlink(f"{CONFIGFS}/core/fileio_0/{disks[number]}", f"{lun}/{disks[number]}")
            expected[target] = f"{target} {number}\n"
        befall("swapped", target, since)


def cause(target: str, begun: float, ended: float) -> str:
    """Return what was done to a visit, "" when that is nothing."""
    for what, whom, since, until in injected:
        if whom in ("", target) and begun <= until + AFTER[what] and ended >= since:
            return what
    return ""


def main() -> None:
    global over
    latest = over + MORE
    threading.excepthook = lambda broken: said.append(repr(broken.exc_value))
    work = [threading.Thread(target=walk, args=(100 + n,)) for n in range(WALKERS)]
    work += [threading.Thread(target=reap, args=(True,))]
    faults = (kill_lookups, kill_iscsid, restart_automount, stand_by, be_late, swap)
    work += [threading.Thread(target=each) for each in faults]
    expected[special["swapped"][0]] = f"{special['swapped'][0]} 0\n"
    # While one twin is logged in, the other one is refused.
    injected.extend(("twin", target, 0.0, float("inf")) for target in plan["twins"])
    for thread in work:
        thread.start()
    while running():
        time.sleep(min(5.0, max(0.1, over - time.monotonic())))
        print(f"{over - time.monotonic():4.0f} s left, {dict(counts)}", flush=True)
        is_too_early = counts["visits that worked"] < ENOUGH and over < latest
        if is_too_early and over - time.monotonic() < 10:
            over += 30
    for thread in work:
        thread.join()
    unexplained = []
    for target, begun, ended, why in failed:
        reason = cause(target, begun, ended)
        counts[f"visits failed: {reason or 'NO CAUSE'}"] += 1
        if not reason:
            unexplained.append(f"{target} at {begun:.1f} for {ended - begun:.1f} s: {why}")
    print(json.dumps({"counts": counts, "unexplained": unexplained, "said": said}), flush=True)


main()
