"""What do the files say?

/etc/auto.iscsi.conf, then /etc/auto.iscsi.conf.d/*.conf by name, as ordered sections of raw
values. What the values mean is settings' business. The only module that imports configobj.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from auto_iscsi import errors
from auto_iscsi.host import Host

FILE = "/etc/auto.iscsi.conf"
FOLDER = "/etc/auto.iscsi.conf.d"


class Section(NamedTuple):
    """The settings of one section, as they were written."""

    glob: str  #: over target names, folded; "*" for what stands above a file's first section
    values: dict[str, str | list[str]]
    file: str
    title: str  #: the section's name as it was written, "" above the first section
    lines: tuple[str, ...]  #: of the whole file

    def where(self, setting: str) -> str:
        """Return FILE:LINE of a setting of this section."""
        title = ""
        for number, line in enumerate(self.lines, 1):
            if header := re.match(r"\s*\[\s*(.*?)\s*\]\s*(#.*)?$", line):
                title = header[1].strip("\"'")
            elif title == self.title and re.match(rf"\s*[\"']?{re.escape(setting)}\W*=", line):
                return f"{self.file}:{number}"
        return self.file


def load(host: Host) -> list[Section]:
    """Return every section of every file, in order; raise BadConfiguration."""
    sections: list[Section] = []
    drop_ins = [f"{FOLDER}/{name}" for name in host.names(FOLDER) if name.endswith(".conf")]
    for file in (FILE, *drop_ins):
        data = host.read_bytes(file)
        if data is not None:
            sections += _sections(file, data)
    return sections


def _sections(file: str, data: bytes) -> list[Section]:
    try:
        import configobj
    except ImportError as error:
        raise errors.BrokenInstallation(f"{error}", "install python3-configobj") from error
    try:
        lines = tuple(data.decode("utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise _unusable(f"{file}:{number}", "not UTF-8") from error
    try:
        parsed = configobj.ConfigObj(list(lines), interpolation=False, list_values=True)
    except configobj.ConfigObjError as error:
        first = (getattr(error, "errors", None) or [error])[0]
        at = getattr(first, "line_number", None)
        why = re.sub(r"\s*(?:at line|on line) \d+\.?.*|\.$", "", str(first))
        raise _unusable(f"{file}:{at}" if at else file, why) from error
    sections = [Section("*", {n: parsed[n] for n in parsed.scalars}, file, "", lines)]
    for title in parsed.sections:
        section = parsed[title]
        if section.sections:
            number = [line.lstrip()[:2] for line in lines].index("[[") + 1
            raise _unusable(f"{file}:{number}", f"[{title}]: sections do not nest")
        sections.append(Section(title.lower(), dict(section), file, title, lines))
    return sections


def _unusable(where: str, why: str) -> errors.BadConfiguration:
    return errors.BadConfiguration(f"{where}: {why}", "no target is mounted until it is mended")
