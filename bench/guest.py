"""Run one measurement in the guest; print its times as JSON, in seconds.

bench/machine.py copies this file into the virtual machine and starts it as root. It needs only the
standard library and pyudev. The guest's clock is QEMU's virtual time.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import pyudev

MAP = "/etc/auto.iscsi"
MENDED = "/root/mended"  #: the shell script, corrected: no sleep, and only the entry on stdout
SLEEPING = "/root/original"  #: the shell script as it was, with its `sleep 1`
NULL = subprocess.DEVNULL
POINT = "/mnt"
LOOP_SET_FD, LOOP_CTL_GET_FREE = 0x4C00, 0x4C82  # linux/loop.h
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
    for folder in ("claims", "disks", "settings", "trees"):
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


def mount(entry: str) -> float:
    """Mount what a map entry names first, as automount does, and unmount; time the mount."""
    words = re.search(r"-(\S+)", entry)
    assert words
    options = [word for word in words[1].split(",") if word != "nocheck"]
    (kind,) = [word for word in options if word.startswith("fstype=")]
    options.remove(kind)
    kind = kind.partition("=")[2]
    seconds = timed("mount", "-n", "-t", kind, "-o", ",".join(options), source(entry), POINT)
    run("umount", POINT)
    return seconds


def source(entry: str) -> str:
    """Return the device that a map entry names first."""
    return entry.split(":", 1)[1].split('"')[0].strip()


def floor(target: str) -> tuple[float, float]:
    """Time a login, the wait for the partition's link, and a mount: no program can be quicker."""
    monitor = listen()
    began = time.monotonic()
    run("iscsiadm", "-m", "node", "-T", target, "--login")
    links(monitor, target)
    ready = time.monotonic() - began
    return ready, ready + mount(f"-ro,fstype=ext3 :{link(target)}")


def started(target: str) -> tuple[float, float]:
    """Time a bare Python and then the floor: no program in Python can be quicker."""
    seconds = timed(*BARE)
    ready, mounted = floor(target)
    return seconds + ready, seconds + mounted


def recorded(target: str) -> list[str]:
    """Return the tables of the devices that a lookup made, in order, without device numbers.

    They have {link} for the disk, {store} for a loop device, {0}, {1}, … for earlier devices.
    """
    names = run("dmsetup", "info", "-c", "--noheadings", "--sort=minor", "-o", "name").split()
    ours = [name for name in names if name.startswith("ai-")]
    numbers = {number(f"/dev/mapper/{name}"): f"{{{index}}}" for index, name in enumerate(ours)}
    disk = link(target).rpartition("-part")[0]
    for part in (part for part in os.listdir(os.path.dirname(disk)) if f"-iscsi-{target}" in part):
        suffix = part[len(os.path.basename(disk)) :]
        numbers[number(f"{os.path.dirname(disk)}/{part}")] = "{link}" + suffix

    def named(match: re.Match[str]) -> str:
        return numbers.get(match[0], "{store}")

    return [re.sub(r"\b\d+:\d+\b", named, run("dmsetup", "table", name)) for name in ours]


def number(path: str) -> str:
    """Return MAJOR:MINOR of a device."""
    device = os.stat(path).st_rdev
    return f"{os.major(device)}:{os.minor(device)}"


def by_hand(target: str, tables: Sequence[str]) -> tuple[float, float]:
    """Time a login and the steps that make the devices of a lookup, and replay their journals.

    Nothing is read or checked. No program that uses dmsetup for the same devices can be quicker.
    """
    began = time.monotonic()
    monitor = listen()
    run("iscsiadm", "-m", "node", "-T", target, "--login")
    links(monitor, target)
    made: list[str] = []
    stores: list[str] = []
    for index, table in enumerate(tables):
        if "{store}" in table:
            stores.append(loop(f"/var/tmp/by-hand-{index}"))
        disk = link(target).rpartition("-part")[0]
        place = table.format(*made, link=disk, store=stores[-1] if stores else "")
        name = f"ai-by-hand-{index}"
        kind = [] if "{store}" in table else ["--readonly"]
        subprocess.run(["dmsetup", "create", name, *kind], input=place, text=True, check=True)
        made.append(f"/dev/mapper/{name}")
        if " snapshot " in table:
            run("mount", "-n", made[-1], POINT)
            run("umount", POINT)
    ready = time.monotonic() - began
    for store in stores:
        run("losetup", "-d", store)  # when it is not used any more
    return ready, ready


def loop(store: str) -> str:
    """Return a loop device over a new file, of 64 MiB."""
    with open(store, "wb+") as file, open("/dev/loop-control", "rb") as control:
        file.truncate(64 << 20)
        os.unlink(store)
        path = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
        with open(path, "rb+", buffering=0) as device:
            fcntl.ioctl(device, LOOP_SET_FD, file.fileno())
    return path


def program(*command: str) -> Callable[[str], tuple[float, float]]:
    """Return a function that times a map program until it answers, and with the mount."""

    def once(target: str) -> tuple[float, float]:
        began = time.monotonic()
        entry = run(*command, target)
        ready = time.monotonic() - began
        return ready, ready + mount(entry)

    return once


def cold(rounds: int, plain: str, dirty: str, server: str) -> dict[str, list[float]]:
    """Time first visits: by who makes them, and by what is on the disk; then warm lookups."""
    ours = program(MAP)
    visits = {
        "floor": (floor, plain),
        "started": (started, plain),
        "ours": (ours, plain),
        "dirty": (ours, dirty),
        "server": (ours, server),
        "mended": (program(MENDED), plain),
        "original": (program(SLEEPING), plain),
    }
    times: dict[str, list[float]] = {}
    forget(plain, dirty, server)
    for turn in range(rounds + 1):
        for name, (once, target) in [*visits.items()]:
            try:
                ready, mounted = once(target)
            except (subprocess.CalledProcessError, IndexError):
                ready = mounted = float("nan")  # the script was too early for udev's link
            measured = {name: ready, f"{name}, mounted": mounted}
            if once is ours:
                time.sleep(3.1)  # or the next lookup would wait for the mount of this one
                measured[f"{name}, warm"] = timed(MAP, target)
            if name == "dirty":
                overlay = source(run(MAP, target))
                measured.update({"read": read(overlay), "read, bare": read(link(target))})
            if name in ("dirty", "server") and not turn:
                steps = functools.partial(by_hand, tables=recorded(target))
                visits[f"{name} by hand"] = (steps, target)
            if turn:  # the first round warms the page cache
                for what, seconds in measured.items():
                    times.setdefault(what, []).append(seconds)
            forget_devices(target)
    return times


def read(path: str) -> float:
    """Time reading 64 MiB from the start of a device, past the page cache."""
    return timed("dd", f"if={path}", "of=/dev/null", "bs=1M", "count=64", "iflag=direct")


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
    """Time one target and many at once: our lookups, and bare logins; then as many servers."""
    times: dict[str, list[float]] = {}
    plain, servers = targets[: len(targets) // 2], targets[len(targets) // 2 :]
    forget(*targets)
    for turn in range(rounds + 1):
        for name, many in (
            ("floor", plain[:1]),
            ("ours", plain[:1]),
            ("server", servers[:1]),
            ("floor", plain),
            ("ours", plain),
            ("server", servers),
        ):
            if turn == 0 and len(many) > 1:
                continue  # the first round warms the page cache
            seconds = at_once(many, bare=name == "floor")
            if turn:
                times.setdefault(f"{name} {len(many)}", []).append(seconds)
            forget_devices(*many)
    return times


def at_once(targets: Sequence[str], *, bare: bool) -> float:
    """Time first lookups that begin together, or bare logins and the wait for the links."""
    monitor = listen()
    monitor.set_receive_buffer_size(1 << 24)
    login = ["iscsiadm", "-m", "node", "--login", "-T"]
    began = time.monotonic()
    jobs = [
        subprocess.Popen([*(login if bare else [MAP]), each], stdin=NULL, stdout=NULL, stderr=NULL)
        for each in targets
    ]
    if bare:
        links(monitor, *targets)
    failed = sum(job.wait() != 0 for job in jobs)
    return time.monotonic() - began if not failed else float("nan")


def forget_devices(*targets: str) -> None:
    """Remove the overlays and logical volumes of all targets, the last one made first; log out."""
    while names := run("dmsetup", "info", "-c", "--noheadings", "--sort=-minor", "-o", "name"):
        ours = [name for name in names.split() if name.startswith("ai-")]
        if not ours:
            break
        for name in ours:
            run("dmsetup", "remove", "--retry", name, check=False)  # if nothing lies on it
    forget(*targets)


def versions(rounds: int, *targets: str) -> dict[str, list[float]]:
    """Time `versions`, and the least that its visits take one after the other."""
    times: dict[str, list[float]] = {"least": [], "least, ended": [], "ours": []}
    forget(*targets)
    run(MAP, targets[0])  # fills the page cache
    forget(*targets)
    for _ in range(rounds):
        least = ended = 0.0
        for target in targets:
            began = time.monotonic()
            monitor = listen()
            run("iscsiadm", "-m", "node", "-T", target, "--login")
            links(monitor, target)
            run("mount", "-n", "-t", "ext3", "-o", "ro", link(target), POINT)
            os.stat(f"{POINT}/marker")
            least += time.monotonic() - began
            run("umount", POINT)
            run("iscsiadm", "-m", "node", "-T", target, "--logout")
            ended += time.monotonic() - began
        settle()
        began = time.monotonic()
        report = json.loads(run("auto-iscsi", "versions", "vm-beta:/marker", "--json"))
        times["ours"].append(time.monotonic() - began)
        times["least"].append(least)
        times["least, ended"].append(ended)
        (version,) = report["versions"]
        assert len(version["snapshots"]) == len(targets) and not report["failed"], report
        settle()
    return times


def failing(_: int, *targets: str) -> dict[str, list[float]]:
    """Time visits through automount that fail."""
    times = {}
    time.sleep(3)  # automount remembers a failure
    with contextlib.suppress(FileNotFoundError):
        os.unlink("/run/auto-iscsi/attempts")  # or what failed a minute ago would not be tried
    for target in targets:
        began = time.monotonic()
        assert subprocess.run(["ls", f"/iscsiauto/{target}/"], stderr=NULL).returncode
        times[target] = [time.monotonic() - began]
    return times


def main() -> None:
    job, rounds, *targets = sys.argv[1:]
    os.makedirs(POINT, exist_ok=True)
    jobs: dict[str, Callable[..., dict[str, list[float]]]]
    jobs = {
        "cold": cold,
        "warm": warm,
        "together": together,
        "versions": versions,
        "failing": failing,
    }
    times = jobs[job](int(rounds), *targets)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
