"""Start, save and resume a virtual machine.

QEMU runs without KVM (TCG). The guest's memory is a file. While a state is made, the file is mapped
shared, and the saved state has only the devices (migration capability x-ignore-shared). A machine
that is resumed from it maps the same file privately, so nothing is copied, and only the pages that
it uses are read. Disks are qcow2 overlays; those of a test are temporary (snapshot=on). A machine
ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from . import hardware

PR_SET_PDEATHSIG = 1


#: In seconds. An older folder of a machine is removed if its process is gone.
STALE = 60.0


class Failed(Exception):
    """QEMU ended, or refused a command."""


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def overlay(base: Path, form: str, place: Path) -> None:
    """Make an empty qcow2 overlay."""
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", form, str(place)]
    subprocess.run(argv, check=True)


def connect(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    """Connect to one of QEMU's sockets as soon as it exists."""
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if process.poll() is not None:
                raise Failed(f"QEMU ended with {process.returncode}") from None
            time.sleep(0.005)


def folder() -> tuple[Path, IO[bytes]]:
    """Return a new folder for sockets and console, and the lock that marks it as used."""
    for old in Path(tempfile.gettempdir()).glob("bed-*/lock"):  # left by killed processes
        with contextlib.suppress(OSError), old.open("ab") as file:
            if time.time() - old.stat().st_mtime > STALE:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old.parent)
    new = Path(tempfile.mkdtemp(prefix="bed-"))
    lock = (new / "lock").open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return new, lock


class Process:
    """A running QEMU, its folder for sockets and console, and its monitor."""

    def __init__(
        self,
        machine: hardware.Hardware,
        *,
        keep: bool = False,
        resume: Path | None = None,
    ) -> None:
        self.folder, self.lock = folder()
        arguments = machine.arguments(keep=keep, folder=self.folder)
        if resume:
            arguments += ["-incoming", "defer"]
        self.errors = self.folder / "qemu"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                preexec_fn=die_with_parent,
                start_new_session=True,
            )
        try:
            self.control = connect(self.folder / "qmp", self.process)
            self.monitor = self.control.makefile("rwb")
            self.monitor.readline()  # the greeting
            self.command("qmp_capabilities")
            self.capability("x-ignore-shared")
            self.agent = connect(self.folder / "agent", self.process)
            if resume:
                self.command("migrate-incoming", uri=f"exec:cat {resume}")
                self.wait_for_migration()
                self.command("cont")  # it was stopped when it was saved
        except BaseException as error:
            complaint = self.errors.read_text(errors="replace")
            self.end()
            if complaint and isinstance(error, Failed):
                raise Failed(f"{error}: {complaint}") from error
            raise

    def command(self, name: str, **arguments: Any) -> Any:
        """Send a command to the monitor and return its result."""
        request = json.dumps({"execute": name, "arguments": arguments})
        self.monitor.write(request.encode())
        self.monitor.flush()
        while line := self.monitor.readline():
            reply = json.loads(line)
            if "error" in reply:
                raise Failed(f"{name}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]
        raise Failed(f"{name}: QEMU ended")

    def wait_for(self, event: str, seconds: float) -> None:
        """Wait for an event that QEMU reports; raise Failed when it does not come in time."""
        self.control.settimeout(seconds)
        try:
            while line := self.monitor.readline():
                if json.loads(line).get("event") == event:
                    return
            raise Failed(f"{event}: QEMU ended")
        except socket.timeout as error:
            raise Failed(f"{event}: not in {seconds:g} s") from error
        finally:
            self.control.settimeout(None)

    def capability(self, name: str) -> None:
        """Switch a migration capability on."""
        capabilities = [{"capability": name, "state": True}]
        self.command("migrate-set-capabilities", capabilities=capabilities)

    def wait_for_migration(self) -> None:
        """Wait until the state is written, or read."""
        while (status := self.command("query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled"):
                raise Failed(f"migration: {status}")
            time.sleep(0.01)

    def save(self, state: Path) -> None:
        """Stop the machine and write its devices' state; its memory and disk are files already."""
        self.command("stop")
        self.command("migrate", uri=f"exec:cat > {state}")
        self.wait_for_migration()
        self.command("quit")
        self.process.wait(30)

    def end(self) -> None:
        """End the machine at once and remove its folder."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.lock.close()
        for name in ("monitor", "control", "agent"):
            if hasattr(self, name):
                getattr(self, name).close()
        shutil.rmtree(self.folder, ignore_errors=True)
