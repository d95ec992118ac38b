"""Report on stderr what the bed is doing.

Each line has the seconds since the start; a long step reports about every ten seconds that it still
runs. pytest captures stderr, so the fixtures suspend that while the bed is built.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

BEGAN = time.monotonic()
EVERY = 9.0


class Failed(Exception):
    """A program that the bed needs has failed; the text holds the end of its output."""


def say(text: str) -> None:
    """Print a line with the elapsed seconds."""
    print(f"[{time.monotonic() - BEGAN:5.1f} s] bed: {text}", file=sys.stderr, flush=True)


def run(
    argv: Sequence[str | Path],
    what: str,
    *,
    log: Path,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a program with its output in a log file, and report that it still runs."""
    say(what)
    began = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
        )
        pending: bytes | None = stdin
        try:
            while True:
                try:
                    process.communicate(pending, timeout=EVERY)
                    break
                except subprocess.TimeoutExpired:
                    pending = None
                    say(f"… {what}, for {time.monotonic() - began:.0f} s: {last_line(log)}")
        except BaseException:
            process.terminate()  # mmdebstrap cleans up after itself on SIGTERM
            process.wait()
            raise
    if process.returncode:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise Failed(f"{argv[0]} ended with {process.returncode}:\n{end}")


def last_line(log: Path) -> str:
    """Return the last line of a log, cut to fit a terminal."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].rsplit("\r", 1)[-1][:60] if lines else ""
