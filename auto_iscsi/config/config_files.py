"""Read the configuration files into one list of sections.

The files are /etc/auto.iscsi.conf, and then /etc/auto.iscsi.conf.d/*.conf by name. A section here
has raw values: syntax parses one file, and schema gives the values a meaning.

root mounts what these files say, so they are used only if nobody but root can write them.
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

FILE, FOLDER = file_cache.FILE, file_cache.FOLDER
MAX_BYTES = 1 << 20  #: bytes of one file; a thousand sections take a tenth of it


class Section(NamedTuple):
    """A section with its raw values, and the file and lines that they come from."""

    glob: str  #: for folded target names; "*" for the settings above a file's first section
    values: dict[str, Raw]
    file: str
    title: str  #: the section's name as it was written, "" above the first section
    line: int  #: of the section's header, 0 above the first section
    lines: dict[str, int]  #: of the settings

    def where(self, setting: str) -> str:
        """Return FILE:LINE of one of its settings."""
        return f"{self.file}:{self.lines[setting]}"


class Problem(NamedTuple):
    """A mistake in the configuration, with its place."""

    kind: str  #: one of KINDS: stable, for programs
    file: str
    line: int  #: 0: the whole file
    subject: str  #: the setting, the section in brackets, or ""
    text: str
    hint: str = ""

    @property
    def is_error(self) -> bool:
        """Whether it keeps targets from being mounted; otherwise it is a warning."""
        return not KINDS[self.kind].startswith("warning: ")

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(filter(None, (place, self.subject, self.text)))


KINDS = {
    "unreadable": "the file cannot be read, or is not a regular file: no target is mounted",
    "unsafe": "users other than root can write the file: no target is mounted",
    "too-large": "the file is larger than 1 MiB: no target is mounted",
    "syntax": "the file cannot be parsed: no target is mounted",
    "unknown-setting": "there is no such setting: the targets of the section are refused",
    "wrong-value": "the setting does not take this value: the targets of the section are refused",
    "incomplete": "the setting requires another one: targets without that one are refused",
    "secret": "a CHAP secret, or a SAN's key, cannot be used: targets that need it are refused",
    "key-file": "a LUKS key file cannot be used: what it opens is refused",
    "weak-secret": "warning: many targets refuse a CHAP secret of this length",
    "not-a-target": "warning: the section's name is no target's name and has no wildcard",
    "never-matches": "warning: no target's name can match the section's pattern",
    "shadowed": "warning: later sections override all settings of this one, for all its targets",
}


def load(host: Host, remember: bool = True) -> list[Section]:
    """Return every section of every file, in order; raise BadConfiguration.

    With `remember` the sections are kept for the next time (file_cache).
    """
    files = list_trusted(host)
    cached = file_cache.read(host, files) if files else []
    if cached is not None:
        return [Section._make(values) for values in cached]
    sections: list[Section] = []
    problems: list[Problem] = []
    for name, _ in files:
        file_sections, file_problems = read(host, name)
        sections += file_sections
        problems += file_problems
    if problems:
        raise as_failure(problems)
    if remember and file_cache.are_same(file_cache.list_existing(host), files):
        file_cache.write(host, files, [tuple(section) for section in sections])
    return sections


def list_trusted(host: Host) -> file_cache.Files:
    """Return the files that exist; raise BadConfiguration when others than root can write one."""
    files = file_cache.list_existing(host)
    if problems := permission_problems(host, files):
        raise as_failure(problems)
    return files


def permission_problems(host: Host, files: file_cache.Files) -> list[Problem]:
    """Return a problem for each file that users other than root can write, if root is /."""
    guarded = file_cache.with_folder(host, files)
    problems = (permission_problem(name, status) for name, status in guarded)
    return [problem for problem in problems if problem]


def permission_problem(name: str, status: os.stat_result, secret: bool = False) -> Problem | None:
    """Return the problem with a file's owner or mode, if any; only root may read a `secret`."""
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != 0:
        why = f"not used: it belongs to user {status.st_uid}"
        return Problem("unsafe", name, 0, "", why, f"chown root {name}")
    if mode & 0o022:
        why = f"not used: users other than root can write it (mode {mode:04o})"
        return Problem("unsafe", name, 0, "", why, f"chmod go-w {name}")
    if secret and mode & 0o077:
        why = f"not used: users other than root can read it (mode {mode:04o})"
        return Problem("unsafe", name, 0, "", why, f"chmod 600 {name}")
    return None


def read(host: Host, file: str, shown: str = "") -> tuple[list[Section], list[Problem]]:
    """Return the sections of one file and the problems with it, reported under the name `shown`."""
    shown = shown or file
    try:
        status = host.stat(file)
        if status is None:
            return [], [Problem("unreadable", shown, 0, "", "no such file")]
        if not stat.S_ISREG(status.st_mode):
            return [], [Problem("unreadable", shown, 0, "", "not a regular file")]
        if status.st_size > MAX_BYTES:
            why = f"{status.st_size} bytes, the limit is {MAX_BYTES}"
            return [], [Problem("too-large", shown, 0, "", why)]
        data = host.read_bytes(file) or b""
    except errors.Failure as failure:
        why = failure.reason.partition(": ")[2]
        return [], [Problem("unreadable", shown, 0, "", why, failure.hint)]
    return parse(shown, data)


def parse(file: str, data: bytes) -> tuple[list[Section], list[Problem]]:
    """Return the sections of a file's content, and a problem for each place that cannot be parsed.

    A section whose header is wrong has an empty glob, which matches nothing.
    """
    from auto_iscsi.config import syntax  # imports configobj: only without a cache

    parts, faults = syntax.parse(data)
    sections = []
    for part in parts:
        glob = "*" if part.title == "" else (part.title or "").lower()
        values = part.values
        sections.append(Section(glob, values, file, part.title or "", part.line, part.lines))
    return sections, [Problem("syntax", file, *fault) for fault in faults]


def as_failure(problems: Sequence[Problem]) -> errors.BadConfiguration:
    """Return the failure of a lookup because of these problems: one line for the log."""
    first, more = problems[0], len(problems) - 1
    reason = f"{first} (and {more} more)" if more else f"{first}"
    return errors.BadConfiguration(reason, first.hint or "run auto-iscsi check")
