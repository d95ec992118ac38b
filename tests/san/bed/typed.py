"""What would a person at the guest's terminal see?

A bash on a pseudo-terminal, into which commands are typed at a person's pace. What it shows is
shown as it comes. Its prompt carries the last status in an escape sequence that terminals ignore
(OSC 133, as shells use it to mark prompts), which is how the end of a command is noticed.
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
RC = f"""PS1='{PROMPT}'
bind 'set enable-bracketed-paste off'
"""
KEY = 0.012
BREATH = 0.6


class Shown(NamedTuple):
    """What a typed command did."""

    status: int
    text: str


class Typed:
    """A shell into which commands are typed."""

    def __init__(self, vm: Machine, *, quick: bool = False) -> None:
        self.vm, self.quick = vm, quick
        self.seen = bytearray()
        self.shown = self.released = 0
        self.changed = threading.Condition()
        vm.write("/run/bed-typed", RC)
        # Wide: the real terminal wraps lines better than a shell that thinks it has to.
        size = os.terminal_size((1000, 24))
        self.number, self.ended = vm.terminal(
            ["bash", "--noprofile", "--rcfile", "/run/bed-typed", "-i"],
            size,
            self._take,
            {"TERM": "dumb"},
        )
        self._prompt(0, 30)

    def command(self, line: str, timeout: float = 60) -> Shown:
        """Type a command and return what it did, when the next prompt is there."""
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
        return Shown(status, output.replace("\r", "").partition("\n")[2])

    def _prompt(self, before: int, timeout: float) -> int:
        """Wait for one more prompt than there were; return the status that it carries."""
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
        """Show what comes, the marks left out; called by the channel's thread."""
        with self.changed:
            self.seen += output
            self._show()
            self.changed.notify_all()

    def _show(self) -> None:
        """Show all but the prompt for the next command, before which something may be said."""
        end = len(self.seen)
        held = list(MARK.finditer(self.seen))[self.released :]
        cut = self.seen.rfind(b"\x1b", self.shown)
        if held:
            end = held[0].start()
        elif cut >= 0 and not MARK.match(self.seen, cut):
            end = cut  # a mark that has come in part
        visible = MARK.sub(b"", bytes(self.seen[self.shown : end]))
        sys.stdout.write(visible.replace(b"\r", b"").decode(errors="replace"))
        sys.stdout.flush()
        self.shown = max(self.shown, end)
