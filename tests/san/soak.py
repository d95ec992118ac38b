"""What a busy week does to a host, in minutes: python3 soak.py SECONDS, in the guest.

The configuration, the targets and automount are there. Walkers read the snapshots at random; the
reaper ends what it can; lookups, reapers and iscsid are killed, automount is restarted. A visit
that fails has to have met one of these. The last line is what happened, as JSON.
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
AFTER = {"lookup killed": 2.0, "iscsid killed": 6.0}

over = time.monotonic() + float(sys.argv[1])
targets = sys.argv[2:]
counts: collections.Counter[str] = collections.Counter()
injected: list[tuple[str, str, float, float]] = []  # what, target or "", since, until
failed: list[tuple[str, float, float, str]] = []
said: list[str] = []
guard = threading.Lock()
pause = threading.Condition()
visitors: set[int] = set()  # the walkers that wait for automount
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
        target = choice.choice(targets)
        with pause:
            pause.wait_for(lambda: not closed.is_set())
            visitors.add(seed)
        begun = time.monotonic()
        reading = subprocess.run(
            ["cat", f"{ROOT}/{target}/marker"],
            user="user",
            capture_output=True,
            check=False,
        )
        with pause:
            visitors.remove(seed)
            pause.notify_all()
        count("visits")
        if reading.stdout.decode() != f"{target}\n":
            why = (reading.stderr or reading.stdout).decode(errors="replace").strip()
            with guard:
                failed.append((target, begun, time.monotonic(), why))
        else:
            count("visits that worked")
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
            time.sleep(choice.uniform(0, 1.5))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                break
            now = time.monotonic()
            with guard:
                injected.append(("lookup killed", target, now, now))
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
            begun = time.time()
            subprocess.run(["systemctl", "restart", "autofs"], check=False)
            # It does not say when it is ready; before that it refuses all, without asking us.
            while running() and not refusals(begun):
                subprocess.run(["ls", f"{ROOT}/knock"], capture_output=True, check=False)
                time.sleep(0.2)
            closed.clear()
            pause.notify_all()
        count("automount restarted")


def cause(target: str, begun: float, ended: float) -> str:
    """Return what was done to a visit, "" when that is nothing."""
    for what, whom, since, until in injected:
        if whom in ("", target) and begun <= until + AFTER[what] and ended >= since:
            return what
    return ""


def main() -> None:
    threading.excepthook = lambda broken: said.append(repr(broken.exc_value))
    work = [threading.Thread(target=walk, args=(100 + n,)) for n in range(WALKERS)]
    work += [threading.Thread(target=reap, args=(True,))]
    work += [
        threading.Thread(target=each) for each in (kill_lookups, kill_iscsid, restart_automount)
    ]
    for thread in work:
        thread.start()
    while running():
        time.sleep(min(5.0, max(0.1, over - time.monotonic())))
        print(f"{over - time.monotonic():4.0f} s left, {dict(counts)}", flush=True)
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
