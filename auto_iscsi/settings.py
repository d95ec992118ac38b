"""What holds for this target, and which line said so?

One table of settings. Every section whose glob matches the target applies, in file order,
setting by setting: a later one overrides an earlier one. A wrong value or an unknown setting
refuses the targets that its section matches, and no others.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Union

from auto_iscsi import errors, portals
from auto_iscsi.config import Section

Raw = Union[str, "list[str]"]

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


def _device(raw: Raw) -> str:
    if (word := _word(raw)) not in ("by-path", "kernel"):
        raise ValueError("expected by-path or kernel")
    return word


class Setting(NamedTuple):
    """A setting: how it is read, what it is when nobody says, and what a person is told of it."""

    parse: Callable[[Raw], Any]
    default: Any
    values: str
    help: str


TABLE = {
    "enabled": Setting(
        _yes_no, True, "yes, no", "no: the key is refused before anything is asked of the network"
    ),
    "options": Setting(_options, ("nocheck", "ro"), "list of mount options", "mount options"),
    "fstype": Setting(_fstype, "ext3", "a filesystem type", "the type that is mounted"),
    "partition": Setting(
        _partition, 1, "number, none", "the partition that is mounted; none: the whole disk"
    ),
    "lun": Setting(_number(0, 16383), 0, "number", "the logical unit that is mounted"),
    "portals": Setting(
        _portals, (), "list of ADDRESS[:PORT], IPv6 in brackets",
        "where to look for a target that has no node record",
    ),
    "login_timeout": Setting(_time, 10.0, "time", "how long one portal has for a login"),
    "udev_timeout": Setting(
        _time, 10.0, "time", "how long the disk and its partition have to appear after the login"
    ),
    "lookup_timeout": Setting(_time, 60.0, "time", "the whole lookup, whatever happens"),
    "replacement_timeout": Setting(
        _time, 30.0, "time", "how long I/O waits for a lost session before it fails"
    ),
    "device": Setting(
        _device, "by-path", "by-path, kernel",
        "how the entry names the disk: a link that can only be this target's, or /dev/sdX",
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


def resolve(sections: Sequence[Section], target: str) -> Settings:
    """Return what holds for `target`, a folded name; raise BadConfiguration."""
    chosen = {name: setting.default for name, setting in TABLE.items()}
    for section in sections:
        if not applies(section, target):
            continue
        for name, raw in section.values.items():
            if name not in TABLE:
                raise _wrong(section, name, "no such setting" + _nearest(name))
            try:
                chosen[name] = TABLE[name].parse(raw)
            except ValueError as error:
                raise _wrong(section, name, str(error)) from None
    return Settings(**chosen)


def applies(section: Section, target: str) -> bool:
    """Say whether a section's glob matches `target`, a folded name.

    What stands before the first wildcard is compared first: compiling a pattern costs 60 µs.
    """
    literal = re.split(r"[*?\[]", section.glob, maxsplit=1)[0]
    return target.startswith(literal) and fnmatch.fnmatchcase(target, section.glob)


def _wrong(section: Section, name: str, why: str) -> errors.BadConfiguration:
    return errors.BadConfiguration(
        f"{section.where(name)}: {name}: {why}", "see auto.iscsi.conf(5)"
    )


def _nearest(name: str) -> str:
    import difflib  # only on the way to an error

    near = difflib.get_close_matches(name, TABLE, 1)
    return f", did you mean {near[0]}?" if near else ""
