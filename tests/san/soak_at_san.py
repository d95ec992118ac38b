"""Users at two arrays, with everything killed now and then: soak_at_san.py SECONDS FILES.

It runs in the guest. FILES is JSON: what the file `marker` of each key says. Users read the
snapshots at random, reapers end what they can; lookups, reapers and drivers are killed. No visit
may show another snapshot's file. The last line is what happened, as JSON.
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

ROOT = "/iscsiauto"
USERS = 3
#: So many visits have to work; a slow machine gets more time for them, up to MORE seconds.
ENOUGH, MORE = 5, 300.0
#: What the command line of each kind of victim has in it.
VICTIMS = {"lookups": "/auto.iscsi", "reapers": "auto-iscsi\0reap", "drivers": "/drivers/lio"}

over = time.monotonic() + float(sys.argv[1])
files: dict[str, str] = json.loads(sys.argv[2])
counts: collections.Counter[str] = collections.Counter()
faults: list[str] = []


def slept(seconds: float) -> bool:
    """Sleep, but not beyond the end; say whether there is still time."""
    time.sleep(max(0.0, min(seconds, over - time.monotonic())))
    return time.monotonic() < over


def visit(seed: int) -> None:
    """Read the file of one snapshot after the other, as a user's process does."""
    choice = random.Random(seed)
    while slept(choice.uniform(0, 3)):
        key = choice.choice(list(files))
        reading = subprocess.run(
            ["cat", f"{ROOT}/{key}/marker"], user="user", capture_output=True, check=False
        )
        text = reading.stdout.decode(errors="replace")
        if text == files[key]:
            counts["visits that worked"] += 1
            counts[f"of {key.partition('@')[0]}"] += 1
        elif text:
            faults.append(f"{key} shows {text!r}")
        else:
            counts["visits that failed"] += 1


def reap() -> None:
    while slept(1.0):
        reaper = subprocess.run(["auto-iscsi", "reap"], capture_output=True, text=True, check=False)
        counts["reapers"] += 1
        counts["revoked"] += reaper.stdout.count("revoked ")
        if reaper.returncode not in (0, 1, -signal.SIGKILL):
            faults.append(f"reaper: {reaper.returncode} {reaper.stderr}")


def processes(part: str) -> list[int]:
    """Return the processes whose command line has this in it."""
    pids = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline") as file:
            if part in file.read():
                pids.append(int(name))
    return pids


def visits() -> int:
    return counts["visits that worked"] + counts["visits that failed"]


def kill() -> None:
    """Kill somebody after each few visits, however long they take."""
    choice = random.Random(1)
    while slept(choice.uniform(1, 4)):
        next_one = visits() + choice.randint(1, 3)
        while visits() < next_one and slept(0.5):
            pass
        kind = choice.choice(list(VICTIMS))
        until = time.monotonic() + 10.0
        while not (pids := processes(VICTIMS[kind])) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(choice.uniform(0, 2))  # how far it comes
        for pid in pids[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                counts[f"{kind} killed"] += 1


def main() -> None:
    global over
    latest = over + MORE
    threading.excepthook = lambda broken: faults.append(repr(broken.exc_value))
    work = [threading.Thread(target=visit, args=(100 + n,)) for n in range(USERS)]
    work += [threading.Thread(target=each) for each in (reap, kill)]
    for thread in work:
        thread.start()
    while slept(5.0):
        print(f"{over - time.monotonic():4.0f} s left, {dict(counts)}", flush=True)
        is_too_early = counts["visits that worked"] < ENOUGH and over < latest
        if is_too_early and over - time.monotonic() < 10:
            over += 30
    for thread in work:
        thread.join()
    print(json.dumps({"counts": counts, "faults": faults}), flush=True)


main()
