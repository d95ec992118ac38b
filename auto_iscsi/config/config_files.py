"""What do the files say, all together?

/etc/auto.iscsi.conf, then /etc/auto.iscsi.conf.d/*.conf by name, as ordered sections of raw
values. How one file is read is syntax's business, what the values mean is settings'.

root mounts what these files say, so they are believed only when nobody but root can write them.
"""

from __future__ import annotations

import os
import stat

from auto_iscsi import errors
from auto_iscsi.config import file_cache
from auto_iscsi.lean_stdlib import TYPE_CHECKING, NamedTuple
from auto_iscsi.machine.host import Host

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Union

    Raw = Union[str, "list[str]"]

FILE = "/etc/auto.iscsi.conf"
FOLDER = "/etc/auto.iscsi.conf.d"
LARGEST = 1 << 20  #: bytes in a file; a thousand sections are a tenth of that


class Section(NamedTuple):
    """The settings of one section, as they were written."""

    glob: str  #: over target names, folded; "*" for what stands above a file's first section
    values: dict[str, Raw]
    file: str
    title: str  #: the section's name as it was written, "" above the first section
    line: int  #: of the section's header, 0 above the first section
    lines: dict[str, int]  #: of the settings

    def where(self, setting: str = "") -> str:
        """Return FILE:LINE of the section or of a setting of it."""
        return f"{self.file}:{self.lines[setting] if setting else self.line}"


class Problem(NamedTuple):
    """Something in the configuration that a person should mend."""

    kind: str  #: stable, for programs: see KINDS
    file: str
    line: int  #: 0: the whole file
    subject: str  #: the setting, the section in brackets, or ""
    text: str
    hint: str = ""

    @property
    def is_error(self) -> bool:
        """Say whether it keeps targets from being mounted; otherwise it is a warning."""
        return not KINDS[self.kind].startswith("warning: ")

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(filter(None, (place, self.subject, self.text)))


KINDS = {
    "unreadable": "the file cannot be read, or is no file: no target is mounted",
    "unsafe": "somebody other than root could have written the file: no target is mounted",
    "too-large": "the file is larger than 1 MiB: no target is mounted",
    "syntax": "the file cannot be parsed: no target is mounted",
    "unknown-setting": "there is no such setting: targets that the section matches are refused",
    "wrong-value": "the setting takes no such value: targets that the section matches are refused",
    "incomplete": "the setting needs another one: targets for which that is not set are refused",
    "secret": "a CHAP secret cannot be used: targets that need it are refused",
    "weak-secret": "warning: the CHAP secret's length is one that targets may refuse",
    "not-a-target": "warning: the section's name has no wildcard and is not a target's name",
    "never-matches": "warning: no target's name can match the section's pattern",
    "shadowed": "warning: later sections set all that this one sets, for all targets it matches",
}


def load(host: Host, remember: bool = True) -> list[Section]:
    """Return every section of every file, in order; raise BadConfiguration.

    With `remember`, what was parsed is kept for the next time (compiled).
    """
    seen = trusted(host)
    kept = file_cache.read(host, seen) if seen else []
    if kept is not None:
        return [Section._make(each) for each in kept]
    sections: list[Section] = []
    problems: list[Problem] = []
    for file, _ in seen:
        found, wrong = read(host, file)
        sections += found
        problems += wrong
    if problems:
        raise refusal(problems)
    if remember and file_cache.same(present(host), seen):
        file_cache.write(host, seen, [tuple(section) for section in sections])
    return sections


def names(host: Host) -> list[str]:
    """Return the names of the files that a lookup reads, in order, there or not."""
    return [FILE, *(f"{FOLDER}/{name}" for name in host.names(FOLDER) if name.endswith(".conf"))]


def present(host: Host) -> list[tuple[str, os.stat_result]]:
    """Return those of the files that are there, with what stat(2) says of them."""
    seen = ((name, host.stat(name)) for name in names(host))
    return [(name, status) for name, status in seen if status]


def trusted(host: Host) -> list[tuple[str, os.stat_result]]:
    """Return present(); raise BadConfiguration when others than root could have written one."""
    seen = present(host)
    problems = untrusted(host, seen)
    if problems:
        raise refusal(problems)
    return seen


def untrusted(host: Host, seen: Sequence[tuple[str, os.stat_result]]) -> list[Problem]:
    """Return which files others than root could have written, on the real machine."""
    if host.root != "/":
        return []
    folder = host.stat(FOLDER)
    return [
        problem
        for name, status in (*seen, *([(FOLDER, folder)] if folder else []))
        if (problem := unsafe(name, status))
    ]


def unsafe(name: str, status: os.stat_result, secret: bool = False) -> Problem | None:
    """Return what is wrong with a file's owner or mode; a `secret` is for root's eyes alone."""
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != 0:
        why = f"owned by user {status.st_uid}, so it is not used"
        return Problem("unsafe", name, 0, "", why, f"chown root {name}")
    if mode & 0o022:
        why = f"others than root can write it (mode {mode:04o}), so it is not used"
        return Problem("unsafe", name, 0, "", why, f"chmod go-w {name}")
    if secret and mode & 0o077:
        why = f"others than root can read it (mode {mode:04o}), so it is not used"
        return Problem("unsafe", name, 0, "", why, f"chmod 600 {name}")
    return None


def read(host: Host, file: str, shown: str = "") -> tuple[list[Section], list[Problem]]:
    """Return the sections of one file and what is wrong with it, under the name `shown`."""
    shown = shown or file
    try:
        status = host.stat(file)
        if status is None:
            return [], [Problem("unreadable", shown, 0, "", "no such file")]
        if not stat.S_ISREG(status.st_mode):
            return [], [Problem("unreadable", shown, 0, "", "not a regular file")]
        if status.st_size > LARGEST:
            why = f"{status.st_size} bytes, the limit is {LARGEST}"
            return [], [Problem("too-large", shown, 0, "", why)]
        data = host.read_bytes(file) or b""
    except errors.Failure as failure:
        why = failure.reason.partition(": ")[2]
        return [], [Problem("unreadable", shown, 0, "", why, failure.hint)]
    return parse(shown, data)


def parse(file: str, data: bytes) -> tuple[list[Section], list[Problem]]:
    """Return the sections of a file's content and what cannot be parsed.

    A section whose header is wrong has an empty glob, which matches nothing.
    """
    from auto_iscsi.config import syntax  # only where nothing was kept

    parts, faults = syntax.parse(data)
    sections = []
    for part in parts:
        glob = "*" if part.title == "" else (part.title or "").lower()
        values = part.values
        sections.append(Section(glob, values, file, part.title or "", part.line, part.lines))
    return sections, [Problem("syntax", file, *fault) for fault in faults]


def refusal(problems: Sequence[Problem]) -> errors.BadConfiguration:
    """Return the failure of a lookup that these problems stop: one line for the log."""
    first, more = problems[0], len(problems) - 1
    reason = f"{first} (and {more} more)" if more else f"{first}"
    return errors.BadConfiguration(reason, first.hint or "auto-iscsi check says what to mend")
