"""The map program: `auto.iscsi KEY`, run by automount, as root, with a key that any user chose.

argv[1] is the key and nothing else, whatever it looks like. The entry goes to stdout, alone; a
failure is one short line on stderr, which automount passes on to the log, and exit status 1.
"""

from __future__ import annotations

import os
import sys

from auto_iscsi import errors, keys
from auto_iscsi.lean_stdlib import TYPE_CHECKING
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from typing import Callable

    Find = Callable[[Host, str, Callable[[str], object]], str]

USAGE = 2
BUG = 3


def main(argv: list[str] | None = None, host: Host = Host()) -> int:  # noqa: B008 (immutable)
    """Print the entry for the key and return the exit status."""
    return run("auto.iscsi", "KEY", argv, host, _find)


def _find(host: Host, text: str, log: Callable[[str], object]) -> str:
    if "@" in text:  # no target's name has one
        from auto_iscsi.map import at_san

        return at_san.lookup(host, text, log)
    keys.parse(text)  # most wrong keys are refused before the rest is even imported
    from auto_iscsi.map import lookup  # here, so that a broken installation is one line, too

    return lookup.lookup(host, text, log)


def run(name: str, subject: str, argv: list[str] | None, host: Host, find: Find) -> int:
    """Print what `find` returns for the key, as the map program `name`; return the exit status."""

    def log(line: str) -> None:
        from auto_iscsi import wording  # a lookup that works says nothing

        os.write(2, f"{name}: {wording.one_line(line)}\n".encode("ascii"))

    def fail(line: str, status: int) -> int:
        log(line)
        return status

    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        return fail(f"usage: {name} {subject} (automount runs it; you want auto-iscsi(8))", USAGE)
    try:
        entry = find(host, arguments[0], log)
    except errors.Reported as failure:
        return fail(str(failure), 1)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        at = error.__traceback__
        while at and at.tb_next:
            at = at.tb_next
        where = f"{os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno}" if at else "?"
        return fail(f"a bug, please report it: {type(error).__name__}: {error} at {where}", BUG)
    os.write(1, f"{entry}\n".encode("ascii"))
    return 0
