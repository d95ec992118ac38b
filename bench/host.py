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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from auto_iscsi.config import file_cache
from auto_iscsi.iscsi import claims, sessions
from auto_iscsi.machine.host import Host
from bench.table import Row, compared, seconds
from tests.tree.tree import Content, Link, make_tree

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PYTHON = "/usr/bin/python3"
BARE = [PYTHON, "-I", "-S", "-c", "pass"]
BETA = "iqn.2001-05.com.equallogic:0-8a0906-vm-beta"
SESSIONS = "/sys/class/iscsi_session"
#: Answers for as many overlays as `dmsetup status` does.
DMSETUP = "#!/bin/sh\nseq {} | sed 's/.*/ai-&: 0 64 snapshot &\\/640 8/'\n"
#: Runs a command, and prints its peak memory in KiB. A small parent: Linux counts it, too.
PEAK_OF = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
print(used.ru_maxrss, flush=True)
sys.exit(status >> 8)
"""
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


def many_sessions(number: int, overlays: int = 0) -> dict[str, Content]:
    """Return the files of sessions; on the disks of some of them lies an overlay of ours."""
    files: dict[str, Content] = {"/usr/sbin/dmsetup": DMSETUP.format(overlays)}
    for n in range(2, number + 1):
        files.update(session(n, f"iqn.2001-05.com.equallogic:0-8a0906-{n:05}"))
        if n - 2 < overlays:
            block = f"{SESSIONS}/session{n}/device/target{n}:0:0/{n}:0:0:0/block/sd{n}"
            node = f"/sys/block/dm-{n}"
            files.update(
                {
                    f"/dev/sd{n}": "",
                    f"/sys/block/sd{n}/holders/dm-{n}/x": "",
                    f"{block}/sd{n}1/holders/dm-{n}/x": "",
                    f"/sys/dev/block/8:{n * 16 + 1}": Link(f"../../..{block}/sd{n}1"),
                    f"{node}/dm/uuid": f"AUTOISCSI-ai-{n}",
                    f"{node}/dm/name": f"ai-{n}",
                    f"{node}/dev": f"253:{n}",
                    f"{node}/ro": "1",
                    f"{node}/slaves/sd{n}1/dev": f"8:{n * 16 + 1}",
                    f"{node}/slaves/loop{n}/dev": f"7:{n}",
                }
            )
    return files


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


def used(command: Sequence[str], null: int) -> float:
    """Return the processor time of one run."""
    files = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
    pid = os.posix_spawn(command[0], list(command), {"PATH": "/usr/bin:/bin"}, file_actions=files)
    _, _, usage = os.wait4(pid, 0)
    return usage.ru_utime + usage.ru_stime


def in_turn(rounds: int, *commands: Sequence[str]) -> list[list[float]]:
    """Run every command once per round; return the times of each."""
    null = os.open(os.devnull, os.O_RDWR)
    times_of_each: list[list[float]] = [[] for _ in commands]
    for number in range(rounds + 1):
        for command, times in zip(commands, times_of_each):
            took = used(command, null)
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


def growth(folder: Path) -> dict[str, dict[int, Machine]]:
    """Return hosts that have few or many sessions, snapshots and so on, by what and how many."""

    def snapshots(number: int) -> dict[str, Content]:
        """Return the catalogue's node records: the snapshots of 100 volumes."""
        array = "iqn.2001-05.com.equallogic:0-8a0906"
        return {
            f"/etc/iscsi/nodes/{array}-1c20da503-{n:014x}-vm-{n % 100:02}-2026-"
            f"{1 + n // 100 % 12:02}-{1 + n // 1200:02}-04:00:01.{n}/10.0.0.1,3260,1/default": ""
            for n in range(number)
        }

    def strangers(number: int) -> dict[str, Content]:
        return {
            f"/run/auto-iscsi/claims/iqn.2001-05.com.equallogic:0-{n:05}": "sids 7\n"
            for n in range(number)
        }

    kinds: dict[str, tuple[Callable[[int], dict[str, Content]], Sequence[int]]] = {
        "sessions": (many_sessions, (10, 100, 1000)),
        "snapshots": (snapshots, (10, 100, 1000, 10000)),
        "sections": (sections, (10, 10000)),
        "claims": (strangers, (10, 10000)),
        "overlays": (lambda number: many_sessions(1000, number), (0, 200)),
    }
    hosts: dict[str, dict[int, Machine]] = {}
    for kind, (make, numbers) in kinds.items():
        print(f"bench: making {numbers[-1]} {kind}", file=sys.stderr)
        hosts[kind] = {}
        for number in numbers:
            place = folder / f"{kind}-{number}"
            place.mkdir()
            hosts[kind][number] = Machine(place, make(number))
            (place / "run").chmod(0o755)
            if (ours := place / "run/auto-iscsi").exists():
                ours.chmod(0o700)
            if kind in ("sessions", "overlays"):
                (place / "usr/sbin/dmsetup").chmod(0o755)
                claim_all(Host(str(place)))
    return hosts


def claim_all(host: Host) -> None:
    """Write the claims of lookups that have opened all sessions of a host."""
    for each in sessions.list_all(host):
        opened = ((each.sid, each.inode),)
        claim = claims.Claim((each.sid,), opened, looked_up=claims.now())
        claims.write(host, each.target, claim)


def rows(rounds: int) -> list[Row]:
    """Measure everything that needs no SAN."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "shipped").mkdir()
        shipped = Machine(folder / "shipped")
        hosts = growth(folder)
        time.sleep(file_cache.SETTLE_TIME + 0.1)
        for machine in (shipped, *(each for some in hosts.values() for each in some.values())):
            machine.warmed()
        rows = [*_alone(shipped, rounds), *_grown(hosts, rounds), *_verbs(hosts)]
        return [*rows, versions_memory(folder)]


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


def _grown(hosts: Mapping[str, Mapping[int, Machine]], rounds: int) -> list[Row]:
    """Time warm lookups on hosts that have few or many of something."""
    rows = []
    for kind in ("sessions", "snapshots", "sections", "claims"):
        print(f"bench: warm lookups, {kind}", file=sys.stderr)
        times = in_turn(rounds, *(host.lookup() for host in hosts[kind].values()))
        rows.append(grown(kind, hosts[kind], times))
    return rows


def _verbs(hosts: Mapping[str, Mapping[int, Machine]]) -> list[Row]:
    """Time the verbs that go through all sessions, or through all snapshots."""
    rows = []
    for verb, kind in (
        ("status", "sessions"),
        ("reap --dry-run", "sessions"),
        ("status", "overlays"),
        ("reap --dry-run", "overlays"),
        ("list --offline", "snapshots"),
    ):
        print(f"bench: {verb}, {kind}", file=sys.stderr)
        commands = [
            [str(DIST / "auto-iscsi"), "--root", str(host.root), *verb.split()]
            for host in hosts[kind].values()
        ]
        times = in_turn(3, *commands)
        rows.append(lasting(verb, kind, hosts[kind], times))
        if kind != "overlays":
            few, lots = (peak_of(command) for command in (commands[0], commands[-1]))
            label = f"{verb}, peak memory, {counts(hosts[kind])} {kind}"
            rows.append(Row(label, f"{lots / few:.2f}", "", "", f"{lots / 1024:.0f} MiB"))
    return rows


def versions_memory(folder: Path) -> Row:
    """Compare the peak memory of `versions` over few and many snapshots: directories, here."""
    peaks = {}
    for number in (10, 100):
        root = folder / f"versions-{number}"
        root.mkdir()
        point = f"{root}/iscsiauto"
        files: dict[str, Content] = {
            "/etc/auto.master": f"{point} program:/etc/auto.iscsi\n",
            "/proc/self/mounts": f"/etc/auto.iscsi {point} autofs rw,pgrp=1,timeout=300 0 0\n",
            "/proc/sys/kernel/random/boot_id": "0b7e6f9a-6e05-4c50-9d1e-1f6f0d4e4f5a\n",
        }
        for n in range(number):
            target = f"iqn.2001-05.com.example:vm-beta-2026-01-01-{n // 60:02}:{n % 60:02}:00"
            files[f"/etc/iscsi/nodes/{target}/10.0.0.1,3260,1/default"] = ""
            files[f"/iscsiauto/{target}/marker"] = f"{n}\n"
        make_tree(root, files)
        program = [str(DIST / "auto-iscsi"), "--root", str(root)]
        peaks[number] = peak_of([*program, "versions", "vm-beta:/marker", "--hash"])
    ratio, most = peaks[100] / peaks[10], f"{peaks[100] / 1024:.0f} MiB"
    return Row("versions, peak memory, 10 → 100 snapshots", f"{ratio:.2f}", "", "", most)


def grown(kind: str, numbers: Iterable[int], times: Sequence[Sequence[float]]) -> Row:
    """Return a row that compares lookups with the most and the fewest; medians: of all numbers."""
    row = compared(f"warm lookup, {counts(numbers)} {kind}", times[-1], times[0], "≤ 1.2")
    return row._replace(medians=tuple(statistics.median(each) for each in times))


def lasting(verb: str, kind: str, numbers: Iterable[int], times: Sequence[Sequence[float]]) -> Row:
    """Return a row with the seconds of a verb with the most; medians: of all numbers."""
    medians = tuple(statistics.median(each) for each in times)
    note = f"{medians[-1] / medians[0]:.1f} times as long as with {min(numbers)}"
    what = f"{verb}, {max(numbers):,} {kind}"
    return seconds(what, medians[-1], "≤ 2 s", note)._replace(medians=medians)


def counts(numbers: Iterable[int]) -> str:
    """Return the fewest and the most: 10 → 1,000."""
    return f"{min(numbers):,} → {max(numbers):,}"


def peak_of(command: Sequence[str]) -> float:
    """Return the peak memory of any program, in KiB."""
    parent = [PYTHON, "-I", "-S", "-c", PEAK_OF]
    done = subprocess.run([*parent, *command], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 or (done.returncode == 1 and "status" in command), done
    return float(done.stdout.split()[-1])
