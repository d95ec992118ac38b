"""Read the text in which LVM describes a volume group, and trust none of it.

It is the format of lvm.conf(5): sections in braces, and values that are numbers, strings or lists
(LVM2 libdm/libdm-config.c). A section's values are taken out with a check of each.
"""

from __future__ import annotations

import re

from auto_iscsi.lean_stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_DEEPEST = 16  # sections within sections
_NAME = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]{0,126}\Z")  # lvm(8), VALID NAMES
_TOKEN = re.compile(r"""[\s,]+|\#[^\n]*|(?P<token>[{}=\[\]"]|[^\s,{}=\[\]"#]+)""")
_QUOTE = re.compile(r"""["\\]""")


class Malformed(ValueError):
    """The metadata is not what LVM writes."""


def parse(text: str) -> dict[str, Any]:
    """Return LVM's text as nested dictionaries; raise Malformed.

    A value is a string, an integer, or a list of them. A number that is no integer stays a string.
    """
    tokens = _tokens(text)
    root: dict[str, Any] = {}
    open_sections = [root]
    for token in tokens:
        section = open_sections[-1]
        if token == "}":
            if len(open_sections) == 1:
                raise Malformed("a section that was not opened is closed")
            open_sections.pop()
            continue
        if token in "{=[]" or token[:1] == '"' or token in section:
            raise Malformed(f"unexpected {printable(token)}")
        following = next(tokens, "")
        if following == "{":
            if len(open_sections) > _DEEPEST:
                raise Malformed("sections are too deep")
            section[token] = {}
            open_sections.append(section[token])
        elif following == "=":
            section[token] = _value(tokens, next(tokens, ""))
        else:
            raise Malformed(f"unexpected {printable(following)}")
    if len(open_sections) > 1:
        raise Malformed("a section has no end")
    return root


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise Malformed(f"unexpected {printable(text[at : at + 20])}")
        end = _end_of_string(text, at) if match["token"] == '"' else match.end()
        if match["token"]:
            yield text[at:end]
        at = end


def _end_of_string(text: str, start: int) -> int:
    """Return where the string ends that begins at `start`; raise Malformed.

    A regular expression for the whole string would take a hundred times its length in memory.
    """
    at = start + 1
    while (match := _QUOTE.search(text, at)) and match[0] != '"':
        at = match.end() + 1
    if not match:
        raise Malformed(f"unexpected {printable(text[start : start + 20])}")
    return match.end()


def _value(tokens: Iterator[str], token: str) -> Any:
    if token == "[":
        members = []
        while (token := next(tokens, "")) != "]":
            members.append(_scalar(token))
        return members
    return _scalar(token)


def _scalar(token: str) -> str | int:
    if token[:1] == '"':
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    if not token or token in "{}=[]":
        raise Malformed(f"unexpected {printable(token)}")
    return int(token) if re.fullmatch(r"-?[0-9]{1,20}", token) else token


def sections(section: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Return the sections within a section of this name, by their names; none if it is missing."""
    inner = section.get(name, {})
    if not isinstance(inner, dict) or not all(isinstance(v, dict) for v in inner.values()):
        raise Malformed(f"{name} is no section of sections")
    return inner


def number(section: dict[str, Any], name: str, lowest: int, highest: int) -> int:
    value = section.get(name)
    if not isinstance(value, int) or not lowest <= value <= highest:
        raise Malformed(f"{name} is {printable(value)}")
    return value


def words(section: dict[str, Any], name: str) -> list[str]:
    value = section.get(name, [])
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def uuid(section: dict[str, Any]) -> str:
    value = section.get("id")
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9!#-]{32,40}", value):
        raise Malformed(f"id is {printable(value)}")
    return value.replace("-", "")


def valid_name(name: str) -> str:
    if not _NAME.match(name) or name in (".", ".."):
        raise Malformed(f"{printable(name)} is no name")
    return name


def printable(value: object) -> str:
    return repr(value)[:60]
