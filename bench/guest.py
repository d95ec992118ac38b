"""What takes how long in the guest? One job by its name; its times go to stdout as JSON, seconds.

It runs inside the virtual machine (bench/machine.py brings it there), as root, with Python's own
modules and pyudev alone. The clock is the guest's, which is QEMU's virtual time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import pyudev

MAP = "/etc/auto.iscsi"
MENDED = "/root/mended"  #: the shell script: no sleep, and nothing but the entry on its stdout
SLEEPING = "/root/original"  #: as it was, with its `sleep 1`
NULL = subprocess.DEVNULL
POINT = "/mnt"
BARE = ("python3", "-I", "-S", "-c", "pass")


def run(*command: str, check: bool = True) -> str:
    return subprocess.run(
        command, check=check, stdin=NULL, stdout=subprocess.PIPE, stderr=NULL, text=True
    ).stdout


def timed(*command: str) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, stdin=NULL, stdout=NULL, stderr=NULL)
    return time.monotonic() - began


def link(target: str) -> str:
    return f"/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-{target}-lun-0-part1"


def rest() -> None:
    """Wait until nobody works any more."""
    run("udevadm", "settle")
    time.sleep(0.3)


def forget(*targets: str) -> None:
    """Log out, and forget what a lookup kept of the targets, as after the reaper."""
    some = ["-T", targets[0], "--logout"] if len(targets) == 1 else ["--logoutall=all"]
    run("iscsiadm", "-m", "node", *some, check=False)
    for folder in ("claims", "settings"):
        shutil.rmtree(f"/run/auto-iscsi/{folder}", ignore_errors=True)
    rest()


def listen() -> pyudev.Monitor:
    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
    monitor.filter_by("block")
    monitor.start()
    return monitor


def links(monitor: pyudev.Monitor, *targets: str) -> None:
    """Wait for udev's events of all the targets' partitions."""
    wanted = {link(target) for target in targets}
    while wanted:
        event = monitor.poll(timeout=30)
        assert event is not None, wanted
        if event.action == "add":
            wanted -= set(
                event.device_links
                if hasattr(event, "device_links")
                else event.get("DEVLINKS", "").split()
            )


def mount(source: str) -> float:
    """Mount as automount does, and undo it; return what the mount took."""
    seconds = timed("mount", "-n", "-t", "ext3", "-o", "ro", source, POINT)
    run("umount", POINT)
    return seconds


def source(entry: str) -> str:
    return entry.split(":", 1)[1].strip().strip('"')


def floor(target: str) -> tuple[float, float]:
    """Log in, wait for the partition's link, mount: what nobody can be quicker than."""
    monitor = listen()
    began = time.monotonic()
    run("iscsiadm", "-m", "node", "-T", target, "--login")
    links(monitor, target)
    ready = time.monotonic() - began
    return ready, ready + mount(link(target))


def started(target: str) -> tuple[float, float]:
    """The same after a bare Python: what nothing written in it can be quicker than."""
    seconds = timed(*BARE)
    ready, mounted = floor(target)
    return seconds + ready, seconds + mounted


def program(*command: str) -> Callable[[str], tuple[float, float]]:
    """Return what times a map program: until it answers, and with the mount."""

    def once(target: str) -> tuple[float, float]:
        began = time.monotonic()
        entry = run(*command, target)
        ready = time.monotonic() - began
        return ready, ready + mount(source(entry))

    return once


COLD = {
    "floor": floor,
    "started": started,
    "ours": program(MAP),
    "mended": program(MENDED),
    "original": program(SLEEPING),
}


def cold(rounds: int, target: str) -> dict[str, list[float]]:
    """Time first visits."""
    found: dict[str, list[float]] = {}
    forget(target)
    for turn in range(rounds + 1):
        for name, once in COLD.items():
            try:
                ready, mounted = once(target)
            except (subprocess.CalledProcessError, IndexError):
                ready = mounted = float("nan")  # the script was too early for udev's link
            if turn:  # the first warms the page cache
                found.setdefault(name, []).append(ready)
                found.setdefault(f"{name}, mounted", []).append(mounted)
            forget(target)
    return found


def unasked() -> str:
    """Return a map that does not ask the disk who it is, but else is ours."""
    place = os.path.join(os.path.dirname(os.path.realpath(MAP)), "unasked")
    with open(MAP) as file:
        script = file.read()
    begin = "from auto_iscsi.map import program\n"
    assert begin in script
    change = (
        "from auto_iscsi.map import verification\nverification.delete_swapped = lambda *_: False\n"
    )
    with open(place, "w") as file:
        file.write(script.replace(begin, begin + change))
    os.chmod(place, 0o755)
    return place


def warm(rounds: int, target: str) -> dict[str, list[float]]:
    """Time visits of what is there."""
    found: dict[str, list[float]] = {}
    trusting = unasked()
    run(MAP, target)
    rest()
    time.sleep(3.1)  # or it waits for the mount of the run before
    for turn in range(rounds + 2):
        for name, command in (
            ("bare", BARE),
            ("ours", (MAP, target)),
            ("unasked", (trusting, target)),
            ("mended", (MENDED, target)),
            ("refused", (MAP, ".git")),
            ("true", ("/bin/true",)),
        ):
            began = time.monotonic()
            subprocess.run(command, check=False, stdin=NULL, stdout=NULL, stderr=NULL)
            if turn > 1:
                found.setdefault(name, []).append(time.monotonic() - began)
    forget(target)
    return found


def together(rounds: int, *targets: str) -> dict[str, list[float]]:
    """Time one and many targets that are entered at once, ours and bare logins."""
    found: dict[str, list[float]] = {}
    forget(*targets)
    for turn in range(rounds + 1):
        for many in (targets[:1], targets)[: turn + 1]:  # the first one warms the page cache
            for name in ("floor", "ours"):
                monitor = listen()
                monitor.set_receive_buffer_size(1 << 24)
                began = time.monotonic()
                jobs = [
                    subprocess.Popen(
                        [MAP, t]
                        if name == "ours"
                        else ["iscsiadm", "-m", "node", "-T", t, "--login"],
                        stdin=NULL,
                        stdout=NULL,
                        stderr=NULL,
                    )
                    for t in many
                ]
                if name == "floor":
                    links(monitor, *many)
                failed = sum(job.wait() != 0 for job in jobs)
                seconds = time.monotonic() - began if not failed else float("nan")
                if turn:
                    found.setdefault(f"{name} {len(many)}", []).append(seconds)
                forget(*many)
    return found


def main() -> None:
    job, rounds, *targets = sys.argv[1:]
    os.makedirs(POINT, exist_ok=True)
    jobs: dict[str, Callable[..., dict[str, list[float]]]]
    jobs = {"cold": cold, "warm": warm, "together": together}
    found = jobs[job](int(rounds), *targets)
    print(json.dumps(found))


main()
