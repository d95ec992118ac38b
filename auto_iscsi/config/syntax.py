"""What does one file say?

ConfigObj's language (https://configobj.readthedocs.io), minus nesting and interpolation. The only
module that imports configobj.

Line numbers are ConfigObj's own: it keeps the comments and blank lines above each entry, so that
an entry's line is the sum of what stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, Union

from auto_iscsi import errors
from auto_iscsi.machine.host import find_libraries

Raw = Union[str, "list[str]"]

LONGEST = 4096  #: characters in a line; mount(2) takes no more for all options together

# ConfigObj's own expressions take exponential time for a list with blanks and an odd quote: 18
# members with two blanks before each, three minutes. The same language, but for quotes within
# quotes, in which no blank can be matched in two ways.
_EXPRESSIONS = {
    "_keyword": re.compile(r"""^(\s*)("[^"]*"|'[^']*'|[^'"=\s][^=]*?)\s*=\s*(.*)$"""),
    "_valueexp": re.compile(
        r"""^(?:((?:(?:"[^"]*"|'[^']*'|[^'",#\s](?:[^,#]*[^,#\s])?)\s*,\s*)*)"""
        r"""("[^"]*"|'[^']*'|[^'",#\s](?:[^,#]*[^,#\s])?|(?<!,))?|(,))\s*(\#.*)?$"""
    ),
}

# A header that ConfigObj refused is parsed again as this one, which no file can hold.
_PLACEHOLDER = "\0"


class Part(NamedTuple):
    """A section as it was written."""

    title: str | None  #: "" above the first section, None for one whose header is wrong
    line: int  #: of the header
    values: dict[str, Raw]
    lines: dict[str, int]  #: of the settings


class Fault(NamedTuple):
    """What cannot be parsed."""

    line: int
    subject: str  #: the setting or the header; "" for a whole line or file
    text: str


def parse(data: bytes) -> tuple[list[Part], list[Fault]]:
    """Return the sections of a file in order, and everything in it that cannot be parsed."""
    try:
        find_libraries()
        import configobj
    except ImportError as error:
        raise errors.BrokenInstallation(f"{error}", "install python3-configobj") from error
    lines, faults = _lines(data)
    if faults:
        return [], faults
    parser = type("Parser", (configobj.ConfigObj,), _EXPRESSIONS)
    while True:
        try:
            parsed = parser(list(lines), interpolation=False, list_values=True)
            break
        except configobj.ConfigObjError as error:
            found = error.errors
        # What stands below a wrong header would be blamed for standing in the section above:
        # headers first, then the rest.
        headers = [each for each in found if each.line.lstrip().startswith("[")]
        for each in headers or found:
            faults.append(_fault(str(each), each.line_number, each.line, lines))
        for each in headers or found:
            number = each.line_number
            lines[number - 1] = f'["{_PLACEHOLDER}{number}"]' if headers else ""
    parts = []
    for depth, part in _parts(parsed):
        if depth > 1:
            faults.append(Fault(part.line, f"[[{part.title}]]", _NESTED))
            part = part._replace(title=None)
        parts.append(part)
    return parts, sorted(faults)


def _lines(data: bytes) -> tuple[list[str], list[Fault]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        return [], [Fault(number, "", f"not UTF-8 (byte 0x{data[error.start]:02x})")]
    # Not splitlines(), which sees line ends where no editor does.
    lines = [line[:-1] if line.endswith("\r") else line for line in text.split("\n")]
    for number, line in enumerate(lines, 1):
        if control := re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
            why = f"not a text file (control character 0x{ord(control[0]):02x})"
            return [], [Fault(number, "", why)]
    long = [n for n, line in enumerate(lines, 1) if len(line) > LONGEST]
    return lines, [Fault(n, "", f"longer than {LONGEST} characters") for n in long]


def _parts(parsed: Any) -> Iterator[tuple[int, Part]]:
    """Yield every section and its depth, in the order of the lines."""
    line = len(parsed.initial_comment)
    todo = [("", parsed)]
    while todo:
        title, section = todo.pop()
        if section.depth:
            line += len(section.parent.comments[title]) + 1
        header, values, lines = line, {}, {}
        for name in section.scalars:
            line += len(section.comments[name]) + 1
            values[name], lines[name] = section[name], line
            if isinstance(values[name], str):
                line += values[name].count("\n")  # only triple quotes can hold any
        broken = title.startswith(_PLACEHOLDER)
        yield section.depth, Part(None if broken else title, header, values, lines)
        todo += [(name, section[name]) for name in reversed(section.sections)]


_NESTED = "sections do not nest; a pattern that begins with [ needs quotes"


def _fault(message: str, number: int, line: str, lines: list[str]) -> Fault:
    """Say it so that a person knows what to do."""
    plain = line.strip()
    if plain.startswith("["):
        inner = plain[1 : plain.rfind("]")].strip()
        if message.startswith("Cannot compute the section depth"):
            why = f'a pattern that begins or ends with a bracket needs quotes: ["{inner}"]'
        elif message.startswith("Duplicate"):
            same = [n for n, other in enumerate(lines, 1) if other.strip() == plain and n < number]
            why = "there is such a section in this file" + (f", line {same[0]}" if same else "")
        elif message.startswith("Invalid line"):
            why = "expected [PATTERN], and nothing behind it but a comment"
        else:
            why = _NESTED
        return Fault(number, plain, why)
    name = plain.partition("=")[0].strip()
    if message.startswith("Duplicate"):
        why = "set twice in this section"
    elif message.startswith("Parse error in multiline"):
        why = "the triple quotes are not closed, or something stands behind them"
    elif message.startswith("Parse error"):
        why = "quotes or commas that do not match up"
    else:
        return Fault(number, "", "neither [PATTERN] nor SETTING = VALUE")
    return Fault(number, name, why)
