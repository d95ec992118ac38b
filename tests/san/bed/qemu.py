"""How is a virtual machine started, saved, and resumed?

QEMU without KVM (TCG). The guest's memory is a file: while a state is made it is mapped shared,
and the saved state then needs the devices only (migration capability x-ignore-shared); a machine
resumed from it maps the same file privately, so nothing is copied and resuming takes no longer
than reading what is touched. Disks are qcow2 overlays, those of a test unlinked at once
(snapshot=on). A machine dies with the process that started it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

MEMORY = "1G"
APPEND = (
    "console=ttyS0 panic=-1 quiet loglevel=4 systemd.show_status=0 mitigations=off audit=0 "
    "nowatchdog systemd.unified_cgroup_hierarchy=1 net.ifnames=0"
)
PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """QEMU ended, or refused a command."""


class Hardware(NamedTuple):
    """What a machine is made of; a state can be resumed only on the hardware it was saved on."""

    kernel: Path
    initrd: Path
    memory: Path
    disk: Path
    icount: bool = False

    def arguments(self, *, keep: bool, folder: Path) -> list[str]:
        """Return QEMU's arguments; keep: memory and disk become a saved state."""
        accelerator = os.environ.get("BED_ACCEL") or "tcg"
        threads = ",thread=multi" if accelerator == "tcg" and not self.icount else ""
        share = "on" if keep else "off"
        throw_away = "off" if keep else "on"
        return [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-accel", accelerator + threads, "-cpu", "max",
            "-smp", "1" if self.icount else "2",
            *(["-icount", "shift=0"] if self.icount else []),
            "-machine", "pc,memory-backend=ram", "-m", MEMORY,
            "-object", f"memory-backend-file,id=ram,size={MEMORY},mem-path={self.memory},"
                       f"share={share}",
            "-nic", "none", "-kernel", str(self.kernel), "-initrd", str(self.initrd),
            "-append", APPEND,
            "-drive", f"if=none,id=root,file={self.disk},format=qcow2,cache=unsafe,"
                      f"discard=unmap,snapshot={throw_away}",
            "-device", "virtio-blk-pci,drive=root",
            "-device", "virtio-rng-pci",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=agent,path={folder}/agent,server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=bed",
            "-chardev", f"file,id=console,path={folder}/console,append=on",
            "-serial", "chardev:console",
            "-qmp", f"unix:{folder}/qmp,server=on,wait=off",
        ]


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def overlay(base: Path, form: str, place: Path) -> None:
    """Make an empty qcow2 overlay."""
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", form, str(place)]
    subprocess.run(argv, check=True)


def connect(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    """Connect to one of QEMU's sockets as soon as it is there."""
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


class Process:
    """A QEMU at work, its folder for sockets and console, and its monitor."""

    def __init__(
        self, hardware: Hardware, *, keep: bool = False, resume: Path | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bed-"))
        arguments = hardware.arguments(keep=keep, folder=self.folder)
        if resume:
            arguments += ["-incoming", "defer"]
        self.errors = self.folder / "qemu"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                preexec_fn=die_with_parent, start_new_session=True,
            )
        try:
            self.monitor = connect(self.folder / "qmp", self.process).makefile("rwb")
            self.monitor.readline()  # the greeting
            self.command("qmp_capabilities")
            self.capability("x-ignore-shared")
            self.agent = connect(self.folder / "agent", self.process)
            if resume:
                self.command("migrate-incoming", uri=f"exec:cat {resume}")
                self.wait_for_migration()
                self.command("cont")  # it was saved while it stood still
        except BaseException as error:
            said = self.errors.read_text(errors="replace")
            self.end()
            if said and isinstance(error, Failed):
                raise Failed(f"{error}: {said}") from error
            raise

    def command(self, name: str, **arguments: Any) -> Any:
        """Send a monitor command and return what it returned."""
        request = json.dumps({"execute": name, "arguments": arguments})
        self.monitor.write(request.encode())
        self.monitor.flush()
        while line := self.monitor.readline():
            said = json.loads(line)
            if "error" in said:
                raise Failed(f"{name}: {said['error']['desc']}")
            if "return" in said:
                return said["return"]
        raise Failed(f"{name}: QEMU ended")

    def capability(self, name: str) -> None:
        """Switch a migration capability on."""
        wanted = [{"capability": name, "state": True}]
        self.command("migrate-set-capabilities", capabilities=wanted)

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
        for name in ("monitor", "agent"):
            if hasattr(self, name):
                getattr(self, name).close()
        shutil.rmtree(self.folder, ignore_errors=True)
