"""A host that browses snapshots: the kernel's autofs, automount and the map as it was built.

The host is this one, seen through an overlay that is thrown away, in a mount namespace of its own.
What it has not: a SAN. sysfs, udev's links and iscsiadm are tests/tree's, and the partition that
appears at a login is a loop device.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.tree.machine import PATIENCE, REPOSITORY, Machine

MAP = "/usr/libexec/auto-iscsi/auto.iscsi"
MASTER = "/iscsiauto program:{map} --timeout=1 --negative-timeout={negative} nosuid,nodev\n"
BUILT = REPOSITORY / "dist/auto.iscsi"
LOOP_CTL_REMOVE = 0x4C81  # linux/loop.h
FILE = "etc/really_important_file"
MEMORY = 2.1  # seconds: automount counts its negative_timeout of 1 s in whole ones

# /run and /dev are empty but for what follows: nothing of this machine's daemons is to be seen.
OVERLAY = """
set -e
mount -t tmpfs none {top}
mkdir {top}/upper {top}/work {top}/root
mount -t overlay none -o lowerdir=/,upperdir={top}/upper,workdir={top}/work {top}/root
cd {top}/root
rm -rf etc/iscsi etc/auto.iscsi* etc/auto.master.d var/lib/iscsi iscsiauto dev/* run/* sys/*
mkdir -p dev/pts proc sys
ln -s /proc/self/fd dev/fd
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 autofs:10:235; do
    IFS=: read -r name major minor <<-END
	$node
	END
    mknod -m 666 dev/$name c $major $minor
done
echo overlaid
read -r _
mount -t proc none proc
echo ready
read -r _
"""


class Browse:
    """A host on which automount runs."""

    def __init__(self, folder: Path, disks: Disks) -> None:
        self.folder = folder
        self.disks = disks
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", OVERLAY.format(top=folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.users: list[subprocess.Popen[str]] = []
        self.daemon: subprocess.Popen[str] | None = None
        self._next("overlaid")
        root = Path(f"/proc/{self.holder.pid}/root{folder}/root")
        self.machine = Machine(root, cache="/san/cache", python="/usr/bin/python3")
        (root / MAP.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        for built in (BUILT, BUILT.with_name("auto-iscsi")):
            shutil.copy(built, (root / MAP.lstrip("/")).parent)
        self._next("ready", "go on")
        self.log = root / "san/automount.log"

    def _next(self, word: str, go_on: str = "") -> None:
        assert self.holder.stdin and self.holder.stdout
        if go_on:
            print(go_on, file=self.holder.stdin, flush=True)
        assert self.holder.stdout.readline().strip() == word, "no overlay filesystem here?"

    def command(self, *words: str, user: int = 0) -> list[str]:
        enter = ["nsenter", "--mount", f"--target={self.holder.pid}"]
        return [*enter, "chroot", f"--userspec={user}:{user}", f"{self.folder}/root", *words]

    # automount

    def start(self, negative: int = 1, debug: bool = True) -> None:
        """Start automount, and wait until it serves /iscsiauto."""
        self.machine.files({"/san/auto.master": MASTER.format(map=MAP, negative=negative)})
        before = self._serving()
        options = ["--foreground", *(["--debug"] if debug else []), "--pid-file=/run/autofs.pid"]
        with open(self.log, "a", encoding="utf-8") as log:
            self.daemon = subprocess.Popen(
                self.command("automount", *options, "/san/auto.master"),
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if debug:
            self.wait_for(lambda: self._serving() > before, "automount")
        self.wait_for(lambda: any(line[1] == "/iscsiauto" for line in self.mounts()), "automount")
        if not debug:
            # It does not say when it is ready; before that it refuses all without asking the map.
            self.wait_for(lambda: self.read("knock") and self.said(), "automount")

    def _serving(self) -> int:
        """Return how often automount said that it serves /iscsiauto, new or taken over."""
        lines = self.said(debug=True) if self.log.exists() else []
        return sum("mounted indirect on" in line or "re-connected to" in line for line in lines)

    def stop(self) -> None:
        """Stop automount as systemd does; what is in use stays mounted."""
        assert self.daemon
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(PATIENCE)

    def said(self, debug: bool = False) -> list[str]:
        """Return what the map wrote to stderr, as automount logs it."""
        lines = self.log.read_bytes().decode("utf-8", "surrogateescape").split("\n")
        return [line for line in lines if line and (debug or ">> " in line)]

    def looked_up(self, key: str) -> int:
        """Return how often automount ran the map for a key."""
        return sum(f"looking up {key}" in line for line in self.said(debug=True))

    def mounts(self) -> list[list[str]]:
        """Return source, place, type and options of what is mounted at and below /iscsiauto."""
        root = f"{self.folder}/root"
        text = Path(f"/proc/{self.holder.pid}/mounts").read_text()
        lines = [line.replace(f" {root}/", " /").split() for line in text.splitlines()]
        return [line for line in lines if line[1].startswith("/iscsiauto")]

    def mounted(self, key: str) -> list[str]:
        """Return source, type and options of what is mounted for a key."""
        found = [line for line in self.mounts() if line[1] == f"/iscsiauto/{key}"]
        return [found[0][0], found[0][2], found[0][3]] if found else []

    def expired(self, key: str) -> None:
        """Wait until nobody has used a key for long enough."""
        self.wait_for(lambda: not self.mounted(key), f"the expiry of {key}")

    # Users

    def enter(self, *words: str, user: int = 65534) -> subprocess.Popen[str]:
        """Have a user do something."""
        # In a session of its own: processes of automount's group trigger no mount.
        person = subprocess.Popen(
            self.command(*words, user=user),
            stdin=subprocess.DEVNULL,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_interruptible,
        )
        self.users.append(person)
        return person

    def read(self, key: str) -> str:
        """Return the important file of a key, or what a user sees instead."""
        return result(self.enter("cat", f"/iscsiauto/{key}/{FILE}"))

    def stay(self, key: str) -> subprocess.Popen[str]:
        """Have a user work in a key's folder, for as long as the test wants."""
        script = 'cd "$1" && echo there && exec sleep 300'
        user = self.enter("sh", "-c", script, "sh", f"/iscsiauto/{key}")
        assert user.stdout and user.stdout.readline() == "there\n"
        return user

    def wait_for(self, true: object, what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not (true() if callable(true) else true):
            assert time.monotonic() < until, f"waited for {what}: {self.said(debug=True)[-30:]}"
            time.sleep(0.02)

    def close(self) -> None:
        """End everything: processes first, then the namespace goes with its mounts."""
        with contextlib.suppress(ProcessLookupError):
            mine = os.stat(f"/proc/{self.holder.pid}/ns/mnt").st_ino
            self.machine.go_on()
            try:
                self.machine.close()
            finally:
                for pid in sorted(living(mine) - {self.holder.pid}, reverse=True):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                for process in (*self.users, *([self.daemon] if self.daemon else [])):
                    process.communicate()
        self.holder.communicate("")


def _interruptible() -> None:
    """Have Ctrl-C be what it is at a terminal: in the background of a shell it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def living(namespace: int) -> set[int]:
    """Return the processes in a mount namespace."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{name}/ns/mnt").st_ino == namespace:
                found.add(int(name))
    return found


def result(user: subprocess.Popen[str]) -> str:
    """Return what a user got to see."""
    out, err = user.communicate(timeout=PATIENCE)
    return (out or err.rpartition(": ")[2]).strip()


class Disks:
    """Loop devices with an ext3, whose important files say disk-0, disk-1, …"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[int, str] = {}
        self.there = set(os.listdir("/dev"))

    def __getitem__(self, number: int) -> str:
        """Return MAJOR:MINOR of one."""
        if number not in self.made:
            self.made[number] = self._make(number)
        device = os.stat(self.made[number]).st_rdev
        return f"{os.major(device)}:{os.minor(device)}"

    def _make(self, number: int) -> str:
        image, files = self.folder / f"{number}.image", self.folder / f"{number}"
        (files / FILE).parent.mkdir(parents=True)
        (files / FILE).write_text(f"disk-{number}\n")
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext3", "-J", "size=1", "-d", str(files), str(image), "4M"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return subprocess.run(
            ["losetup", "--find", "--show", "--read-only", str(image)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()

    def close(self) -> None:
        """Take them away, and those that the kernel had to add for them."""
        for device in self.made.values():
            subprocess.run(["losetup", "--detach", device], check=True)
            name = os.path.basename(device)
            if name not in self.there:
                with open("/dev/loop-control", "rb") as control, contextlib.suppress(OSError):
                    fcntl.ioctl(control, LOOP_CTL_REMOVE, int(name[len("loop") :]))
