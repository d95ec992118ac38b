"""What holds for this target, and which line said so?

One table of settings: a row there and a field of Settings is all that a new one needs; the parser,
`auto-iscsi explain --settings`, the example file and the man page come from it or are held
against it.

Every section whose glob matches the target applies, in file order, setting by setting: a later one
overrides an earlier one. A wrong value or an unknown setting refuses the targets that its section
matches, and no others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

from auto_iscsi import config, globs, portals
from auto_iscsi.config import Raw, Section

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_WORDS = {"yes": True, "true": True, "on": True, "1": True}
_WORDS.update({"no": False, "false": False, "off": False, "0": False})

# autofs hands an entry's options to mount(8) as they are; white space would end them, a comma
# or a quote would change what they say (autofs lib/cat_path.c, modules/parse_sun.c).
_OPTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@%+=-]*")


def _word(raw: Raw) -> str:
    if isinstance(raw, list):
        raise ValueError("one value expected, not a list")
    return raw.strip()


def _yes_no(raw: Raw) -> bool:
    if (word := _word(raw).lower()) not in _WORDS:
        raise ValueError("expected yes or no")
    return _WORDS[word]


def _time(raw: Raw) -> float:
    if not (match := re.fullmatch(r"([0-9]{1,6})\s*([smh]?)", _word(raw), re.ASCII)):
        raise ValueError("expected a time: 10, 10s, 5m or 2h")
    if not (seconds := int(match[1]) * _UNITS[match[2]]):
        raise ValueError("expected a time above 0")
    return float(seconds)


def _number(lowest: int, highest: int) -> Callable[[Raw], int]:
    def parse(raw: Raw) -> int:
        word = _word(raw)
        if not re.fullmatch(r"[0-9]{1,6}", word, re.ASCII) or not lowest <= int(word) <= highest:
            raise ValueError(f"expected a number from {lowest} to {highest}")
        return int(word)

    return parse


def _partition(raw: Raw) -> int:
    return 0 if _word(raw).lower() == "none" else _number(1, 255)(raw)


def _list(raw: Raw) -> list[str]:
    return [part.strip() for part in ([raw] if isinstance(raw, str) else raw) if part.strip()]


def _options(raw: Raw) -> tuple[str, ...]:
    for option in (found := tuple(_list(raw))):
        if not _OPTION.fullmatch(option):
            raise ValueError(f"{option!r} is not a mount option: no spaces, no quotes")
        if option.startswith("fstype="):
            raise ValueError("the filesystem's type has a setting of its own: fstype")
    return found


def _fstype(raw: Raw) -> str:
    if not re.fullmatch(r"[a-z0-9_.-]{1,32}", word := _word(raw), re.ASCII) or word == "auto":
        raise ValueError("expected the name of a filesystem type, such as ext3 or xfs")
    return word


def _portals(raw: Raw) -> tuple[portals.Portal, ...]:
    found = []
    for text in _list(raw):
        try:
            found.append(portals.parse(text))
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
    return tuple(found)


def _one_of(*words: str) -> Callable[[Raw], str]:
    def parse(raw: Raw) -> str:
        if (word := _word(raw)) not in words:
            raise ValueError(f"expected {' or '.join(words)}")
        return word

    return parse


def _said(value: Any) -> str:
    """Return a value as the file would have it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        seconds = round(value)
        for unit, size in (("h", 3600), ("m", 60)):
            if seconds > 60 and seconds % size == 0:
                return f"{seconds // size}{unit}"
        return f"{seconds}s"
    return str(value)


class Setting(NamedTuple):
    """A setting: how it is read, what it is when nobody says, and what a person is told of it."""

    parse: Callable[[Raw], Any]
    default: Any
    values: str
    help: str
    example: str
    said: Callable[[Any], str] = _said  #: a value as the file would have it


TABLE = {
    "enabled": Setting(
        _yes_no, True, "yes, no", "no: the key is refused before anything is asked of the network",
        "no",
    ),
    "options": Setting(
        _options, ("nocheck", "ro"), "list of mount options", "mount options", "ro, nosuid, nodev"
    ),
    "fstype": Setting(_fstype, "ext3", "a filesystem type", "the type that is mounted", "xfs"),
    "partition": Setting(
        _partition, 1, "number, none", "the partition that is mounted; none: the whole disk",
        "none", lambda number: str(number or "none"),
    ),
    "lun": Setting(_number(0, 16383), 0, "number", "the logical unit that is mounted", "3"),
    "portals": Setting(
        _portals, (), "list of ADDRESS[:PORT], IPv6 in brackets",
        "where to look for a target that has no node record", "10.0.0.1, [fd00::1]:3260",
    ),
    "login_timeout": Setting(_time, 10.0, "time", "how long one portal has for a login", "5s"),
    "udev_timeout": Setting(
        _time, 10.0, "time", "how long the disk and its partition have to appear after the login",
        "30s",
    ),
    "lookup_timeout": Setting(_time, 60.0, "time", "the whole lookup, whatever happens", "2m"),
    "replacement_timeout": Setting(
        _time, 30.0, "time", "how long I/O waits for a lost session before it fails", "5s"
    ),
    "device": Setting(
        _one_of("by-path", "kernel"), "by-path", "by-path, kernel",
        "how the entry names the disk: a link that can only be this target's, or /dev/sdX",
        "kernel",
    ),
}  # fmt: skip


class Settings(NamedTuple):
    """What holds for one target. Times are seconds."""

    enabled: bool
    options: tuple[str, ...]
    fstype: str
    partition: int  #: 0: the whole disk
    lun: int
    portals: tuple[portals.Portal, ...]
    login_timeout: float
    udev_timeout: float
    lookup_timeout: float
    replacement_timeout: float
    device: str


class Choice(NamedTuple):
    """What holds for one setting of one target."""

    value: Any
    section: Section | None  #: that said so; None: nobody did

    def where(self, name: str) -> str:
        """Return FILE:LINE of the line that said so."""
        return self.section.where(name) if self.section else "built in"


def resolve(sections: Sequence[Section], target: str) -> Settings:
    """Return what holds for `target`, a folded name; raise BadConfiguration."""
    return Settings(**{name: choice.value for name, choice in choices(sections, target).items()})


def choices(sections: Sequence[Section], target: str) -> dict[str, Choice]:
    """Return what holds for `target`, a folded name, and who said so; raise BadConfiguration."""
    found = {name: Choice(setting.default, None) for name, setting in TABLE.items()}
    wrong: list[config.Problem] = []
    for section in sections:
        if globs.matches(section.glob, target):
            values, problems = read(section)
            wrong += problems
            for name, value in values.items():
                found[name] = Choice(value, section)
    if wrong:
        raise config.refusal(wrong)
    return found


def read(section: Section) -> tuple[dict[str, Any], list[config.Problem]]:
    """Return the values of a section and what is wrong in it."""
    values, problems = {}, []
    for name, raw in section.values.items():
        kind, why = "wrong-value", ""
        if name not in TABLE:
            kind, why = "unknown-setting", "no such setting" + _nearest(name)
        else:
            try:
                values[name] = TABLE[name].parse(raw)
            except ValueError as error:
                why = str(error)
        if why:
            problems.append(config.Problem(kind, section.file, section.lines[name], name, why))
    return values, problems


def _nearest(name: str) -> str:
    import difflib  # only on the way to an error

    near = difflib.get_close_matches(name.lower(), TABLE, 1)
    return f", did you mean {near[0]}?" if near else "; auto-iscsi explain --settings lists them"
