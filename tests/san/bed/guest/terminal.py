"""A shell in the guest for a person at the host's terminal.

The master side of a pseudo-terminal is relayed over the agent's port, in both directions.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import Callable


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, argv: list[str], env: dict[str, str], rows: int, columns: int) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.chdir("/root")
            os.environ.update(
                {"HOME": "/root", "USER": "root", "LOGNAME": "root", "LANG": "C.UTF-8", **env}
            )
            # Python ignores SIGPIPE; a shell's programs expect it.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execvp(argv[0], argv)

    def type(self, keys: bytes) -> None:
        """Pass keys on to the program; drop them if it has ended."""
        with contextlib.suppress(OSError):
            os.write(self.master, keys)

    def relay(self, send: Callable[[bytes], None]) -> int:
        """Send the program's output until it ends; return its exit status."""
        while True:
            try:
                output = os.read(self.master, 1 << 14)
            except OSError:  # EIO: no process has the slave side open any more
                break
            if not output:
                break
            send(output)
        os.close(self.master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
