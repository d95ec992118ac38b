"""Parse one configuration file.

The language is ConfigObj's (https://configobj.readthedocs.io) without nesting and interpolation.
This is the only module that imports configobj.

ConfigObj does not tell the line of an entry, but it keeps the comments and blank lines above each:
entries, comments and blank lines are counted from the start of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, Union

from auto_iscsi import errors
from auto_iscsi.machine import libraries

Raw = Union[str, "list[str]"]

LONGEST_LINE = 4096  #: characters of a line; mount(2) takes no more for all options together

# ConfigObj's own expressions take exponential time for a list with blanks and an odd quote: three
# minutes for 18 members with two blanks before each. In these no blank can be matched in two ways;
# the language is the same, except that they take no quotes within quotes.
_EXPRESSIONS = {
    "_keyword": re.compile(r"""^(\s*)("[^"]*"|'[^']*'|[^'"=\s][^=]*?)\s*=\s*(.*)$"""),
    "_valueexp": re.compile(
        r"""^(?:((?:(?:"[^"]*"|'[^']*'|[^'",#\s](?:[^,#]*[^,#\s])?)\s*,\s*)*)"""
        r"""("[^"]*"|'[^']*'|[^'",#\s](?:[^,#]*[^,#\s])?|(?<!,))?|(,))\s*(\#.*)?$"""
    ),
}

# A header that ConfigObj refused is replaced by this one, which no file can contain.
_PLACEHOLDER = "\0"


class Part(NamedTuple):
    """A section of one file, with its raw values and their lines."""

    title: str | None  #: "" above the first section, None for one whose header is wrong
    line: int  #: of the header
    values: dict[str, Raw]
    lines: dict[str, int]  #: of the settings


class Fault(NamedTuple):
    """A place that cannot be parsed, and why."""

    line: int
    subject: str  #: the setting or the header; "" for a whole line or file
    text: str


def parse(data: bytes) -> tuple[list[Part], list[Fault]]:
    """Return the sections of a file in order, and a fault for each place that cannot be parsed."""
    try:
        libraries.make_importable()
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
            refused = error.errors
        # Below a wrong header, settings would count as duplicates of those in the section above:
        # so headers are mended first, then the rest.
        headers = [line for line in refused if line.line.lstrip().startswith("[")]
        for line in headers or refused:
            faults.append(_fault(str(line), line.line_number, line.line, lines))
        for line in headers or refused:
            number = line.line_number
            lines[number - 1] = f'["{_PLACEHOLDER}{number}"]' if headers else ""
    parts = []
    for depth, part in _parts(parsed):
        if depth > 1:
            faults.append(Fault(part.line, f"[[{part.title}]]", _NESTED))
            part = part._replace(title=None)
        parts.append(part)
    return parts, sorted(faults)


def _lines(data: bytes) -> tuple[list[str], list[Fault]]:
    """Return the lines of a file, and the faults because of which it is not parsed at all."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        return [], [Fault(number, "", f"not UTF-8 (byte 0x{data[error.start]:02x})")]
    # Not splitlines(): it also splits at characters that no editor shows as a line end.
    lines = [line[:-1] if line.endswith("\r") else line for line in text.split("\n")]
    for number, line in enumerate(lines, 1):
        if control := re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
            why = f"not a text file (control character 0x{ord(control[0]):02x})"
            return [], [Fault(number, "", why)]
    long = [n for n, line in enumerate(lines, 1) if len(line) > LONGEST_LINE]
    return lines, [Fault(n, "", f"longer than {LONGEST_LINE} characters") for n in long]


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
    """Return the fault that a message of ConfigObj's stands for, in words that help to mend it."""
    plain = line.strip()
    if plain.startswith("["):
        inner = plain[1 : plain.rfind("]")].strip()
        if message.startswith("Cannot compute the section depth"):
            why = f'a pattern that begins or ends with a bracket needs quotes: ["{inner}"]'
        elif message.startswith("Duplicate"):
            same = [n for n, other in enumerate(lines, 1) if other.strip() == plain and n < number]
            why = "the file has this section already" + (f", line {same[0]}" if same else "")
        elif message.startswith("Invalid line"):
            why = "expected [PATTERN], and after it nothing but a comment"
        else:
            why = _NESTED
        return Fault(number, plain, why)
    name = plain.partition("=")[0].strip()
    if message.startswith("Duplicate"):
        why = "set twice in this section"
    elif message.startswith("Parse error in multiline"):
        why = "the triple quotes are not closed, or text follows them"
    elif message.startswith("Parse error"):
        why = "quotes or commas do not match up"
    else:
        return Fault(number, "", "neither [PATTERN] nor SETTING = VALUE")
    return Fault(number, name, why)
