"""Type commands into a shell in the guest, at a person's pace, and show its output.

The shell is a bash on a pseudo-terminal. Its prompt has the last exit status in an escape sequence
that terminals ignore (OSC 133, with which shells mark prompts); so the end of a command is noticed.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from typing import NamedTuple

from .machine import Machine

PROMPT = r"\[\e]133;$?\a\]root@browse:\W# "
MARK = re.compile(rb"\x1b\]133;(\d+)\x07")
#: The escape sequences by which programs clear a line and colour it.
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
RC = f"""PS1='{PROMPT}'
bind 'set enable-bracketed-paste off'
"""
KEY = 0.012
BREATH = 0.6


class Shown(NamedTuple):
    """The exit status and the output of a typed command, and the prompt before it."""

    status: int
    text: str
    prompt: str


def settled(output: str) -> str:
    """Return output as it stays on a terminal: without what was overwritten in its line."""
    lines = output.replace("\r\n", "\n").split("\n")
    return "\n".join(CONTROL.sub("", line.rpartition("\r")[2]) for line in lines)


class Typed:
    """A shell into which commands are typed."""

    def __init__(self, vm: Machine, *, quick: bool = False) -> None:
        self.vm, self.quick = vm, quick
        self.seen = bytearray()
        self.shown = self.released = 0
        self.changed = threading.Condition()
        vm.write("/run/bed-typed", RC)
        # Wide, so that the real terminal wraps the lines and not the shell.
        size = os.terminal_size((1000, 24))
        self.number, self.ended = vm.terminal(
            ["bash", "--noprofile", "--rcfile", "/run/bed-typed", "-i"],
            size,
            self._take,
            {"TERM": "dumb"},
        )
        self._prompt(0, 30)

    def command(self, line: str, timeout: float = 60) -> Shown:
        """Type a command, wait for the next prompt, and return status and output."""
        time.sleep(0 if self.quick else BREATH)
        with self.changed:
            before, prompts = len(self.seen), len(MARK.findall(self.seen))
            self.released = prompts
            self._show()
        for key in line:
            self.vm.keys(self.number, key.encode())
            time.sleep(0 if self.quick else KEY)
        self.vm.keys(self.number, b"\n")
        status = self._prompt(prompts, timeout)
        output = MARK.split(bytes(self.seen[before:]))[0].decode(errors="replace")
        prompt = re.split(MARK, bytes(self.seen[:before]))[-1].decode(errors="replace")
        return Shown(status, settled(output).partition("\n")[2], prompt)

    def _prompt(self, before: int, timeout: float) -> int:
        """Wait until there are more than `before` prompts; return the status in the last one."""
        with self.changed:
            if not self.changed.wait_for(
                lambda: len(MARK.findall(self.seen)) > before and self.seen.endswith(b"# "), timeout
            ):
                raise TimeoutError(
                    f"no prompt after {timeout:g} s; last seen:\n"
                    + self.seen[-500:].decode(errors="replace")
                )
            return int(MARK.findall(self.seen)[-1])

    def _take(self, output: bytes) -> None:
        """Take new output and show it; called by the thread of the channel."""
        with self.changed:
            self.seen += output
            self._show()
            self.changed.notify_all()

    def _show(self) -> None:
        """Show the output without its marks, up to the prompt for the next command."""
        end = len(self.seen)
        held = list(MARK.finditer(self.seen))[self.released :]
        cut = self.seen.rfind(b"\x1b", self.shown)
        if held:
            end = held[0].start()
        elif cut >= 0 and not MARK.match(self.seen, cut):
            end = cut  # only the beginning of a mark has arrived
        visible = MARK.sub(b"", bytes(self.seen[self.shown : end]))
        sys.stdout.write(visible.replace(b"\r", b"").decode(errors="replace"))
        sys.stdout.flush()
        self.shown = max(self.shown, end)
