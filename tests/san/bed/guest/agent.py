"""Carry out the host's requests inside the guest.

The agent is one process that always runs, on a virtio-serial port: to start a Python for each
request would take 0.2 s under TCG. A frame is two big-endian 32-bit lengths, a JSON header and a
body of bytes, in both directions. The header's `id` pairs an answer with its request, so any number
of commands can be under way. While no host has the other end open (between saving and resuming), a
read of the port returns nothing at once (drivers/char/virtio_console.c).

Each command gets its own session, because processes in automount's process group do not trigger a
mount. Output goes to a memfd and not through a pipe, so that nobody waits for a daemon that a
command left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import signal
import struct
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import chains
import lio
import portal
import terminal
import view

PORTS = "/sys/class/virtio-ports"
NAME = "bed"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KILL_GRACE = 2.0

CALLS: dict[str, Callable[..., Any]] = {
    **lio.CALLS,
    **chains.CALLS,
    **portal.CALLS,
    **view.CALLS,
}


def port() -> str:
    """Wait for the port; find it by its name in sysfs, because udev's link may come much later."""
    while True:
        for device in view.names(PORTS):
            if view.text(f"{PORTS}/{device}/name") == NAME and os.path.exists(f"/dev/{device}"):
                return f"/dev/{device}"
        time.sleep(0.05)


def memory(name: str, content: bytes = b"") -> int:
    """Return a memfd with this content; a process that reopens it, as /dev/stderr, appends."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
    return descriptor


def whole(descriptor: int) -> bytes:
    """Return everything written to a memfd so far."""
    pieces, offset = [], 0
    while piece := os.pread(descriptor, 1 << 20, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


class Command:
    """A process that the host requested, and its output."""

    def __init__(self, request: dict[str, Any], stdin: bytes) -> None:
        account = pwd.getpwnam(request.get("user") or "root")
        environment = {
            "PATH": PATH,
            "HOME": account.pw_dir,
            "USER": account.pw_name,
            "LOGNAME": account.pw_name,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            **request.get("env", {}),
        }
        self.stdout, self.stderr = memory("stdout"), memory("stderr")
        source = memory("stdin", stdin)
        self.process = subprocess.Popen(
            request["argv"],
            stdin=source,
            stdout=self.stdout,
            stderr=self.stderr,
            env=environment,
            cwd=request.get("cwd") or account.pw_dir,
            start_new_session=True,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=os.getgrouplist(account.pw_name, account.pw_gid),
        )
        os.close(source)

    def wait(self, timeout: float | None) -> bool:
        """Wait for the process; if that takes too long, kill its group and return True."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(KILL_GRACE)  # SIGKILL does not end a process in D state
            return True
        return False

    def signal(self, number: int) -> None:
        """Send a signal to the command's whole process group, if there still is one."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Agent:
    """The port, and the commands that are under way."""

    def __init__(self, port: str) -> None:
        self.port = os.open(port, os.O_RDWR | os.O_CLOEXEC)
        self.sending = threading.Lock()
        self.commands: dict[int, Command] = {}
        self.terminals: dict[int, terminal.Terminal] = {}

    def receive(self, size: int) -> bytes | None:
        """Read `size` bytes; return None if the host has closed its end."""
        pieces = []
        while size:
            piece = os.read(self.port, min(size, 1 << 20))
            if not piece:
                return None
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Write one frame."""
        text = json.dumps(header).encode()
        frame = memoryview(struct.pack(">II", len(text), len(body)) + text + body)
        with self.sending:
            while frame:
                frame = frame[os.write(self.port, frame[: 1 << 15]) :]

    def serve(self) -> None:
        """Take requests for ever; carry each out in its own thread."""
        while True:
            lengths = self.receive(8)
            if lengths is None:
                time.sleep(0.02)
                continue
            text_size, body_size = struct.unpack(">II", lengths)
            text, body = self.receive(text_size), self.receive(body_size)
            if text is None or body is None:
                continue
            request = json.loads(text)
            if request["op"] == "keys":  # not in a thread: keys must stay in order
                if shell := self.terminals.get(request["to"]):
                    shell.type(body)
                continue
            if request["op"] == "terminal":  # not in a thread: it must exist before its first key
                self.terminals[request["id"]] = terminal.Terminal(
                    request["argv"], request["env"], request["rows"], request["columns"]
                )
            threading.Thread(target=self.answer, args=(request, body), daemon=True).start()

    def answer(self, request: dict[str, Any], body: bytes) -> None:
        """Carry out one request; report any error to the host."""
        try:
            header, body = getattr(self, "do_" + request["op"])(request, body)
        except Exception as error:
            header, body = (
                {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()},
                b"",
            )
        self.send({"id": request["id"], **header}, body)

    def do_run(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        command = Command(request, body)
        self.commands[request["id"]] = command
        timed_out = command.wait(request.get("timeout"))
        if timed_out:
            view.blocked()
        del self.commands[request["id"]]
        out, err = whole(command.stdout), whole(command.stderr)
        os.close(command.stdout)
        os.close(command.stderr)
        status = command.process.poll()
        return {"status": status, "timed_out": timed_out, "out": len(out)}, out + err

    def do_signal(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        if command := self.commands.get(request["to"]):
            command.signal(request["signal"])
        return {}, b""

    def do_peek(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        command = self.commands.get(request["to"])
        if command is None:
            return {}, b""
        return {}, whole(command.stdout) + whole(command.stderr)

    def do_terminal(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        shell = self.terminals[request["id"]]
        status = shell.relay(lambda output: self.send({"id": request["id"], "part": True}, output))
        del self.terminals[request["id"]]
        return {"status": status}, b""

    def do_write(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Write a file: whole, or of a given size with only some extents in it."""
        path = request["path"]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            rest = memoryview(body)
            for offset, size in request.get("extents") or [[0, len(body)]]:
                os.lseek(descriptor, offset, os.SEEK_SET)
                piece, rest = rest[:size], rest[size:]
                while piece:
                    piece = piece[os.write(descriptor, piece) :]
            if "size" in request:
                os.truncate(descriptor, request["size"])
            os.fchmod(descriptor, request["mode"])
        finally:
            os.close(descriptor)
        return {}, b""

    def do_read(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        with open(request["path"], "rb") as file:
            return {}, file.read()

    def do_call(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        return {"value": CALLS[request["name"]](**request["args"])}, b""


if __name__ == "__main__":
    Agent(port()).serve()
