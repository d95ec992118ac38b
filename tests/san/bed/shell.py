"""Open a root shell in the guest, on this terminal.

The SAN presents a few snapshots, and their node records exist. The machine is discarded afterwards.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from pathlib import Path

from . import demo, layers
from .machine import Machine
from .san import San

BANNER = """
A Debian {suite} with an iSCSI SAN inside; {package}.
The SAN (127.0.0.1) presents these targets, and node records exist for them:
{targets}
Try:  cd /iscsiauto/<one of them>     journalctl -fu autofs     iscsiadm -m session
`exit` discards the machine.
"""


def relay(vm: Machine) -> int:
    """Connect this terminal with a login shell in the guest; return the shell's status."""
    keyboard = sys.stdin.fileno()
    terminal = os.isatty(keyboard)
    size = os.get_terminal_size(keyboard) if terminal else os.terminal_size((80, 24))
    reading, writing = os.pipe()

    def show(output: bytes) -> None:
        os.write(1, output)

    environment = {"TERM": os.environ.get("TERM", "linux")}
    number, ended = vm.terminal(["bash", "-l", "-i"], size, show, environment)
    ended.add_done_callback(lambda _: os.close(writing))
    before = termios.tcgetattr(keyboard) if terminal else None
    try:
        if terminal:
            tty.setraw(keyboard)
        pump(vm, number, keyboard, reading)
    finally:
        if before is not None:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        os.close(reading)
    return int(ended.result().header.get("status", 1))


def pump(vm: Machine, number: int, keyboard: int, reading: int) -> None:
    """Pass the typed keys on until the shell has ended."""
    import select

    watched = [keyboard, reading]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if reading in ready:
            return
        typed = os.read(keyboard, 1024)
        vm.keys(number, typed or b"\x04")
        if not typed:
            watched.remove(keyboard)


def run(deb: Path | None, suite: str | None) -> int:
    """Resume a machine and open a shell in it."""
    layer = layers.installed(deb, suite) if deb else layers.booted(suite)
    package = f"{deb.name} is installed" if deb else "nothing of the project is installed"
    with layer.resumed() as vm:
        demo.present(San(vm))
        listed = vm.discover().splitlines()
        targets = "\n".join("  " + line.split()[1] for line in listed)
        print(BANNER.format(suite=layer.suite, package=package, targets=targets), flush=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return relay(vm)
