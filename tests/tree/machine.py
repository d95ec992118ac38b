"""A machine for one test: a folder with the files of a host, a fake iscsiadm, and portals."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from auto_iscsi.iscsi import claims
from auto_iscsi.machine.host import Host
from tests.tree import kernel
from tests.tree.tree import Content, Link, make_tree

REPOSITORY = Path(__file__).resolve().parents[2]
VOL1 = "iqn.2001-05.com.equallogic:0-8a0906-vol1"
VOL10 = "iqn.2001-05.com.equallogic:0-8a0906-vol10"
OTHER = "iqn.2001-05.com.equallogic:0-8a0906-other"
INITIATOR = "iqn.1993-08.org.debian:01:browse"
NO_CACHE = {"PYTHONDONTWRITEBYTECODE": "1"}
PATIENCE = 30.0  # seconds after which a test gives up; a slow machine needs less
MARGIN = 5.0  # seconds that a busy machine may add to what the contract allows
DAY = 86400.0  # seconds
#: Where node records are: on Debian 12, and with open-iscsi 2.1.7 or later.
NODE_FOLDERS = ("/etc/iscsi/nodes", "/var/lib/iscsi/nodes")

LAUNCHER = """\
#!{python} -IS
import os, sys
sys.pycache_prefix = {cache!r} or None
sys.dont_write_bytecode = not sys.pycache_prefix
sys.path.insert(0, os.environ.get("AUTO_ISCSI_ROOT", "") + "/san/code")
from tests.tree import iscsiadm
sys.exit(iscsiadm.main())
"""

#: The settings of iscsid.conf for new node records. With these a record would log in at each boot
#: (RHEL, Fedora), and a reader would wait 120 s for a lost session.
ISCSID_CONF = {
    "node.startup": "automatic",
    "node.session.auth.username": "browse",
    "node.session.auth.password": "s3cret",
    "node.session.initial_login_retry_max": "8",
    "node.session.timeo.replacement_timeout": "120",
    "node.conn[0].timeo.login_timeout": "15",
}


#: The root filesystem, the map, a trigger mount of automount's for one key and a mount for another.
MOUNTINFO = (
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "40 22 0:38 / {root}/iscsiauto rw,relatime shared:9 - autofs /etc/auto.iscsi rw,fd=7\n"
    "41 40 0:39 / {root}/iscsiauto/{other} rw,relatime - autofs /etc/auto.iscsi rw,fd=7\n"
    "42 40 8:17 / {root}/iscsiauto/{name} ro,nosuid,nodev,relatime - ext3 /dev/sdb1 ro\n"
)


class Answer(NamedTuple):
    """What automount gets from the map program."""

    status: int
    entry: str  #: its line on stdout, without the line end
    log: str  #: its line on stderr, without the program's name
    seconds: float


class Reaped(NamedTuple):
    """The exit status and the output of a reaper."""

    status: int
    out: str
    err: str


class Lookup:
    """A lookup that runs as a process of its own."""

    def __init__(self, command: Sequence[str], cwd: Path, cache: str) -> None:
        # Like automount: pipes and no terminal. Host does not look programs up in PATH.
        environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/"}
        environment.update({"PYTHONPYCACHEPREFIX": cache} if cache else NO_CACHE)
        self.since = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.output = ("", "")
        self.seconds = 0.0
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        self.output = self.process.communicate()
        self.seconds = time.monotonic() - self.since

    def answer(self) -> Answer:
        """Return the answer, once no process has the lookup's stdout or stderr open any more."""
        self.listener.join(PATIENCE)
        if self.listener.is_alive():
            self.process.kill()
            raise AssertionError(f"its stdout or stderr was still open after {PATIENCE} s")
        out, err = self.output
        seconds = self.seconds
        if self.process.returncode == 0:
            assert out.endswith("\n") and out.count("\n") == 1, (out, err)
            if not err:
                return Answer(0, out[:-1], "", seconds)
        else:
            assert not out, out
        assert err.startswith("auto.iscsi: ") and err.endswith("\n") and len(err) < 1023, err
        line = err[len("auto.iscsi: ") : -1]
        assert line.isascii() and line.isprintable(), err
        return Answer(self.process.returncode, out[:-1], line, seconds)

    def kill(self) -> None:
        self.process.kill()
        self.listener.join(PATIENCE)


class Machine:
    """A folder with the files of a host and a fake iscsiadm, and portals on the loopback device."""

    def __init__(
        self,
        root: Path,
        nodes: str = NODE_FOLDERS[0],
        cache: str = "",
        python: str = sys.executable,
    ) -> None:
        """Make the files below `root`; in `cache`, Python keeps its byte-code."""
        self.root = root
        self.cache = cache
        self.host = Host(str(root))
        self.nodes = root / nodes.lstrip("/")
        self.plan: dict[str, Any] = {"nodes": nodes, "targets": {}}
        self.sockets: list[socket.socket] = []
        self.lookups: list[Lookup] = []
        make_tree(
            root,
            {
                "/usr/sbin/iscsiadm": LAUNCHER.format(python=python, cache=cache),
                "/etc/iscsi/iscsid.conf": "".join(f"{n} = {v}\n" for n, v in ISCSID_CONF.items()),
                "/etc/iscsi/initiatorname.iscsi": f"## its name\nInitiatorName={INITIATOR}\n",
                "/proc/77/comm": "iscsid\n",
                "/proc/sys/kernel/random/boot_id": "0b7e6f9a-6e05-4c50-9d1e-1f6f0d4e4f5a\n",
                "/proc/self/mountinfo": "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n",
                "/dev/disk/by-path": None,
                "/iscsiauto": None,
            },
        )
        (root / "usr/sbin/iscsiadm").chmod(0o755)
        for name in ("kernel.py", "iscsiadm.py"):
            code = Path(__file__).with_name(name).read_text()
            make_tree(root, {f"/san/code/tests/tree/{name}": code})
        self.save()

    # The host and the SAN

    def save(self) -> None:
        kernel.write(str(self.root), "/san/plan.json", json.dumps(self.plan))

    def configure(self, text: str) -> None:
        make_tree(self.root, {"/etc/auto.iscsi.conf": text})

    def portal(self, address: str = "127.0.0.1") -> str:
        """Return a portal that accepts TCP connections."""
        return self._bind(address, listen=True)

    def dead_portal(self, address: str = "127.0.0.1") -> str:
        """Return a portal that refuses TCP connections; no other program gets its port."""
        return self._bind(address, listen=False)

    def revive(self, portal: str) -> None:
        """Have a dead portal accept connections from now on."""
        self._socket(portal).listen(1024)

    def mute_portal(self) -> str:
        """Return a portal that does not answer at all: its backlog is full."""
        place = self._bind("127.0.0.1", listen=True, backlog=0)
        self.mute(place)
        return place

    def mute(self, portal: str) -> None:
        """Have a portal stop answering."""
        address, _, port = portal.rpartition(":")
        self._socket(portal).listen(0)
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex((address, int(port)))
            self.sockets.append(client)

    def silent(self, portal: str) -> None:
        """Have a portal take connections and say nothing to a discovery."""
        self.plan["silent"] = portal
        self.save()

    def connected(self, portal: str) -> None:
        """Wait until somebody has connected to a portal."""
        bound = self._socket(portal)
        assert select.select([bound], [], [], PATIENCE)[0], f"nobody connected to {portal}"

    def _socket(self, portal: str) -> socket.socket:
        port = int(portal.rpartition(":")[2])
        return next(bound for bound in self.sockets if bound.getsockname()[1] == port)

    def _bind(self, address: str, listen: bool, backlog: int = 1024) -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        bound = socket.socket(family)
        bound.bind((address, 0))
        if listen:
            bound.listen(backlog)
        self.sockets.append(bound)
        return f"{f'[{address}]' if ':' in address else address}:{bound.getsockname()[1]}"

    def target(
        self,
        name: str,
        *portals: str,
        luns: Mapping[int, Mapping[str, Any]] | None = None,
        record: bool = True,
        **plan: Any,
    ) -> str:
        """Have the SAN offer a target, and open-iscsi hold records of it; return its first portal.

        `luns` has the kernel's number of each LUN, and its `partitions`. The rest of the plan:
        `answers`, the exit status of a verb and how long it hangs, at one portal or at all;
        `after`, how long disk, partition and udev take; `rescanned`, the LUNs that a rescan finds;
        `luns_at`, the LUNs at one of the portals;
        `offered`, whether a discovery names the target; `chap` and `discovery_chap`, the
        credentials that a login or a discovery requires.
        """
        portals = portals or (self.portal(),)
        disks = {0: {"partitions": {"1": None}}} if luns is None else luns
        self.plan["targets"][name] = {"portals": [f"{p},1" for p in portals], "luns": disks, **plan}
        self.save()
        for portal in portals if record else ():
            self.record(name, portal)
        return portals[0]

    def change(self, name: str, **plan: Any) -> None:
        """Have the SAN offer a target in another way from now on."""
        self.plan["targets"][name].update(plan)
        self.save()

    def folder(self, name: str, portal: str) -> Path:
        """Return where the node record of a target's portal is, or would be."""
        address, _, port = portal.rpartition(":")
        return self.nodes / name / f"{address.strip('[]')},{port},1"

    def record(self, name: str, portal: str, text: str = "") -> None:
        """Make a node record as an administrator has it."""
        folder = self.folder(name, portal)
        text = text or f"# BEGIN RECORD 2.1.8\nnode.name = {name}\nnode.startup = manual\n"
        make_tree(folder, {"default": text})

    def values(self, name: str, portal: str) -> dict[str, str]:
        """Return the settings in a node record."""
        lines = (self.folder(name, portal) / "default").read_text().splitlines()
        return dict(line.split(" = ") for line in lines if line[0] != "#")

    def session(self, name: str, portal: str, state: str = "LOGGED_IN", udev: bool = True) -> int:
        """Have a session that another program opened; return its number."""
        address, _, port = portal.rpartition(":")
        root = str(self.root)
        sid = kernel.open_session(root, name, address.strip("[]"), int(port), 1, state)
        for lun, what in self.plan["targets"][name]["luns"].items():
            disk = kernel.add_disk(root, sid, int(lun), what.get("type", "0"), what.get("dev"))
            kernel.add_partitions(root, disk, what.get("partitions", {}))
            if udev:
                kernel.announce(root, disk, what.get("partitions", {}))
        return sid

    def disks(self) -> list[kernel.Disk]:
        """Return the disks of all sessions."""
        root = str(self.root)
        disks = []
        for name, path in kernel._block(root).items():
            parts = path.split("/")
            sid, lun = int(parts[4][len("session") :]), int(parts[7].rpartition(":")[2])
            disks.append(kernel.Disk(name, lun, path, kernel.by_path(root, sid, lun)))
        return disks

    def join(self, *disks: kernel.Disk, partitions: Sequence[str] = ("1",)) -> None:
        """Have multipathd make a map of disks, of all by default."""
        kernel.join(str(self.root), disks or self.disks(), dict.fromkeys(partitions))

    def log_out(self, sid: int, udev: bool = True) -> None:
        """Have a session end; without `udev`, udev has not removed the disk's links yet."""
        kernel.close_session(str(self.root), sid, udev)

    def reboot(self) -> None:
        """Have another boot begin, which counts its sessions from 1 again, with an empty /run."""
        for sid in self.sids():
            self.log_out(sid)
        shutil.rmtree(self.root / "san/sessions")
        shutil.rmtree(self.root / "run/auto-iscsi", ignore_errors=True)
        self.files({"/proc/sys/kernel/random/boot_id": "another\n"})

    def state(self, sid: int, state: str) -> None:
        kernel.set_state(str(self.root), sid, state)

    def recovery_tmo(self, sid: int) -> str:
        """Return how many seconds I/O waits for a lost session."""
        return kernel.read(str(self.root), f"{kernel.SESSIONS}/session{sid}/recovery_tmo")

    def udev_knows(self, number: str, entry: str) -> None:
        """Have udev's database give a device the by-path link of the disk that an entry names."""
        link = entry.rpartition("/")[2].partition("-part")[0]
        kernel.udev_knows(str(self.root), number, link)

    def leave_stale_link(self, name: str, portal: str, disk: str) -> None:
        """Have udev's old links of a target lead to a disk that another target has by now."""
        link = f"{kernel.BY_PATH}/{self.entry(name, portal).rpartition('/')[2][:-1]}"
        self.files({link: Link(f"../../{disk}1"), link[: -len("-part1")]: Link(f"../../{disk}")})

    def mount(self, name: str, other: str = VOL10) -> None:
        """Have automount mount partition 1 of the first disk for a key, `name`.

        For `other` there is automount's trigger mount.
        """
        text = MOUNTINFO.format(root=self.root, name=name, other=other)
        kernel.write(str(self.root), "/proc/self/mountinfo", text.rstrip())

    def files(self, files: Mapping[str, Content]) -> None:
        make_tree(self.root, files)

    def stop_before(self, step: str) -> None:
        """Have iscsiadm stop before a step, until `go_on`."""
        make_tree(self.root, {f"/san/stop/{step}": ""})

    def go_on(self) -> None:
        shutil.rmtree(self.root / "san/stop", ignore_errors=True)

    # Looking up

    def start(self, key: str, cwd: str = "/iscsiauto", under: Sequence[str] = ()) -> Lookup:
        """Start a lookup as a process of its own, perhaps under another program."""
        program = [sys.executable, "-m", "auto_iscsi", "--root", str(self.root)]
        where = self.root / cwd.lstrip("/")
        self.lookups.append(Lookup([*under, *program, "lookup", "--", key], where, self.cache))
        return self.lookups[-1]

    def lookup(self, key: str, cwd: str = "/iscsiauto") -> Answer:
        return self.start(key, cwd).answer()

    def visit(self, key: str) -> str:
        """Look a key up and return the entry; the lookup must succeed and log nothing."""
        answer = self.lookup(key)
        assert not answer.status and not answer.log, answer.log
        return answer.entry

    def entry(self, name: str, portal: str, lun: str = "0", part: int = 1) -> str:
        """Return the entry that mounts a partition as shipped: options, type and link."""
        link = f"ip-{portal.replace('[', '').replace(']', '')}-iscsi-{name}-lun-{lun}-part{part}"
        return f'-nocheck,ro,fstype=ext3 ":{kernel.BY_PATH}/{link}"'

    def leads_to(self, entry: str) -> str:
        """Return the name of the device that an entry with a link mounts."""
        return os.path.basename(os.readlink(f"{self.root}{entry.split(':', 1)[1].rstrip(chr(34))}"))

    # The reaper and other verbs

    def start_reaper(self) -> subprocess.Popen[bytes]:
        """Start a reaper, which the test will kill."""
        command = [sys.executable, "-m", "auto_iscsi", "--root", str(self.root), "reap"]
        environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/", **NO_CACHE}
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)

    def program(
        self, python: Sequence[str], *words: str, timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """Run auto-iscsi on this machine; `python` is the command that starts the program."""
        environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/"}
        environment.update({"PYTHONPYCACHEPREFIX": self.cache} if self.cache else NO_CACHE)
        return subprocess.run(
            [*python, "--root", str(self.root), *words],
            env=environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=timeout,
        )

    def reap(self, *words: str, timeout: float = PATIENCE) -> Reaped:
        """Run the reaper."""
        command = (sys.executable, "-m", "auto_iscsi")
        done = self.program(command, "reap", *words, timeout=timeout)
        return Reaped(done.returncode, done.stdout, done.stderr)

    def age(self, name: str, seconds: float) -> None:
        """Move the times in a claim into the past."""
        claim = self.claim(name)
        claims.write(
            self.host,
            name.lower(),
            claim._replace(
                looked_up=claim.looked_up - seconds, used=claim.used and claim.used - seconds
            ),
        )

    # What iscsiadm and the lookups did

    def log(self) -> list[dict[str, Any]]:
        path = self.root / "san/log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def runs(self, word: str = "") -> list[str]:
        """Return the command lines of iscsiadm that contain `word`, in order."""
        lines = [" ".join(line["run"]) for line in self.log() if "run" in line]
        return [line for line in lines if word in line and line != "kernel"]

    def pids(self, ended: bool | None = None) -> list[int]:
        """Return the process ids of iscsiadm: of all runs, or of those that ended or not."""
        ended_pids = {line["pid"] for line in self.log() if "end" in line}
        pids = [line["pid"] for line in self.log() if "run" in line]
        return [pid for pid in pids if ended is None or (pid in ended_pids) == ended]

    def sids(self) -> list[int]:
        """Return the numbers of the existing sessions."""
        folder = self.root / kernel.SESSIONS.lstrip("/")
        names = os.listdir(folder) if folder.exists() else []
        return sorted(int(name[len("session") :]) for name in names)

    def claim(self, name: str) -> claims.Claim:
        return claims.read(self.host, name.lower())

    def target_files(self) -> list[str]:
        """Return the files of targets in /run/auto-iscsi: claims, locks, caches, and output."""
        folders = ("claims", "lock", "iscsiadm", "settings", "disks", "reap")
        top = self.root / "run/auto-iscsi"
        files = [path for path in top.rglob("*") if path.is_file()]
        return [str(path) for path in files if path.relative_to(top).parts[0] in folders]

    def reached(self, step: str) -> None:
        """Wait until iscsiadm has come to a step."""
        self.wait_for(lambda: any(line.get("step") == step for line in self.log()), step)

    def held(self, name: str) -> Callable[[], bool]:
        """Return a function that says whether a lookup has locked a target."""
        return (self.root / f"run/auto-iscsi/lock/{name}").exists

    def quiet(self) -> None:
        """Wait until no iscsiadm runs, and no process that plays the kernel for it."""
        self.wait_for(lambda: not self.pids(ended=False), "the end of iscsiadm")

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, f"waited for {what} for {PATIENCE} s: {self.log()}"
            time.sleep(0.01)

    def close(self) -> None:
        """End the processes of the test; fail if iscsiadm logged a violation."""
        violations = [line["violation"] for line in self.log() if "violation" in line]
        for lookup in self.lookups:
            if lookup.process.poll() is None:
                lookup.kill()
        for pid in filter(is_ours, self.pids(ended=False)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for bound in self.sockets:
            bound.close()
        self.wait_for(lambda: not any(map(is_ours, self.pids())), "processes to be gone")
        assert not violations, violations


def has_ipv6() -> bool:
    """Say whether a portal can be at ::1 on the machine that runs the tests."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def is_ours(pid: int) -> bool:
    """Say whether a process is a fake iscsiadm, and not one that has its number now."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return b"/usr/sbin/iscsiadm" in words and alive(pid)


def alive(pid: int) -> bool:
    """Say whether a process exists and is not a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(") ")[2][0] not in "ZX"
