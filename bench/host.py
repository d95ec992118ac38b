"""Measure the processor time and memory of a lookup on this machine.

The built programs run on an artificial tree with the files of /sys, /etc and /run that a lookup
reads when the session is up. They are compared with a Python that does nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from auto_iscsi.config import file_cache
from bench.table import Row, compared
from tests.tree.tree import Content, Link, make_tree

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PYTHON = "/usr/bin/python3"
BARE = [PYTHON, "-I", "-S", "-c", "pass"]
BETA = "iqn.2001-05.com.equallogic:0-8a0906-vm-beta"
SESSIONS = "/sys/class/iscsi_session"
PEAK = "print(next(l for l in open('/proc/self/status') if 'VmHWM' in l).split()[1])"


def session(number: int, target: str) -> dict[str, Content]:
    """Return the files and links of a session whose one disk has one partition."""
    path = f"{SESSIONS}/session{number}"
    disk = f"{path}/device/target{number}:0:0/{number}:0:0:0"
    name = f"sd{number}"
    connection = f"/sys/class/iscsi_connection/connection{number}:0"
    return {
        f"{path}/targetname": target,
        f"{path}/state": "LOGGED_IN",
        f"{path}/tpgt": "1",
        f"{connection}/persistent_address": "10.0.0.1",
        f"{connection}/persistent_port": "3260",
        f"{disk}/type": "0",
        f"{disk}/state": "running",
        f"{disk}/block/{name}/dev": f"8:{number * 16}",
        f"{disk}/block/{name}/ro": "1",
        f"{disk}/block/{name}/size": "65536",
        f"{disk}/block/{name}/{name}1/partition": "1",
        f"{disk}/block/{name}/{name}1/dev": f"8:{number * 16 + 1}",
        f"/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-{target}-lun-0": Link(f"../../{name}"),
        f"/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-{target}-lun-0-part1": Link(f"../../{name}1"),
    }


def sections(number: int) -> dict[str, Content]:
    """Return configuration files with this many sections; the last one matches BETA."""
    some = [
        f"[iqn.2001-05.com.equallogic:*-vm-{n}-*]\n    fstype = xfs\n    options = ro, nosuid\n"
        for n in range(number - 1)
    ]
    some.append("[*-vm-beta]\n    udev_timeout = 30s\n")
    return {
        f"/etc/auto.iscsi.conf.d/{at:06}.conf": "".join(some[at : at + 5000])
        for at in range(0, number, 5000)
    }


class Machine:
    """A host whose files are below a directory."""

    def __init__(self, folder: Path, more: Mapping[str, Content] | None = None) -> None:
        self.root = folder
        make_tree(
            folder,
            {
                **session(1, BETA),
                "/run": None,
                "/etc/auto.iscsi.conf": (ROOT / "etc/auto.iscsi.conf").read_text(),
                "/proc/sys/kernel/random/boot_id": "0b7e6f9a-6e05-4c50-9d1e-1f6f0d4e4f5a\n",
                "/proc/self/mountinfo": "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n",
                **(more or {}),
            },
        )
        # The built map, changed to look below the folder.
        script = (DIST / "auto.iscsi").read_text()
        end = "os._exit(program.main())"
        assert end in script
        host = f"Host({str(folder)!r})"
        rooted = f"from auto_iscsi.machine.host import Host\nstatus = program.main(host={host})\n"
        self.map, self.peak = folder / "auto.iscsi", folder / "peak"
        for path, last in ((self.map, "os._exit(status)"), (self.peak, PEAK)):
            path.write_text(script.replace(end, f"{rooted}{last}"))
            path.chmod(0o755)

    def lookup(self, key: str = BETA) -> list[str]:
        return [str(self.map), key]

    def warmed(self) -> Machine:
        """Run some lookups, which fill the caches; return the machine."""
        for _ in range(3):
            subprocess.run(self.lookup(), check=True, stdout=subprocess.DEVNULL)
        assert (self.root / f"run/auto-iscsi/settings/{BETA}").exists()
        return self


def seconds(command: Sequence[str], null: int) -> float:
    """Return the processor time of one run."""
    files = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
    pid = os.posix_spawn(command[0], list(command), {"PATH": "/usr/bin:/bin"}, file_actions=files)
    _, _, used = os.wait4(pid, 0)
    return used.ru_utime + used.ru_stime


def in_turn(rounds: int, *commands: Sequence[str]) -> list[list[float]]:
    """Run every command once per round; return the times of each."""
    null = os.open(os.devnull, os.O_RDWR)
    times_of_each: list[list[float]] = [[] for _ in commands]
    for number in range(rounds + 1):
        for command, times in zip(commands, times_of_each):
            took = seconds(command, null)
            if number:  # the first round fills the page cache
                times.append(took)
    os.close(null)
    return times_of_each


def peak(command: Sequence[str]) -> float:
    """Return the peak memory, in KiB, that a program prints of itself."""
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(output.split()[-1])


def calls(command: Sequence[str], trace: Path) -> int:
    """Return how many system calls a program makes."""
    subprocess.run(
        ["strace", "-f", "-c", "-o", trace, *command], check=True, stdout=subprocess.DEVNULL
    )
    total = re.search(r"(\d+)\s+(?:\d+\s+)?total$", trace.read_text(), re.MULTILINE)
    assert total
    return int(total[1])


def growth(folder: Path) -> dict[str, tuple[Machine, Machine]]:
    """Return pairs of hosts: one has few, the other many sessions, snapshots and so on."""

    def many(number: int) -> dict[str, Content]:
        files: dict[str, Content] = {}
        for n in range(2, number + 1):
            files.update(session(n, f"iqn.2001-05.com.equallogic:0-8a0906-{n:05}"))
        return files

    def snapshots(number: int) -> dict[str, Content]:
        """Return the node records of the snapshots of 100 volumes."""
        array = "iqn.2001-05.com.equallogic:0-8a0906"
        return {
            f"/etc/iscsi/nodes/{array}-1c20da503-{n:014x}-vm-{n % 100:02}-2026-"
            f"{1 + n // 100 % 12:02}-{1 + n // 1200:02}-04:00:01.{n}/10.0.0.1,3260,1/default": ""
            for n in range(number)
        }

    def claims(number: int) -> dict[str, Content]:
        return {
            f"/run/auto-iscsi/claims/iqn.2001-05.com.equallogic:0-{n:05}": "sids 7\n"
            for n in range(number)
        }

    kinds = {
        "sessions": (many, 10, 1000),
        "snapshots": (snapshots, 10, 10000),
        "sections": (sections, 10, 1000),
        "sections, more": (sections, 10, 10000),
        "claims": (claims, 10, 10000),
    }
    pairs = {}
    for name, (make, few, lots) in kinds.items():
        print(f"bench: making {lots} {name.partition(',')[0]}", file=sys.stderr)
        pair = []
        for number in (few, lots):
            place = folder / f"{name}-{number}"
            place.mkdir()
            pair.append(Machine(place, make(number)))
            (place / "run").chmod(0o755)
            if (ours := place / "run/auto-iscsi").exists():
                ours.chmod(0o700)
        label = f"warm lookup, {few} → {lots:,} {name.partition(',')[0]}"
        pairs[label] = (pair[0], pair[1])
    return pairs


def rows(rounds: int) -> list[Row]:
    """Measure everything that needs no SAN."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "shipped").mkdir()
        shipped = Machine(folder / "shipped")
        pairs = growth(folder)
        time.sleep(file_cache.SETTLE_TIME + 0.1)
        for machine in (shipped, *(each for pair in pairs.values() for each in pair)):
            machine.warmed()
        return [*_alone(shipped, rounds), *_grown(pairs, rounds), *_verbs(pairs)]


def _alone(shipped: Machine, rounds: int) -> list[Row]:
    print("bench: a warm lookup and refused keys on this machine", file=sys.stderr)
    unknown = "iqn.2001-05.com.example:invented"
    bare, warm, refused, invented = in_turn(
        rounds, BARE, shipped.lookup(), shipped.lookup(".git"), shipped.lookup(unknown)
    )
    each = statistics.median(refused)
    rows = [
        compared("warm lookup ÷ bare Python", warm, bare, "≤ 1.75"),
        compared(
            "refused key ÷ bare Python",
            refused,
            bare,
            "",
            f"{1 / each:.0f} per second keep one processor busy",
        ),
        compared("invented name ÷ bare Python", invented, bare, "", "it has no node record"),
    ]
    memory = peak([str(shipped.peak), BETA]) / peak([PYTHON, "-I", "-S", "-c", PEAK])
    rows.append(Row("warm lookup, peak memory ÷ bare Python", f"{memory:.2f}", ""))
    if shutil.which("strace"):
        trace = shipped.root / "trace"
        ours, none = calls(shipped.lookup(), trace), calls(BARE, trace)
        ratio, note = f"{ours / none:.2f}", f"{ours} and {none}"
        rows.append(Row("warm lookup, system calls ÷ bare Python", ratio, "", "", note))
    return rows


def _grown(pairs: Mapping[str, tuple[Machine, Machine]], rounds: int) -> list[Row]:
    rows = []
    for label, (few, lots) in pairs.items():
        print(f"bench: {label}", file=sys.stderr)
        small, big = in_turn(rounds, few.lookup(), lots.lookup())
        rows.append(compared(label, big, small, "≤ 1.5"))
    return rows


def _verbs(pairs: Mapping[str, tuple[Machine, Machine]]) -> list[Row]:
    """Time the verbs that go through all sessions, or through all snapshots."""
    rows = []
    for verb, kind in (
        ("status", "1,000 sessions"),
        ("reap --dry-run", "1,000 sessions"),
        ("list --offline", "10,000 snapshots"),
    ):
        few, lots = next(pair for label, pair in pairs.items() if label.endswith(kind))
        took = []
        for machine in (few, lots):
            command = [str(DIST / "auto-iscsi"), "--root", str(machine.root), *verb.split()]
            began = time.monotonic()
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            took.append(time.monotonic() - began)
            if done.returncode > 1:
                break
        else:
            rows.append(
                Row(
                    f"{verb}, 10 → {kind}",
                    f"{took[1] / took[0]:.2f}",
                    "",
                    "",
                    f"{took[1]:.2f} s with {kind.split()[0]}; the goal is 2 s",
                )
            )
    return rows
