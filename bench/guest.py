"""Run one measurement in the guest; print its times as JSON, in seconds.

bench/machine.py copies this file into the virtual machine and starts it as root. It needs only the
standard library and pyudev. The guest's clock is QEMU's virtual time.
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
MENDED = "/root/mended"  #: the shell script, corrected: no sleep, and only the entry on stdout
SLEEPING = "/root/original"  #: the shell script as it was, with its `sleep 1`
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


def settle() -> None:
    """Wait until the guest is idle."""
    run("udevadm", "settle")
    time.sleep(0.3)


def forget(*targets: str) -> None:
    """Log out of targets and delete what lookups stored about them, as the reaper does."""
    some = ["-T", targets[0], "--logout"] if len(targets) == 1 else ["--logoutall=all"]
    run("iscsiadm", "-m", "node", *some, check=False)
    for folder in ("claims", "settings"):
        shutil.rmtree(f"/run/auto-iscsi/{folder}", ignore_errors=True)
    settle()


def listen() -> pyudev.Monitor:
    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
    monitor.filter_by("block")
    monitor.start()
    return monitor


def links(monitor: pyudev.Monitor, *targets: str) -> None:
    """Wait for udev's events for the partitions of all targets."""
    missing = {link(target) for target in targets}
    while missing:
        event = monitor.poll(timeout=30)
        assert event is not None, missing
        if event.action == "add":
            missing -= set(
                event.device_links
                if hasattr(event, "device_links")
                else event.get("DEVLINKS", "").split()
            )


def mount(source: str) -> float:
    """Mount as automount does, and unmount; return the time of the mount."""
    seconds = timed("mount", "-n", "-t", "ext3", "-o", "ro", source, POINT)
    run("umount", POINT)
    return seconds


def source(entry: str) -> str:
    return entry.split(":", 1)[1].strip().strip('"')


def floor(target: str) -> tuple[float, float]:
    """Time a login, the wait for the partition's link, and a mount: no program can be quicker."""
    monitor = listen()
    began = time.monotonic()
    run("iscsiadm", "-m", "node", "-T", target, "--login")
    links(monitor, target)
    ready = time.monotonic() - began
    return ready, ready + mount(link(target))


def started(target: str) -> tuple[float, float]:
    """Time a bare Python and then the floor: no program in Python can be quicker."""
    seconds = timed(*BARE)
    ready, mounted = floor(target)
    return seconds + ready, seconds + mounted


def program(*command: str) -> Callable[[str], tuple[float, float]]:
    """Return a function that times a map program until it answers, and with the mount."""

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
    times: dict[str, list[float]] = {}
    forget(target)
    for turn in range(rounds + 1):
        for name, once in COLD.items():
            try:
                ready, mounted = once(target)
            except (subprocess.CalledProcessError, IndexError):
                ready = mounted = float("nan")  # the script was too early for udev's link
            if turn:  # the first round warms the page cache
                times.setdefault(name, []).append(ready)
                times.setdefault(f"{name}, mounted", []).append(mounted)
            forget(target)
    return times


def make_unverified_map() -> str:
    """Write a copy of our map that does not check the identity of the disk; return its path."""
    place = os.path.join(os.path.dirname(os.path.realpath(MAP)), "unverified")
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
    """Time lookups of a target whose session is up."""
    times: dict[str, list[float]] = {}
    unverified = make_unverified_map()
    run(MAP, target)
    settle()
    time.sleep(3.1)  # or it would wait for the mount of the first run
    for turn in range(rounds + 2):
        for name, command in (
            ("bare", BARE),
            ("ours", (MAP, target)),
            ("unverified", (unverified, target)),
            ("mended", (MENDED, target)),
            ("refused", (MAP, ".git")),
            ("true", ("/bin/true",)),
        ):
            began = time.monotonic()
            subprocess.run(command, check=False, stdin=NULL, stdout=NULL, stderr=NULL)
            if turn > 1:
                times.setdefault(name, []).append(time.monotonic() - began)
    forget(target)
    return times


def together(rounds: int, *targets: str) -> dict[str, list[float]]:
    """Time one target and many at once: our lookups, and bare logins."""
    times: dict[str, list[float]] = {}
    forget(*targets)
    for turn in range(rounds + 1):
        for many in (targets[:1], targets)[: turn + 1]:  # the first round warms the page cache
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
                    times.setdefault(f"{name} {len(many)}", []).append(seconds)
                forget(*many)
    return times


def forget_devices(target: str) -> None:
    """Remove the overlays and logical volumes of a target, the last one made first, and log out."""
    while names := run("dmsetup", "info", "-c", "--noheadings", "--sort=-minor", "-o", "name"):
        ours = [name for name in names.split() if name.startswith("ai-")]
        if not ours:
            break
        run("dmsetup", "remove", "--retry", ours[0])
    forget(target)


def read(path: str) -> float:
    """Time reading 64 MiB from the start of a device, past the page cache."""
    return timed("dd", f"if={path}", "of=/dev/null", "bs=1M", "count=64", "iflag=direct")


def contents(rounds: int, plain: str, dirty: str, server: str) -> dict[str, list[float]]:
    """Time first and warm lookups by what is on the disk, and reading through an overlay."""
    times: dict[str, list[float]] = {}
    keys = {"plain": plain, "dirty": dirty, "server": server}
    forget(*keys.values())
    for turn in range(rounds + 1):
        for name, target in keys.items():
            first = timed(MAP, target)
            time.sleep(3.1)  # or the next lookup would wait for the mount of this one
            measured = {name: first, f"{name}, warm": timed(MAP, target)}
            if name == "dirty":
                overlay = source(run(MAP, target))
                measured.update({"read": read(overlay), "read, bare": read(link(target))})
            if turn:  # the first round warms the page cache
                for what, seconds in measured.items():
                    times.setdefault(what, []).append(seconds)
            forget_devices(target)
    return times


def main() -> None:
    job, rounds, *targets = sys.argv[1:]
    os.makedirs(POINT, exist_ok=True)
    jobs: dict[str, Callable[..., dict[str, list[float]]]]
    jobs = {"cold": cold, "warm": warm, "together": together, "contents": contents}
    times = jobs[job](int(rounds), *targets)
    print(json.dumps(times))


main()
