"""Parse the setting `snapshot_name`: templates that take a snapshot's name apart.

A template is a target's name with a place for the volume and one for the time:

    *:{volume}-{date:%Y-%m-%d-%H:%M:%S}.*

`*` and `?` are as in a section's name, `{hex}` is a number in hexadecimal digits. `{date:…}` is a
local time in the form of strftime(3), in the time zone that the setting `timezone` names; `{utc:…}`
is one in UTC. Names are compared in lower case (keys).
"""

from __future__ import annotations

from auto_iscsi.lean_stdlib import NamedTuple

ANY, ONE, LITERAL, HEX = "*", "?", "literal", "hex"
VOLUME, DATE, UTC = "volume", "date", "utc"

#: By directive of strftime(3): what stands for it in a name, as a regular expression.
DIRECTIVES = {
    "Y": "[0-9]{4}",
    "y": "[0-9]{2}",
    "m": "[0-9]{2}",
    "b": "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)",
    "d": "[0-9]{2}",
    "j": "[0-9]{3}",
    "H": "[0-9]{2}",
    "I": "[0-9]{2}",
    "p": "(?:am|pm)",
    "M": "[0-9]{2}",
    "S": "[0-9]{2}",
    "f": "[0-9]{1,6}",
    "s": "[0-9]{9,11}",
}

#: Sets of directives of which a format must have one, so that it names a day.
_DAYS = ("Ymd", "ymd", "Ybd", "ybd", "Yj", "yj", "s")

#: The characters of a volume's name. A colon is not among them: it ends the part before the volume.
VOLUME_CHARACTERS = "[a-z0-9._-]"


class Part(NamedTuple):
    """A part of a template."""

    kind: str  #: ANY, ONE, LITERAL, HEX, VOLUME, DATE or UTC
    text: str = ""  #: of a LITERAL, the characters; of a DATE or UTC, the format


def parse(template: str) -> tuple[Part, ...]:
    """Return the parts of a template, folded to lower case; raise ValueError."""
    parts: list[Part] = []
    at = 0
    while at < len(template):
        character = template[at]
        if character in "*?":
            parts.append(Part(character))
            at += 1
        elif character == "{":
            end = template.find("}", at)
            if end < 0:
                raise ValueError(f"{template!r} has a {{ without its }}")
            parts.append(_place(template[at + 1 : end]))
            at = end + 1
        else:
            after = min((i for c in "*?{" if (i := template.find(c, at)) >= 0), default=None)
            parts.append(Part(LITERAL, template[at:after].lower()))
            at = len(template) if after is None else after
    kinds = [part.kind for part in parts]
    if kinds.count(VOLUME) != 1:
        raise ValueError(f"{template!r} needs {{volume}} once")
    if kinds.count(DATE) + kinds.count(UTC) != 1:
        raise ValueError(f"{template!r} needs {{date:FORMAT}} or {{utc:FORMAT}} once")
    return tuple(parts)


def _place(text: str) -> Part:
    """Return the part that stands in braces; raise ValueError."""
    name, colon, form = text.partition(":")
    if text in (VOLUME, HEX):
        return Part(text)
    if name not in (DATE, UTC) or not colon:
        raise ValueError(
            f"{{{text}}} is not {{volume}}, {{hex}}, {{date:FORMAT}} or {{utc:FORMAT}}"
        )
    letters = directives(form)
    if unknown := letters.strip("".join(DIRECTIVES)):
        known = " ".join(f"%{letter}" for letter in DIRECTIVES)
        raise ValueError(f"%{unknown[0]} is not one of {known}")
    if not any(set(day) <= set(letters) for day in _DAYS):
        raise ValueError(f"{{{text}}} does not name a day: %Y %m %d, for example, or %s")
    if len(set(letters)) < len(letters):
        raise ValueError(f"{{{text}}} has a part of the time twice")
    return Part(name, form)


def directives(form: str) -> str:
    """Return the letters of the directives in a format; raise ValueError."""
    letters = ""
    at = form.find("%")
    while at >= 0:
        if at + 1 == len(form):
            raise ValueError(f"{form!r} ends with %")
        letters += form[at + 1]
        at = form.find("%", at + 2)
    return letters


def is_ambiguous(parts: tuple[Part, ...]) -> bool:
    """Tell whether a name could be taken apart by this template in more than one way.

    It could if the text between the volume and a `*` beside it has only characters that a volume's
    name can have, or if the text between the volume and a `{hex}` has only hexadecimal digits.
    """
    at = [part.kind for part in parts].index(VOLUME)
    for side in (parts[:at][::-1], parts[at + 1 :]):
        is_apart = False  # from a {hex}
        for part in side:
            if part.kind == ANY or (part.kind == HEX and not is_apart):
                return True
            is_apart |= part.kind == LITERAL and not set(part.text) <= set("0123456789abcdef")
            if part.kind in (DATE, UTC) or (part.kind == LITERAL and ":" in part.text):
                break
    return False
