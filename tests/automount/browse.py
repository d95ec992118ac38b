"""A host that browses snapshots: the kernel's autofs, the real automount and the built map.

The host is this machine, seen through an overlay in its own mount namespace, which is discarded
afterwards. It has no SAN: sysfs, udev's links and iscsiadm are those of tests/tree, and the
partition that appears at a login is a loop device.
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
VOLUMES = "/var/lib/auto-iscsi/volumes.map"
MASTER = (
    "/iscsiauto program:{map} --timeout={timeout} --negative-timeout={negative} nosuid,nodev\n"
    "/snapshots file:{volumes} --timeout=1 --negative-timeout={negative} browse,nosuid,nodev\n"
)
BUILT = REPOSITORY / "dist/auto.iscsi"
LOOP_CTL_REMOVE = 0x4C81  # linux/loop.h
FILE = "etc/really_important_file"
MEMORY = 2.1  # seconds; automount rounds its negative_timeout of 1 s to whole seconds

# /run and /dev are empty except for what follows: the daemons of this machine must not show.
OVERLAY = """
set -e
mount -t tmpfs none {top}
mkdir {top}/upper {top}/work {top}/root
mount -t overlay none -o lowerdir=/,upperdir={top}/upper,workdir={top}/work {top}/root
cd {top}/root
rm -rf etc/iscsi etc/auto.iscsi* etc/auto.master.d var/lib/iscsi iscsiauto dev/* run/* sys/*
rm -rf var/lib/auto-iscsi snapshots
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
        for built in map(BUILT.with_name, ("auto.iscsi", "auto.snapshots", "auto-iscsi")):
            shutil.copy(built, (root / MAP.lstrip("/")).parent)
        self.machine.files({VOLUMES: f"+program:{os.path.dirname(MAP)}/auto.snapshots\n"})
        self._next("ready", "go on")
        self.log = root / "san/automount.log"

    def _next(self, word: str, go_on: str = "") -> None:
        assert self.holder.stdin and self.holder.stdout
        if go_on:
            print(go_on, file=self.holder.stdin, flush=True)
        assert self.holder.stdout.readline().strip() == word, "the overlay could not be mounted"

    def command(self, *words: str, user: int = 0) -> list[str]:
        enter = ["nsenter", "--mount", f"--target={self.holder.pid}"]
        return [*enter, "chroot", f"--userspec={user}:{user}", f"{self.folder}/root", *words]

    # automount

    def start(self, negative: int = 1, debug: bool = True, timeout: int = 1) -> None:
        """Start automount, and wait until it serves /iscsiauto.

        timeout: seconds until it unmounts what is idle there.
        """
        self.machine.files(
            {
                "/san/auto.master": MASTER.format(
                    map=MAP, volumes=VOLUMES, negative=negative, timeout=timeout
                )
            }
        )
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
            # It does not log when it is ready. Before that, it refuses every key without the map.
            self.wait_for(lambda: self.read("knock") and self.logged(), "automount")

    def _serving(self) -> int:
        """Return how often automount logged that it serves /iscsiauto, new or taken over."""
        lines = self.logged(debug=True) if self.log.exists() else []
        served = ("mounted indirect on /iscsiauto", "re-connected to /iscsiauto")
        return sum(any(words in line for words in served) for line in lines)

    def stop(self) -> None:
        """Stop automount as systemd does; what is in use stays mounted."""
        assert self.daemon
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(PATIENCE)

    def logged(self, debug: bool = False) -> list[str]:
        """Return what automount logged of the map's stderr; with `debug`, its whole log."""
        lines = self.log.read_bytes().decode("utf-8", "surrogateescape").split("\n")
        return [line for line in lines if line and (debug or ">> " in line)]

    def looked_up(self, key: str) -> int:
        """Return how often automount ran the map for a key."""
        return sum(f"looking up {key}" in line for line in self.logged(debug=True))

    def logged_mounts(self, key: str) -> int:
        """Return how often automount logged that it mounted a key."""
        return self.logged(debug=True).count(f"mounted /iscsiauto/{key}")

    def mounts(self) -> list[list[str]]:
        """Return source, mount point, type and options of each mount at and below /iscsiauto."""
        root = f"{self.folder}/root"
        text = Path(f"/proc/{self.holder.pid}/mounts").read_text()
        lines = [line.replace(f" {root}/", " /").split() for line in text.splitlines()]
        return [line for line in lines if line[1].startswith("/iscsiauto")]

    def mounted(self, key: str) -> list[str]:
        """Return source, type and options of a key's mount, [] if there is none."""
        mounts = [line for line in self.mounts() if line[1] == f"/iscsiauto/{key}"]
        return [mounts[0][0], mounts[0][2], mounts[0][3]] if mounts else []

    def expired(self, key: str) -> None:
        """Wait until automount has unmounted a key that nobody uses."""
        self.wait_for(lambda: not self.mounted(key), f"the expiry of {key}")

    # Users

    def enter(self, *words: str, user: int = 65534) -> subprocess.Popen[str]:
        """Start a command as a user on the host."""
        # In its own session: processes of automount's group trigger no mount.
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
        """Return the content of a key's important file, or the error that a user sees."""
        return result(self.enter("cat", f"/iscsiauto/{key}/{FILE}"))

    def stay(self, key: str) -> subprocess.Popen[str]:
        """Have a user stay in a key's folder until the test kills the process."""
        script = 'cd "$1" && echo there && exec sleep 300'
        user = self.enter("sh", "-c", script, "sh", f"/iscsiauto/{key}")
        assert user.stdout and user.stdout.readline() == "there\n"
        return user

    def wait_for(self, condition: object, what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not (condition() if callable(condition) else condition):
            assert time.monotonic() < until, f"waited for {what}: {self.logged(debug=True)[-30:]}"
            time.sleep(0.02)

    def close(self) -> None:
        """End the processes of the host, then its namespace, whose mounts go with it."""
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
    """Let Ctrl-C end the process, as at a terminal; a background process would ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def living(namespace: int) -> set[int]:
    """Return the processes in a mount namespace."""
    pids = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{name}/ns/mnt").st_ino == namespace:
                pids.add(int(name))
    return pids


def result(user: subprocess.Popen[str]) -> str:
    """Return the output of a user's command, or its error."""
    out, err = user.communicate(timeout=PATIENCE)
    return (out or err.rpartition(": ")[2]).strip()


class Disks:
    """Loop devices with an ext3, whose important files say disk-0, disk-1, …"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[int, str] = {}
        self.existing = set(os.listdir("/dev"))

    def __getitem__(self, number: int) -> str:
        """Return MAJOR:MINOR of a disk, which is made if need be."""
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
        """Detach the loop devices, and remove those that did not exist before."""
        for device in self.made.values():
            subprocess.run(["losetup", "--detach", device], check=True)
            name = os.path.basename(device)
            if name not in self.existing:
                with open("/dev/loop-control", "rb") as control, contextlib.suppress(OSError):
                    fcntl.ioctl(control, LOOP_CTL_REMOVE, int(name[len("loop") :]))
