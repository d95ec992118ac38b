"""How is a command typed at an EqualLogic group, and its output read?

The group has an interactive command line only: ssh with a terminal, a prompt, and lines that end
with a carriage return. The prompt is GROUP> or GROUP (volume_V)>, and can be anywhere: the array
types a refused command again after it. The terminal echoes what is typed, so the answer to a
command is what stands between its echo and the next prompt: a late answer is never taken for that
of another command.

Each word is checked before it is typed. A session ends with logout, because the array counts those
that do not, and refuses more than a few. Sources: facts of cinder's dell_emc/ps.py.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType

from auto_iscsi.drivers import eqlx_output, ssh, wire
from auto_iscsi.drivers.protocol import Call

#: What may be typed: no blank, quote, semicolon or control character, and no option.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:,+-]*")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: ssh's settings for the algorithms of old arrays. Others would let ssh start programs.
_SSH_OPTION = re.compile(
    r"(?:Ciphers|HostKeyAlgorithms|KexAlgorithms|MACs|PubkeyAcceptedAlgorithms|RequiredRSASize"
    r"|HostKeyAlias)=[A-Za-z0-9+^][A-Za-z0-9@.,*+-]*"
)
_QUESTION = re.compile(r"\([Yy](?:es)?/[Nn]o?\)[^\n]{0,12}$")
_FIRST_PROMPT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)> ", re.MULTILINE)
_TOO_MANY = re.compile(r"too many|maximum|limit|exceed", re.IGNORECASE)

#: Typed first. events: the array types news at any time. formatoutput: tables for people.
_SETTINGS = (
    ("stty", "columns", "255"),
    ("stty", "hardwrap", "off"),
    ("cli-settings", "reprintBadInput", "off"),
    ("cli-settings", "events", "off"),
    ("cli-settings", "formatoutput", "off"),
    ("cli-settings", "confirmation", "off"),
    ("cli-settings", "paging", "off"),
    ("cli-settings", "idlelogout", "off"),
)
_COLUMNS = 250  # a longer line may not be echoed as it was typed
_QUIET = 0.3  # seconds after which the array has said what it had to say
_LONG_QUIET = 0.6  # the same where only silence shows it
_COMMAND = 25.0  # seconds for one command
#: In the environment of the program that ssh asks: where the password is, and not the password.
MEMORY = "AUTO_ISCSI_EQLX_ANSWER"
_MOST = 8 << 20  # bytes of output

#: The array's words for an error, and the code that they mean.
_CODES = (
    ("not_found", r"does not exist|not found|no such|unknown (?:volume|snapshot)"),
    ("denied", r"permission|privilege|not authori[sz]ed|not allowed|access denied"),
    ("busy", r"in use|active connection|busy|in progress"),
    ("exhausted", r"maximum|limit|exceed|no space|out of"),
    ("unsupported", r"bad command|unknown command|invalid (?:command|keyword)|unrecogni[sz]ed"),
)


class Session:
    """A session at the array. Use it as a context manager: its end is `logout`."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.ssh: subprocess.Popen[bytes] | None = None
        self.group = call.option("group", "")
        if self.group and not _GROUP.fullmatch(self.group):
            raise wire.Refused("invalid", "setting group in [options] is no name of a group")
        self.errors = -1
        self.seen = b""
        self.echoes = True
        self.is_spent = False

    def __enter__(self) -> Session:
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def run(self, *words: str) -> str:
        """Type a command and return its output; raise Refused for the array's error."""
        if self.is_spent:  # what is typed now would be added to what the array typed
            self._close()
            self._open()
        output = self._type(words)
        if words_of_error := eqlx_output.error(output):
            code = next((c for c, p in _CODES if re.search(p, words_of_error, re.I)), "internal")
            raise wire.Refused(code, f"{' '.join(words)}: the array says: {words_of_error}")
        return output

    def _open(self) -> None:
        self.seen, self.is_spent, self.echoes = b"", False, True
        self.errors = os.memfd_create("errors")
        command, environment = ssh_command(self.call)
        self.ssh = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            cwd="/",
        )
        self._greet()
        for words in _SETTINGS:
            if words_of_error := eqlx_output.error(self._type(words)):
                self.call.log(f"{' '.join(words)}: the array says: {words_of_error}")
            if self.is_spent:
                raise wire.Refused("unsupported", f"{' '.join(words)}: the array types it again")

    def _greet(self) -> None:
        """Read up to the first prompt, and learn the group's name from it."""
        until = self._until(_COMMAND)
        while True:
            quiet = not self._read(_QUIET, until, "login")
            text = eqlx_output.plain(self.seen.decode("utf-8", "replace"))
            prompts = list(_FIRST_PROMPT.finditer(text))
            if self.group:
                prompts = [match for match in prompts if match[1] == self.group]
            if prompts and (quiet or (self.group and prompts[-1].end() == len(text))):
                self.group = prompts[-1][1]
                self.seen = b""
                return

    def _type(self, words: Sequence[str]) -> str:
        """Type a command; return what the array answers, without echo and prompt."""
        for word in words:
            if not _WORD.fullmatch(word):
                raise wire.Refused("invalid", "a word for the array has a forbidden character")
        line = " ".join(words)
        self.seen = b""
        self._send(line)
        until = self._until(_COMMAND)
        echo = re.compile(r"\s*".join(re.escape(letter) for letter in line if letter != " "))
        prompt = re.compile(rf"^{re.escape(self.group)}(?: \([^)\n]*\))?> ", re.MULTILINE)
        must_echo = self.echoes and len(line) + len(self.group) < _COLUMNS
        while True:
            quiet = not self._read(_QUIET if must_echo else _LONG_QUIET, until, line)
            text = eqlx_output.plain(self.seen.decode("utf-8", "replace"))
            echoed = echo.search(text)
            start = echoed.end() if echoed else 0
            prompted = prompt.search(text, start)
            if prompted and (echoed or (quiet and not must_echo)):
                break
            if quiet and prompted and line.startswith("stty"):
                self.echoes = must_echo = False  # the first command was answered without an echo
            if quiet and _QUESTION.search(text[start:]):
                self.is_spent = True
                question = wire.one_line(text[start:].strip().split("\n")[-1])
                raise wire.Refused("conflict", f"{line}: the array asks: {question}")
        output = text[start : prompted.start()]
        if eqlx_output.error(output):  # it may type the command again, a moment later
            try:
                while self._read(_QUIET, until, line):
                    pass
            except wire.Refused:
                self.is_spent = True  # it closed the connection: its error says more
            text = eqlx_output.plain(self.seen.decode("utf-8", "replace"))
        self.is_spent = self.is_spent or bool(text[prompted.end() :].strip())
        return output

    def _until(self, seconds: float) -> float:
        """Return the time.monotonic() at which we stop waiting: in time to log out."""
        return time.monotonic() + max(0.1, min(seconds, self.call.left() - 2.0))

    def _send(self, line: str) -> None:
        assert self.ssh and self.ssh.stdin
        try:
            self.ssh.stdin.write(line.encode("ascii") + b"\r")
            self.ssh.stdin.flush()
        except OSError:
            pass  # the array has closed the connection: the next read says why

    def _read(self, quiet: float, until: float, doing: str) -> bool:
        """Read more; return False when nothing came for `quiet` seconds, which may be no end.

        Raise Refused when the array closed the connection, or at `until`.
        """
        assert self.ssh and self.ssh.stdout
        left = until - time.monotonic()
        if left <= 0:
            text = eqlx_output.plain(self.seen.decode("utf-8", "replace")).strip()
            last = wire.one_line(text.split("\n")[-1])
            raise wire.Refused("timeout", f"{doing}: no prompt; the last line is {last!r}")
        ready, _, _ = select.select([self.ssh.stdout], [], [], min(quiet, left))
        if not ready:
            return False
        piece = os.read(self.ssh.stdout.fileno(), 1 << 16)
        if not piece:
            raise self._closed(doing)
        self.seen += piece
        if len(self.seen) > _MOST:
            raise wire.Refused("internal", f"{doing}: the array answers more than 8 MiB")
        return True

    def _closed(self, doing: str) -> wire.Refused:
        """Return why the connection was closed, from the words of ssh and of the array."""
        assert self.ssh
        try:
            status = self.ssh.wait(1)
        except subprocess.TimeoutExpired:
            status = 0
        self.is_spent = True
        messages = os.pread(self.errors, 1 << 16, 0).decode("utf-8", "replace")
        messages = " ".join(line for line in messages.splitlines() if not line.startswith("debug"))
        shown = eqlx_output.plain(self.seen.decode("utf-8", "replace"))
        if _TOO_MANY.search(shown) and not _FIRST_PROMPT.search(shown):
            return wire.Refused("busy", f"the array has too many sessions: {shown}", 10)
        if status == 255:
            for code, pattern, hint in _SSH_SAYS:
                if re.search(pattern, messages):
                    return wire.Refused(code, f"ssh: {hint}{messages}")
        why = messages or shown.strip().split("\n")[-1]
        return wire.Refused("unreachable", f"{doing}: the array closed the connection: {why}", 5)

    def _close(self) -> None:
        """Log out, and end ssh whatever happens."""
        ssh, self.ssh = self.ssh, None
        if ssh is None:
            return
        assert ssh.stdin and ssh.stdout
        until = time.monotonic() + (0.6 if self.call.deadline - time.monotonic() < 2 else 2.0)
        try:
            if ssh.poll() is None:
                ssh.stdin.write(b"logout\r")
                ssh.stdin.flush()
                _drain(ssh, until)
            ssh.stdin.close()
        except OSError:
            pass
        finally:
            if ssh.poll() is None:
                ssh.send_signal(signal.SIGTERM)
            try:
                ssh.wait(0.3)
            except subprocess.TimeoutExpired:
                ssh.kill()
                ssh.wait()
            ssh.stdout.close()
            os.close(self.errors)


_SSH_SAYS = (
    ("auth", r"Permission denied|Too many authentication", "the array refused the login: "),
    (
        "auth",
        r"Host key verification failed|REMOTE HOST IDENTIFICATION|No \S+ host key is known",
        "the array's key is not the one in known_hosts: ",
    ),
    ("unsupported", r"no matching|Unable to negotiate|Invalid key length", "set ssh_options: "),
    ("invalid", r"Bad SSH2|[Bb]ad configuration|command-line", "ssh_options: "),
)


def _drain(ssh: subprocess.Popen[bytes], until: float) -> None:
    """Read until the array has closed the connection; say yes to the question about logout."""
    assert ssh.stdin and ssh.stdout
    seen = b""
    while (left := until - time.monotonic()) > 0:
        if not select.select([ssh.stdout], [], [], left)[0]:
            return
        piece = os.read(ssh.stdout.fileno(), 1 << 16)
        if not piece:
            return
        seen += piece
        if _QUESTION.search(eqlx_output.plain(seen.decode("utf-8", "replace"))):
            ssh.stdin.write(b"y\r")
            ssh.stdin.flush()
            seen = b""


def ssh_command(call: Call) -> tuple[list[str], dict[str, str]]:
    """Return ssh's arguments and environment. Neither holds a secret."""
    options = call.option("ssh_options", "").split()
    for option in options:
        if not _SSH_OPTION.fullmatch(option):
            raise wire.Refused("invalid", f"ssh_options: {option}: not one of the algorithms")
    environment = {**ssh.ENVIRONMENT, "TERM": "vt100"}
    if "key_fd" in call.config:
        options += ssh.with_key(call)
    else:
        environment.update(_asked(call.secret()))
        options += ["PubkeyAuthentication=no", "IdentityFile=none", "NumberOfPasswordPrompts=1"]
    return ssh.command(call, "grpadmin", options, terminal=True), environment


def _asked(secret: str) -> dict[str, str]:
    """Return what lets ssh ask this program for the password, which lies in memory only."""
    memory = os.memfd_create("answer")
    os.fchmod(memory, 0o600)
    os.write(memory, secret.encode())
    return {
        "SSH_ASKPASS": os.path.abspath(sys.argv[0]),
        "SSH_ASKPASS_REQUIRE": "force",
        MEMORY: f"/proc/{os.getpid()}/fd/{memory}",
    }


def answer(arguments: Sequence[str]) -> str:
    """Return the password if ssh asks for it; this program is its SSH_ASKPASS then."""
    if len(arguments) != 1 or "assword" not in arguments[0]:
        return ""
    with open(os.environ[MEMORY], encoding="utf-8") as file:
        return file.read()
