"""A running guest: run commands, read and write files, list its sessions and mounts.

Commands run as any user, several at a time. Everything goes through the agent, and nothing through
a network.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from . import channel, qemu, sparse

TIMEOUT = 60.0
#: Seconds after a command's own timeout in which the guest must report that the command ended.
GRACE = 30.0
AUTOFS_LINE = "/etc/auto.master.d/iscsi.autofs"


class Result(NamedTuple):
    """The exit status and output of a command."""

    status: int
    stdout: str
    stderr: str
    raw: bytes

    @property
    def lines(self) -> list[str]:
        """Return stdout by lines."""
        return self.stdout.splitlines()


class CommandFailed(AssertionError):
    """A command ended with another status than 0, or did not end in time."""


class Session(NamedTuple):
    """A session of the guest's initiator, as sysfs shows it."""

    number: int
    target: str
    state: str
    address: str
    port: int
    disks: dict[int, str]


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo."""

    point: str
    source: str
    fstype: str
    options: str
    super: str


class Command:
    """A command that runs in the guest."""

    def __init__(
        self,
        machine: Machine,
        argv: Sequence[str],
        number: int,
        future: Future[channel.Answer],
        timeout: float,
    ) -> None:
        self.machine, self.argv, self.number = machine, argv, number
        self.future, self.timeout = future, timeout

    @property
    def done(self) -> bool:
        """Say whether the command has ended."""
        return self.future.done()

    def wait(self, *, check: bool = True) -> Result:
        """Wait for the command's end; with `check`, raise CommandFailed unless its status is 0."""
        answer = channel.answer(self.future, self.timeout + GRACE, shlex.join(self.argv))
        size = answer.header["out"]
        out, err = answer.body[:size], answer.body[size:]
        status = answer.header["status"]
        result = Result(-1 if status is None else status, text(out), text(err), out)
        if answer.header["timed_out"]:
            raise CommandFailed(self._story(f"not done after {self.timeout:g} s", result))
        if check and result.status != 0:
            raise CommandFailed(self._story(f"status {result.status}", result))
        return result

    def output(self) -> str:
        """Return the command's output so far, stdout and then stderr."""
        return text(self.machine.request("peek", to=self.number).body)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the command and its children."""
        self.machine.request("signal", to=self.number, signal=int(number))

    def _story(self, what: str, result: Result) -> str:
        return f"{shlex.join(self.argv)}: {what}\n{result.stdout[-4000:]}{result.stderr[-4000:]}"


def text(data: bytes) -> str:
    """Decode output; bytes that are not UTF-8 become escapes."""
    return data.decode(errors="backslashreplace")


class Machine:
    """A running guest."""

    def __init__(self, process: qemu.Process) -> None:
        self.process = process
        self.channel = channel.Channel(process.agent)
        #: What `journal` shows, as an option of journalctl: this boot, or a part of it.
        self.span = "-b"

    @property
    def console(self) -> Path:
        """Return the file with the log of the guest's serial console."""
        return self.process.folder / "console"

    def end(self) -> None:
        """End the guest and discard it."""
        self.process.end()

    def reboot(self, seconds: float = 300.0) -> None:
        """Restart the guest as an administrator does, and wait until it is up without its SAN.

        Both the way down and the way up may take `seconds`.
        """
        self.process.command("set-action", reboot="reset")
        self.run("systemctl --no-block reboot")
        self.process.wait_for("RESET", seconds)
        self.run("systemctl is-system-running --wait", check=False, timeout=seconds)

    def request(
        self,
        op: str,
        body: bytes = b"",
        timeout: float = TIMEOUT,
        **more: Any,
    ) -> channel.Answer:
        """Send a request to the agent and return its answer."""
        return self.channel.exchange({"op": op, **more}, body, timeout)

    def call(self, name: str, **arguments: Any) -> Any:
        """Call one of the agent's own functions (guest/*.py, CALLS)."""
        return self.request("call", name=name, args=arguments).header["value"]

    def start(
        self,
        command: str | Sequence[str],
        *,
        user: str = "root",
        timeout: float = TIMEOUT,
        stdin: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Command:
        """Start a command: a list directly, a string through bash. The timeout kills it."""
        argv = ["/bin/bash", "-c", command] if isinstance(command, str) else list(command)
        body = stdin.encode() if isinstance(stdin, str) else stdin
        header = {
            "op": "run",
            "argv": argv,
            "user": user,
            "timeout": timeout,
            "env": dict(env or {}),
            "cwd": cwd,
        }
        number, future = self.channel.request(header, body)
        return Command(self, argv, number, future, timeout)

    def run(
        self,
        command: str | Sequence[str],
        *,
        user: str = "root",
        timeout: float = TIMEOUT,
        stdin: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        check: bool = True,
    ) -> Result:
        """Run a command to its end."""
        started = self.start(command, user=user, timeout=timeout, stdin=stdin, env=env, cwd=cwd)
        return started.wait(check=check)

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file, and the directories above it."""
        data = content.encode() if isinstance(content, str) else content
        self.request("write", data, path=path, mode=mode)

    def put(self, files: Mapping[str, str | bytes], mode: int = 0o644) -> None:
        """Write several files."""
        for path, content in files.items():
            self.write(path, content, mode)

    def send(self, source: Path, path: str) -> None:
        """Copy a file of the host, of any size, without its holes."""
        extents = list(sparse.data_of(source))
        with source.open("rb") as file:
            pieces = []
            for offset, size in extents:
                file.seek(offset)
                pieces.append(file.read(size))
        self.request(
            "write",
            b"".join(pieces),
            path=path,
            mode=0o600,
            extents=extents,
            size=source.stat().st_size,
        )

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        return self.request("read", path=path).body

    def sessions(self, target: str | None = None) -> list[Session]:
        """Return the initiator's sessions, all or those with one target."""
        sessions = [
            Session(
                each["number"],
                each["target"],
                each["state"],
                each["address"],
                int(each["port"] or 0),
                {int(lun): disk for lun, disk in each["disks"].items()},
            )
            for each in self.call("sessions")
        ]
        return [each for each in sessions if target in (None, each.target)]

    def mounts(self, below: str = "/") -> list[Mount]:
        """Return the mounts at and below a directory."""
        mounts = [Mount(**each) for each in self.call("mounts")]
        return [
            each
            for each in mounts
            if each.point == below or each.point.startswith(below.rstrip("/") + "/")
        ]

    def journal(self, *arguments: str) -> str:
        """Return the journal of this test; `arguments` are journalctl's, as "-u", "autofs"."""
        command = ["journalctl", self.span, "-o", "cat", "--no-pager", *arguments]
        return self.run(f"journalctl --sync; {shlex.join(command)}").stdout

    def discover(self, portal: str = "127.0.0.1") -> str:
        """Make node records of all targets that a portal offers, as an administrator does."""
        return self.run(["iscsiadm", "-m", "discovery", "-t", "st", "-p", portal]).stdout

    def automount(
        self,
        options: str = "--timeout=2 --negative-timeout=1",
        program: str = "/etc/auto.iscsi",
        root: str = "/iscsiauto",
    ) -> None:
        """Replace the package's master line and restart automount."""
        self.write(AUTOFS_LINE, f"{root} program:{program} {options}\n")
        self.run("systemctl restart autofs", timeout=120)

    def cold(self) -> None:
        """Reset the initiator to its state before its first use: no iscsid, no iscsi_tcp."""
        self.run("systemctl stop iscsid.service && modprobe -r iscsi_tcp")

    def terminal(
        self,
        argv: Sequence[str],
        size: os.terminal_size,
        show: Callable[[bytes], None],
        env: Mapping[str, str],
    ) -> tuple[int, Future[channel.Answer]]:
        """Start a program on its own terminal; return the number for `keys`, and the future."""
        header = {
            "op": "terminal",
            "argv": list(argv),
            "rows": size.lines,
            "columns": size.columns,
            "env": dict(env),
        }
        return self.channel.request(header, part=show)

    def keys(self, number: int, typed: bytes) -> None:
        """Type into a terminal."""
        self.channel.request({"op": "keys", "to": number}, typed)
