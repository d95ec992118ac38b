"""What can be asked of a running guest?

Commands as any user, several at a time; files; what its initiator and its mount table hold. All
of it through the agent, none of it through a network.
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
#: How much longer than a command's own time-out the guest may take to say that it is over.
GRACE = 30.0
AUTOFS_LINE = "/etc/auto.master.d/iscsi.autofs"


class Result(NamedTuple):
    """What a command did."""

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
    """A command under way in the guest."""

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
        """Tell whether it has ended."""
        return self.future.done()

    def wait(self, *, check: bool = True) -> Result:
        """Wait for its end; CommandFailed for a status other than 0, unless told otherwise."""
        said = channel.answer(self.future, self.timeout + GRACE, shlex.join(self.argv))
        size = said.header["out"]
        out, err = said.body[:size], said.body[size:]
        status = said.header["status"]
        result = Result(-1 if status is None else status, text(out), text(err), out)
        if said.header["timed_out"]:
            raise CommandFailed(self._story(f"not done after {self.timeout:g} s", result))
        if check and result.status != 0:
            raise CommandFailed(self._story(f"status {result.status}", result))
        return result

    def output(self) -> str:
        """Return what it has written so far, both streams."""
        return text(self.machine.ask("peek", to=self.number).body)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and its children."""
        self.machine.ask("signal", to=self.number, signal=int(number))

    def _story(self, what: str, result: Result) -> str:
        return f"{shlex.join(self.argv)}: {what}\n{result.stdout[-4000:]}{result.stderr[-4000:]}"


def text(data: bytes) -> str:
    """Decode output; what is not UTF-8 stays recognisable."""
    return data.decode(errors="backslashreplace")


class Machine:
    """A running guest."""

    def __init__(self, process: qemu.Process) -> None:
        self.process = process
        self.channel = channel.Channel(process.agent)

    @property
    def console(self) -> Path:
        """Return where the guest's serial console is logged."""
        return self.process.folder / "console"

    def end(self) -> None:
        """Switch the guest off, and forget it."""
        self.process.end()

    def ask(
        self,
        op: str,
        body: bytes = b"",
        timeout: float = TIMEOUT,
        **more: Any,
    ) -> channel.Answer:
        """Send a request to the agent and return its answer."""
        return self.channel.ask({"op": op, **more}, body, timeout)

    def call(self, name: str, **arguments: Any) -> Any:
        """Call one of the agent's own functions (guest/*.py, CALLS)."""
        return self.ask("call", name=name, args=arguments).header["value"]

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
        """Start a command: a list as it is, a string through bash. The time-out kills it."""
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
        begun = self.start(command, user=user, timeout=timeout, stdin=stdin, env=env, cwd=cwd)
        return begun.wait(check=check)

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file, and the directories above it."""
        data = content.encode() if isinstance(content, str) else content
        self.ask("write", data, path=path, mode=mode)

    def put(self, files: Mapping[str, str | bytes], mode: int = 0o644) -> None:
        """Write several files."""
        for path, content in files.items():
            self.write(path, content, mode)

    def send(self, source: Path, path: str) -> None:
        """Copy a host's file of any size, its holes left out."""
        extents = list(sparse.data_of(source))
        with source.open("rb") as file:
            pieces = []
            for offset, size in extents:
                file.seek(offset)
                pieces.append(file.read(size))
        self.ask(
            "write",
            b"".join(pieces),
            path=path,
            mode=0o600,
            extents=extents,
            size=source.stat().st_size,
        )

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        return self.ask("read", path=path).body

    def sessions(self, target: str | None = None) -> list[Session]:
        """Return the initiator's sessions, all or those with one target."""
        found = [
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
        return [each for each in found if target in (None, each.target)]

    def mounts(self, below: str = "/") -> list[Mount]:
        """Return what is mounted at or below a place."""
        found = [Mount(**each) for each in self.call("mounts")]
        return [
            each
            for each in found
            if each.point == below or each.point.startswith(below.rstrip("/") + "/")
        ]

    def journal(self, *arguments: str) -> str:
        """Return the journal's messages of this boot up to now: `vm.journal("-u", "autofs")`."""
        command = ["journalctl", "-b", "-o", "cat", "--no-pager", *arguments]
        return self.run(f"journalctl --sync; {shlex.join(command)}").stdout

    def discover(self, portal: str = "127.0.0.1") -> str:
        """Make node records of all that a portal offers, as an administrator does."""
        return self.run(["iscsiadm", "-m", "discovery", "-t", "st", "-p", portal]).stdout

    def automount(
        self,
        options: str = "--timeout=2 --negative-timeout=1",
        program: str = "/etc/auto.iscsi",
        root: str = "/iscsiauto",
    ) -> None:
        """Write another master line in place of the package's and restart automount."""
        self.write(AUTOFS_LINE, f"{root} program:{program} {options}\n")
        self.run("systemctl restart autofs", timeout=120)

    def cold(self) -> None:
        """Bring the initiator to where it is before its first use: no iscsid, no iscsi_tcp."""
        self.run("systemctl stop iscsid.service && modprobe -r iscsi_tcp")

    def terminal(
        self,
        argv: Sequence[str],
        size: os.terminal_size,
        show: Callable[[bytes], None],
        env: Mapping[str, str],
    ) -> tuple[int, Future[channel.Answer]]:
        """Start a program on a terminal of its own; its number takes keys (`keys`)."""
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
